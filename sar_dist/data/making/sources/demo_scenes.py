"""Generated demo scenes as a source of shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sar_dist.data.making import demo_class_names, demo_samples
from sar_dist.data.shards import Split
from sar_dist.data.making.sources.base import Source


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
