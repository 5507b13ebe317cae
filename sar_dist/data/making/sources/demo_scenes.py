"""Generated demo scenes as a source of shards."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from sar_dist.data.layout import Split
from sar_dist.data.making import demo_class_names, demo_samples
from sar_dist.data.making.sources.base import Source
from sar_dist.data.making.sources.command import SourceCommand, positive


class DemoScenes(Source):
    """``count`` generated scenes with their object masks (member ``mask.png``), see ``sar_dist.data.making.demo``.

    Raises UserError for more classes than there are shapes.
    """

    def __init__(self, split: Split, count: int, num_classes: int, image_size: int, seed: int) -> None:
        self.split = split
        self.classes = tuple(demo_class_names(num_classes))
        self._count = count
        self._image_size = image_size
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        sample = next(demo_samples(self.split, 1, len(self.classes or ()), self._image_size, self._seed, start=number))
        return sample["key"], {
            "jpg": sample["jpg"],
            "cls": str(sample["cls"]).encode(),
            "mask.png": sample["mask.png"],
        }

    def description(self) -> dict[str, Any]:
        return {"kind": "demo", "classes": self.classes, "image_size": self._image_size, "seed": self._seed}

    def digest(self) -> str:
        return str(self._count)

    def size(self) -> int:
        return self._count * self._image_size**2


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", type=positive, default=4000, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=positive, default=1000, help="validation images (default: %(default)s)")
    parser.add_argument("--classes", type=positive, default=8, help="classes (default: %(default)s)")
    parser.add_argument("--image-size", type=positive, default=96, help="side in pixels (default: %(default)s)")


def _sources(given: argparse.Namespace) -> list[DemoScenes]:
    scenes = (given.classes, given.image_size, given.seed)
    return [DemoScenes("train", given.train, *scenes), DemoScenes("val", given.val, *scenes)]


COMMAND: SourceCommand = SourceCommand(
    name="demo",
    usage="demo OUT",
    summary="generated scenes with object masks",
    add_arguments=_add_arguments,
    sources=_sources,
    reads_files=False,
    chooses_split=False,
    samples_per_shard=250,  # small shards: several processes have work even for a thousand images
)
