"""Whether two splits of files hold the same images: what is scored would be what was learned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from sar_dist.data.making.sources.base import FileSource
from sar_dist.data.shards import SharedImages, some_of
from sar_dist.files import read_regular

# Images that are looked for, and bytes of others that are read for it: a few seconds of a file server.
_LOOKED_FOR = 200
_MOST_BYTES = 1 << 28


def shared_files(one: FileSource, other: FileSource) -> SharedImages:
    """How many images of ``one`` are in ``other`` too, by their sizes first and their bytes then.

    Of more than ``_LOOKED_FOR`` that have an image of the same size in ``other``, so many are looked for, and as large a share of
    the others is taken to be there; none is where a file cannot be read, which is said by who uses it.
    """
    ours, theirs = one.images(), other.images()
    our_sizes, their_sizes = (np.array([size for _, size in files], dtype=np.int64) for files in (ours, theirs))
    alike = np.flatnonzero(np.isin(our_sizes, their_sizes) & (our_sizes > 0))
    chosen = some_of(alike, _LOOKED_FOR)
    wanted = np.flatnonzero(np.isin(their_sizes, our_sizes[chosen]))
    try:
        read = wanted[np.cumsum(their_sizes[wanted]) <= _MOST_BYTES]
        there = {_digest(theirs[place][0]) for place in read.tolist()}
        same = sum(_digest(ours[place][0]) in there for place in chosen.tolist())
    except OSError:
        return SharedImages(0, 0)
    return SharedImages(len(ours), round(len(alike) * same / max(1, len(chosen))))


def _digest(file: Path) -> bytes:
    return hashlib.blake2b(read_regular(file), digest_size=16).digest()
