"""Whether two sets hold the same images, packed in different ways: under other names, in other shards, in another order.

Copies of whole shards are known by the checksums in their indexes. Here every image of one set is looked for in the other, by
its number of bytes and the crc32 of them, which both indexes have. Those are 64 bits, of which 32 tell nothing where images
are not compressed and all have the same size; so what was found is compared byte by byte, of many images some.
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

# Images that are compared byte by byte: a second or two of a file server.
_COMPARED = 200
# Of those of one image that are alike by the index, at most.
_MOST_ALIKE = 20
_FILTER_BITS = 24
_AT_ONCE = 1 << 20


class SharedImages(NamedTuple):
    """How many images of a set were looked for in another one, and how many were found."""

    looked_at: int
    found: int


def shared_images(one: Manifest, other: Manifest) -> SharedImages:
    """How many images of ``one`` are in ``other`` too; none are looked for where either is remote, or cannot be read.

    Of more than ``_COMPARED`` that are alike by the index, so many are compared by all bytes, and as large a share of the others is
    taken to be the same: the number is exact unless some of those differ.
    """
    if is_url(one.root) or is_url(other.root):
        return SharedImages(0, 0)
    ours, theirs = open_index(one).records, open_index(other).records
    keys = image_keys(ours)
    images = np.flatnonzero(ours["image"] != NO_IMAGE)
    alike, places = _places_of(keys[images], theirs)
    first, behind = np.searchsorted(alike, keys[images]), np.searchsorted(alike, keys[images], side="right")
    found = np.flatnonzero(behind > first)
    chosen = some_of(found, _COMPARED)
    try:
        same = sum(
            _is_among(one, ours, int(images[image]), other, theirs, places[first[image] : behind[image]].tolist())
            for image in chosen.tolist()
        )
    except OSError:
        return SharedImages(0, 0)  # what is wrong with a shard is said where all of it is read
    return SharedImages(len(images), round(len(found) * same / max(1, len(chosen))))


def image_keys(records: np.ndarray) -> np.ndarray:
    """uint64 (samples,): number of bytes and crc32 of each image."""
    return (records["image_size"].astype(np.uint64) << np.uint64(32)) | records["content"]


def some_of(places: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of ``places``, from all over them, always the same."""
    return places[np.linspace(0, len(places) - 1, min(len(places), most)).astype(np.int64)]


def _places_of(keys: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of ``records`` that may be among ``keys``: their keys, sorted, and their places.

    Few of very many are left by a table of the last bits, so that nothing large is sorted.
    """
    last = np.uint64((1 << _FILTER_BITS) - 1)
    wanted = np.zeros(1 << _FILTER_BITS, bool)
    wanted[keys & last] = True
    kept_keys, kept_places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start in range(0, len(records), _AT_ONCE):
        part = records[start : start + _AT_ONCE]
        theirs = image_keys(part)
        places = np.flatnonzero(wanted[theirs & last] & (part["image"] != NO_IMAGE))
        kept_keys.append(theirs[places])
        kept_places.append(places + start)
    found, places = np.concatenate(kept_keys), np.concatenate(kept_places)
    order = np.argsort(found, kind="stable")
    return found[order], places[order]


def _is_among(
    one: Manifest, ours: np.ndarray, sample: int, other: Manifest, theirs: np.ndarray, alike: list[int]
) -> bool:
    data = image_bytes(one, ours, sample)
    return any(image_bytes(other, theirs, place) == data for place in alike[:_MOST_ALIKE])


def image_bytes(manifest: Manifest, records: np.ndarray, sample: int) -> bytes:
    """The bytes of a sample's image."""
    shard, _ = manifest.locate(sample)
    record = records[sample]
    file = os.open(Path(manifest.root, manifest.shards[shard].name), os.O_RDONLY)
    try:
        return os.pread(file, int(record["image_size"]), int(record["image"]))
    finally:
        os.close(file)
