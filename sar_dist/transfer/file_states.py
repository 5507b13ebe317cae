"""Whether files are still the ones that an evaluation read: told from their states, without reading them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sar_dist.data.shards import identity_of_file

_THREADS = 16  # a network file system answers slowly
_AT_ONCE = 256


def digest_of_files(content: str, paths: Iterable[str | os.PathLike]) -> str:
    """sha256 of ``content`` and of size, time of modification and inode of each file.

    It changes more often than files do, as with copies; then an evaluation is made again. A file that is not there has a
    state of its own: whoever reads it says so.
    """
    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape"))
    with ThreadPoolExecutor(_THREADS) as pool:
        rest = iter(paths)  # of millions only a few are held at a time
        while block := list(itertools.islice(rest, _THREADS * _AT_ONCE)):
            parts = [block[start : start + _AT_ONCE] for start in range(0, len(block), _AT_ONCE)]
            digest.update(b"".join(pool.map(_states_of, parts)))
    return digest.hexdigest()


def _states_of(paths: Sequence[str | os.PathLike]) -> bytes:
    return b"".join(map(_state_of, paths))


def _state_of(path: str | os.PathLike) -> bytes:
    try:
        state = os.stat(path)
    except OSError:
        return b"none\n"
    return b"%d %d %d\n" % (state.st_size, state.st_mtime_ns, identity_of_file(state)[1])
