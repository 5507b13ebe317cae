"""Make WebDataset shards from images, or verify them. See docs/data.md.

    python tools/make_shards.py imagefolder SRC OUT

{commands}
    verify DIR [--deep]    every byte of every shard; --deep decodes every image

With --max-short-side N, images that are larger are resized once, to save the time that decoding them takes in training.
Several splits go to OUT/train and OUT/val, a single one to OUT. Interrupted, the same command goes on where it was.
Exit status: 0 done, 2 bad input or damaged shards, 130 interrupted, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sar_dist.command_help import Once, TerminalHelp, given_local_path, whole_number
from sar_dist.errors import UserError
from sar_dist.program import run_tool

if TYPE_CHECKING:
    from sar_dist.data.making.sources import Source, SourceCommand
    from sar_dist.data.shards import Resizing


def main() -> None:
    """Parse the command line and do what it says."""
    # With NumPy: inside, so that a process without memory for it ends with one line.
    from sar_dist.data.layout import parse_split_choice
    from sar_dist.data.making import WritingOptions, write_splits

    arguments = _parser().parse_args()
    if arguments.command == "verify":
        from sar_dist.data.making import verify_folder  # decodes images, with PyTorch

        verify_folder(arguments.folder, deep=arguments.deep, processes=arguments.processes, label=arguments.label)
        return
    chosen: SourceCommand = arguments.chosen
    if chosen.chooses_split and arguments.split is not None:
        arguments.split = parse_split_choice(arguments.split)
    resizing = _resizing(arguments)
    options = WritingOptions(processes=arguments.processes)
    if chosen.arranges_samples:
        options = WritingOptions(arguments.seed, arguments.samples_per_shard, arguments.processes)
    sources: Sequence[Source] = chosen.sources(arguments)
    if resizing is not None:
        from sar_dist.data.making import ResizedSource

        sources = [ResizedSource(source, resizing) for source in sources]
    write_splits(sources, arguments.out, options)


def _resizing(arguments: argparse.Namespace) -> Resizing | None:
    from sar_dist.data.shards import Resizing

    side, quality = arguments.max_short_side, arguments.quality
    if side is None:
        if quality is not None:
            raise UserError("--quality is that of resized images; give --max-short-side too")
        return None
    if quality is not None and quality > 100:
        raise UserError(f"--quality {quality} is no JPEG quality; give one from 1 to 100")
    return Resizing(side) if quality is None else Resizing(side, quality)


def _parser() -> argparse.ArgumentParser:
    from sar_dist.data.making.sources import COMMANDS, positive

    lines = [f"    {made.usage:<22} {made.summary}" for made in COMMANDS]
    description = (__doc__ or "").format(commands="\n".join(lines))
    parser = argparse.ArgumentParser(description=description, formatter_class=TerminalHelp)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--processes", type=positive, help="processes that work in parallel (default: one a core)")
    for made in COMMANDS:
        _add_command(commands.add_parser(made.name, parents=[common], description=made.summary), made)
    verify = commands.add_parser("verify", parents=[common])
    verify.add_argument("folder", type=given_local_path)
    verify.add_argument("--deep", action="store_true", help="decode every image")
    verify.add_argument("--label", default="cls", help="where labels are: cls, or a JSON field such as json.label")
    return parser


def _add_command(parser: argparse.ArgumentParser, made: SourceCommand) -> None:
    from sar_dist.data.making import SAMPLES_PER_SHARD
    from sar_dist.data.making.sources import positive
    from sar_dist.data.shards import Resizing

    parser.set_defaults(chosen=made)
    if made.arranges_samples:
        parser.add_argument(
            "--seed",
            type=whole_number(0, 2**63 - 1),
            default=0,
            help="of the order in which samples are spread over the shards",
        )
        parser.add_argument(
            "--samples-per-shard",
            type=positive,
            default=made.samples_per_shard or SAMPLES_PER_SHARD,
            help="at most (default: %(default)s)",
        )
    parser.add_argument(
        "--max-short-side",
        type=positive,
        metavar="N",
        help="resize images whose short side has more than N pixels, and store them as JPEG (default: all bytes stay)",
    )
    parser.add_argument(
        "--quality", type=positive, help=f"JPEG quality of resized images, 1 to 100 (default: {Resizing(1).quality})"
    )
    if made.chooses_split:
        parser.add_argument(
            "--split",
            metavar="SPLIT",
            action=Once,
            help="make this split, train or val; NAME=val makes it of the source's split NAME, such as test=val; "
            "also what the source is if it does not say",
        )
    if made.reads_files:
        parser.add_argument("source", type=given_local_path)
    parser.add_argument("out", type=given_local_path)
    made.add_arguments(parser)


if __name__ == "__main__":
    run_tool(main, alone=True)
