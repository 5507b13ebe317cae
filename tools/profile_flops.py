"""Parameters and GFLOPs per image of a configuration's model, by module, with the regularizer's share.

python tools/profile_flops.py --config configs/vit_b_in1k.py [key=value ...] [--json flops.json]
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from sar_dist.command_help import TerminalHelp, given_path, whole_number
from sar_dist.config import height_and_width, load_config
from sar_dist.errors import UserError
from sar_dist.files import open_output
from sar_dist.program import run_tool


def main() -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=TerminalHelp)
    parser.add_argument("--config", required=True, help="configuration file, or the config.json of a run")
    parser.add_argument("--json", type=given_path, metavar="PATH", help="also write every count to this file")
    parser.add_argument(
        "--depth", type=whole_number(0, 999), default=5, help="levels of modules that are shown (default 5)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    arguments = parser.parse_intermixed_args()

    config = load_config(arguments.config, arguments.overrides)

    import torch  # slow, as what follows: only when what was typed makes sense

    from sar_dist.models import model_on_meta
    from sar_dist.observe import count_regularized_flops, flop_table
    from sar_dist.terms import build_terms

    model = model_on_meta(config.model, config.regularizer)
    height, width = height_and_width(config.model.image_size)
    terms = build_terms(config, model.grid, torch.device("cpu"))
    report = count_regularized_flops(model, torch.empty(1, 3, height, width, device="meta"), terms)

    console = Console(soft_wrap=True)
    console.print(f"{config.model.name} at {height} x {width} pixels", highlight=False)
    console.print(flop_table(report, arguments.depth))
    console.print(
        f"regularizer: {2e-6 * report.macs_by_module['regularizer']:.3g} MFLOPs forward, "
        f"{100 * report.share('regularizer'):.2g} % of the total\n{report.summary()}",
        highlight=False,
    )
    if arguments.json is not None:
        try:
            with open_output(arguments.json) as file:
                file.write(json.dumps(report.as_dict(), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {arguments.json}: {error.strerror}") from error


if __name__ == "__main__":
    run_tool(main, alone=True)
