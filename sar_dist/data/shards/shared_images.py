"""Whether two sets hold the same images, packed in different ways: under other names, in other shards, in another order.

Copies of whole shards are known by the checksums in their indexes. Here some images, evenly spread over one set, are looked for
in the other: among its images of the same number of bytes, by what lies in the middle, and then by all bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.manifest import Manifest
from sar_dist.data.shards.remote import is_url
from sar_dist.data.shards.tar_index import NO_IMAGE

_LOOKED_AT = 50
# Images of one size that are compared: with the above at most a thousand small reads, a second or two of a file server. In sets
# of uncompressed images all have the same size.
_MOST_ALIKE = 20
_COMPARED_FIRST = 64


class SharedImages(NamedTuple):
    """How many images of a set were looked for in another one, and how many were found."""

    looked_at: int
    found: int


def shared_images(one: Manifest, other: Manifest) -> SharedImages:
    """How many of some images of ``one`` are in ``other`` too; none are looked for where either is remote, or cannot be read."""
    if is_url(one.root) or is_url(other.root):
        return SharedImages(0, 0)
    ours, theirs = open_index(one).records, open_index(other).records
    sizes = np.array(theirs["image_size"])
    sizes[theirs["image"] == NO_IMAGE] = 0
    chosen = np.flatnonzero(ours["image"] != NO_IMAGE)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _LOOKED_AT)).astype(np.int64)]
    found = 0
    try:
        for sample in chosen.tolist():
            size = int(ours["image_size"][sample])
            alike = np.flatnonzero(sizes == size)[:_MOST_ALIKE] if size else np.array([], np.int64)
            found += len(alike) > 0 and _is_among(one, ours, sample, other, theirs, alike.tolist())
    except OSError:
        return SharedImages(0, 0)  # what is wrong with a shard is said where all of it is read
    return SharedImages(len(chosen), found)


def _is_among(
    one: Manifest, ours: np.ndarray, sample: int, other: Manifest, theirs: np.ndarray, alike: list[int]
) -> bool:
    data = _bytes_of(one, ours, sample)
    middle = len(data) // 2
    part = data[middle : middle + _COMPARED_FIRST]
    return any(
        _bytes_of(other, theirs, place, middle, len(part)) == part and _bytes_of(other, theirs, place) == data
        for place in alike
    )


def _bytes_of(manifest: Manifest, records: np.ndarray, sample: int, start: int = 0, count: int | None = None) -> bytes:
    """The bytes of a sample's image, or ``count`` of them from ``start`` on."""
    shard, _ = manifest.locate(sample)
    record = records[sample]
    file = os.open(Path(manifest.root, manifest.shards[shard].name), os.O_RDONLY)
    try:
        return os.pread(file, int(record["image_size"]) if count is None else count, int(record["image"]) + start)
    finally:
        os.close(file)
