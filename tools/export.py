"""Export a run's weights for timm: OUT/model.safetensors, OUT/config.json, and a model card, OUT/README.md.

python tools/export.py runs/vit_b_in1k exports/vit_b_in1k [--push-to-hub me/vit_b_in1k]
"""

from __future__ import annotations

import argparse
import re

from sar_dist.command_help import TerminalHelp, given_path, whole_number
from sar_dist.program import run_tool


def main() -> None:
    """Parse, export, say what was exported and how to load it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=TerminalHelp)
    parser.add_argument("run", type=given_path, metavar="RUN", help="run directory, or one of its checkpoint folders")
    parser.add_argument("out", type=given_path, metavar="OUT", help="folder to create")
    parser.add_argument(
        "--step",
        type=whole_number(0, 2**53),
        help="the checkpoint after this optimizer step; default: the newest intact",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ema", action="store_true", help="the moving average (the default if the run kept one)")
    which.add_argument("--live", action="store_true", help="the weights themselves (the default otherwise)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the stored tensors; default: float32",
    )
    parser.add_argument(
        "--license",
        type=_license,
        default="unknown",
        metavar="ID",
        help="of the weights, for the model card, such as apache-2.0",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="upload the folder to the Hugging Face hub, such as me/vit_b_in1k; a new repository is private",
    )
    parser.add_argument("--public", action="store_true", help="with --push-to-hub: a new repository is public")
    arguments = parser.parse_args()
    if arguments.public and not arguments.push_to_hub:
        parser.error("--public goes with --push-to-hub")

    from sar_dist.models import DTYPES, NO_SKIP_ARCHITECTURE, PROVENANCE_KEY, export_run  # slow
    from sar_dist.reports import check_hub, push_to_hub, write_card

    if arguments.push_to_hub:
        check_hub(arguments.push_to_hub)
    ema = True if arguments.ema else False if arguments.live else None
    export = export_run(arguments.run, arguments.out, step=arguments.step, ema=ema, dtype=DTYPES[arguments.dtype])

    is_checkpoint = not (arguments.run / "config.json").is_file()
    run = arguments.run.resolve().parent.parent if is_checkpoint else arguments.run
    plain_timm = export.config["architecture"] != NO_SKIP_ARCHITECTURE
    write_card(run, export.folder, plain_timm=plain_timm, licence=arguments.license)

    source = export.config[PROVENANCE_KEY]
    weights = "moving average of the weights" if source["ema"] else "live weights"
    action = "wrote" if export.written else "is there already:"
    print(f"{action} {export.folder}: {weights} of {source['run']} after step {source['step']}, {source['dtype']}")
    needs = "" if plain_timm else "import sar_dist.models; "
    print(f'load with: {needs}timm.create_model("local-dir:{export.folder}", pretrained=True)')
    if arguments.push_to_hub:
        print(f"uploaded to {push_to_hub(export.folder, arguments.push_to_hub, private=not arguments.public)}")


def _license(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no identifier of a license, such as apache-2.0")
    return text


if __name__ == "__main__":
    run_tool(main, alone=True)
