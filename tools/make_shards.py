"""Make WebDataset shards from images, or verify them. See docs/data.md.

    python tools/make_shards.py imagefolder SRC OUT     SRC/CLASS/IMAGE, or SRC/train and SRC/val with such folders
    python tools/make_shards.py csv TABLE OUT           a table of image paths and labels
    python tools/make_shards.py parquet SRC OUT         image data sets of the `datasets` library
    python tools/make_shards.py ade20k SRC OUT          ADEChallengeData2016: images with label maps
    python tools/make_shards.py voc SRC OUT             VOCdevkit/VOC2012: images with label maps
    python tools/make_shards.py demo OUT                generated scenes with object masks
    python tools/make_shards.py verify DIR [--deep]     every byte of every shard; --deep decodes every image

Several splits go to OUT/train and OUT/val, a single one to OUT. Interrupted, the same command goes on where it was.
Exit status: 0 done, 2 bad input or damaged shards, 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sar_dist.data.making import SAMPLES_PER_SHARD, WritingOptions, sources, verify_folder, write_splits
from sar_dist.errors import run_tool


def main() -> None:
    """Parse the command line and do what it says."""
    arguments = _parser().parse_args()
    if arguments.command == "verify":
        verify_folder(arguments.folder, deep=arguments.deep, processes=arguments.processes)
        return
    options = WritingOptions(arguments.seed, arguments.samples_per_shard, arguments.processes)
    write_splits(_sources(arguments), arguments.out, options)


def _sources(given: argparse.Namespace) -> Sequence[sources.Source]:
    if given.command == "imagefolder":
        subset = sources.Subset(given.per_class, given.seed) if given.per_class else None
        return sources.imagefolder_sources(given.source, given.split, subset)
    if given.command == "ade20k":
        return sources.ade20k_sources(given.source)
    if given.command == "voc":
        return sources.voc_sources(given.source)
    if given.command == "csv":
        columns = sources.CsvColumns(given.image_column, given.label_column, given.split_column)
        return sources.csv_sources(given.source, given.images, columns, given.split or "train")
    if given.command == "parquet":
        return sources.parquet_sources(given.source, given.image_column, given.label_column, given.split)
    scenes = (given.classes, given.image_size, given.seed)
    return [sources.DemoScenes("train", given.train, *scenes), sources.DemoScenes("val", given.val, *scenes)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--processes", type=_positive, help="processes that work in parallel (default: one a core)")
    writing = argparse.ArgumentParser(add_help=False, parents=[common])
    writing.add_argument("--seed", type=int, default=0, help="of the order in which samples are spread over the shards")
    writing.add_argument(
        "--samples-per-shard", type=_positive, default=SAMPLES_PER_SHARD, help="at most (default: %(default)s)"
    )
    one_split = argparse.ArgumentParser(add_help=False)
    one_split.add_argument(
        "--split", choices=("train", "val"), help="make this split; what the source is if it does not say"
    )

    for name in ("imagefolder", "csv", "parquet", "ade20k", "voc"):
        made = commands.add_parser(name, parents=[writing] if name in ("ade20k", "voc") else [writing, one_split])
        made.add_argument("source", type=Path)
        made.add_argument("out", type=Path)
        if name == "imagefolder":
            made.add_argument(
                "--per-class", type=_positive, metavar="N", help="only N training images of each class, drawn by --seed"
            )
        if name in ("csv", "parquet"):
            image = "path" if name == "csv" else "image"
            made.add_argument("--image-column", default=image, help="column of the image (default: %(default)s)")
            made.add_argument("--label-column", default="label", help="column of the label (default: %(default)s)")
        if name == "csv":
            made.add_argument("--split-column", help="column that says train or val (default: there is none)")
            made.add_argument("--images", type=Path, help="folder to which paths are relative (default: the table's)")

    demo = commands.add_parser("demo", parents=[writing])
    # Small shards: several processes have work even for a thousand images.
    demo.set_defaults(samples_per_shard=250)
    demo.add_argument("out", type=Path)
    demo.add_argument("--train", type=_positive, default=4000, help="training images (default: %(default)s)")
    demo.add_argument("--val", type=_positive, default=1000, help="validation images (default: %(default)s)")
    demo.add_argument("--classes", type=_positive, default=8, help="classes (default: %(default)s)")
    demo.add_argument("--image-size", type=_positive, default=96, help="side in pixels (default: %(default)s)")

    verify = commands.add_parser("verify", parents=[common])
    verify.add_argument("folder", type=Path)
    verify.add_argument("--deep", action="store_true", help="decode every image")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    run_tool(main)
