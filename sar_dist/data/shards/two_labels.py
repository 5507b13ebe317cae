"""The same image under two labels, within a set: links or copies in two class folders, rows that contradict each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.manifest import Manifest
from sar_dist.data.shards.remote import is_url
from sar_dist.data.shards.shared_images import image_bytes, image_keys, some_of
from sar_dist.data.shards.tar_index import NO_IMAGE, NO_LABEL

_COMPARED = 100


class TwoLabels(NamedTuple):
    """How many images are there under two labels, and two samples, by their global ids, that are one image."""

    images: int
    samples: tuple[int, int]


def images_of_two_labels(manifest: Manifest) -> TwoLabels | None:
    """Images that are alike by size, crc32 and bytes and have different labels; None: there are none, or the set is remote.

    Of more than ``_COMPARED`` pairs that are alike by the index so many are compared by all bytes, and as large a share of the
    others is taken to be the same.
    """
    if is_url(manifest.root):
        return None
    records = open_index(manifest).records
    places = np.flatnonzero((records["image"] != NO_IMAGE) & (records["label"] != NO_LABEL))
    keys, labels = image_keys(records)[places], records["label"][places]
    order = np.lexsort((labels, keys))
    keys, labels, places = keys[order], labels[order], places[order]
    pairs = np.flatnonzero((keys[1:] == keys[:-1]) & (labels[1:] != labels[:-1]))
    chosen = some_of(pairs, _COMPARED)
    same = [(int(places[pair]), int(places[pair + 1])) for pair in chosen.tolist()]
    try:
        same = [(a, b) for a, b in same if image_bytes(manifest, records, a) == image_bytes(manifest, records, b)]
    except OSError:
        return None  # what is wrong with a shard is said where all of it is read
    return TwoLabels(round(len(pairs) * len(same) / len(chosen)), same[0]) if same else None
