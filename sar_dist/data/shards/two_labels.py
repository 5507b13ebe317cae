"""The same image under two labels, within a set or over several: links or copies in two class folders, rows that contradict each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sar_dist.data.shards.manifest import Manifest
from sar_dist.data.shards.shard_index import ShardIndex
from sar_dist.data.shards.shared_images import image_bytes, image_keys, some_of
from sar_dist.data.shards.tar_index import NO_IMAGE, NO_LABEL, key_at
from sar_dist.data.shards.tar_members import DamagedShard

_COMPARED = 100


@dataclass(frozen=True)
class LabelledSet:
    """A local set of shards with its index; ``labels``: what each of its labels means among several sets, NO_LABEL for nothing."""

    manifest: Manifest
    index: ShardIndex
    labels: tuple[int, ...] | None = None

    def meanings(self) -> np.ndarray:
        """(samples,) the label of each sample that has an image and a label, NO_LABEL for the others."""
        records = self.index.records
        labels = np.where(records["image"] == NO_IMAGE, NO_LABEL, records["label"])
        if self.labels is None:
            return labels
        known = (labels >= 0) & (labels < len(self.labels))
        return np.where(known, np.array([*self.labels, NO_LABEL])[np.where(known, labels, NO_LABEL)], NO_LABEL)


class TwoLabels(NamedTuple):
    """How many images are there under several labels, and two samples that are one of them, in words."""

    images: int
    samples: tuple[str, str]

    def __str__(self) -> str:
        there = "1 image is" if self.images == 1 else f"{self.images} images are"
        return f"{there} there under two labels, such as {' and '.join(self.samples)}; keep each in the class that it is of"


def images_of_two_labels(sets: Sequence[LabelledSet]) -> TwoLabels | None:
    """Images that are alike by size, crc32 and bytes and have different labels; None: there are none, or a shard cannot be read.

    Of more than ``_COMPARED`` that are alike by the index so many are compared by all bytes, and as large a share of the
    others is taken to be the same.
    """
    pairs = _contradictions(sets)
    starts = np.cumsum([0, *(len(each.index.records) for each in sets)])
    same: list[tuple[int, int]] = []
    chosen = some_of(pairs, _COMPARED)
    try:
        for one, other in chosen.tolist():
            (a, sample), (b, its_copy) = _place(starts, one), _place(starts, other)
            data = image_bytes(sets[a].manifest, sets[a].index.records, sample)
            if data == image_bytes(sets[b].manifest, sets[b].index.records, its_copy):
                same.append((one, other))
        if not same:
            return None
        one, other = (_described(sets, *_place(starts, sample)) for sample in sorted(same[0]))
    except (OSError, DamagedShard):
        return None  # what is wrong with a shard is said where all of it is read
    return TwoLabels(round(len(pairs) * len(same) / len(chosen)), (one, other))


def _contradictions(sets: Sequence[LabelledSet]) -> np.ndarray:
    """(images, 2) two samples of each image, by its key, that has several labels.

    Keys alone are sorted first, as few are there twice: that takes a tenth of the time that sorting all samples does.
    """
    keys = np.concatenate([image_keys(each.index.records) for each in sets])
    ordered = np.sort(keys)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return np.empty((0, 2), np.int64)
    nearest = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    places = np.flatnonzero(repeated[nearest] == keys)
    keys, labels = keys[places], np.concatenate([each.meanings() for each in sets])[places]
    order = np.lexsort((labels, keys))
    keys, labels, places = keys[order], labels[order], places[order]
    differ = np.flatnonzero((keys[1:] == keys[:-1]) & (labels[1:] != labels[:-1]) & (labels[:-1] != NO_LABEL))
    _, first = np.unique(keys[differ], return_index=True)
    return np.stack([places[:-1], places[1:]], 1)[differ[first]]


def _place(starts: np.ndarray, sample: int) -> tuple[int, int]:
    """The set in which a sample of all sets is, and its number there."""
    number = int(np.searchsorted(starts, sample, side="right")) - 1
    return number, sample - int(starts[number])


def _described(sets: Sequence[LabelledSet], number: int, sample: int) -> str:
    """A sample by its key, class and shard."""
    manifest, index = sets[number].manifest, sets[number].index
    shard, _ = manifest.locate(sample)
    record, entry = index.records[sample], index.shards[shard]
    path = Path(manifest.root, entry.name)
    with path.open("rb", buffering=0) as file:
        key = key_at(
            lambda offset, count: os.pread(file.fileno(), count, offset),
            entry.bytes,
            entry.name,
            int(record["start"]),
        )
    label, classes = int(record["label"]), manifest.classes
    named = classes[label] if classes is not None and label < len(classes) else f"label {label}"
    return f"{key} ({named}) in {path if len(sets) > 1 else entry.name}"
