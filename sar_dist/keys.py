"""Keys into seeds and permutations, in NumPy: what ``randomness`` is for tensors, without PyTorch, whose import takes seconds."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(label: str, seed: int) -> int:
    """A 64-bit seed of its own for each use of the run's seed."""
    digest = hashlib.blake2b(f"{label}:{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def counter_key(*parts: int | str) -> int:
    """128-bit key of a counter-based generator from what it belongs to, such as (seed, epoch, "shards")."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def keyed_permutation(size: int, *key: int | str) -> np.ndarray:
    """A permutation of range(size) that depends on ``key`` alone. Returns (size,) of the smallest unsigned type that fits.

    Sorts raw Philox output: unlike ``Generator.permutation``, whose algorithm NumPy may change, the raw stream of a bit
    generator is guaranteed, so that a run can be resumed under another NumPy.
    """
    draws = np.random.Philox(key=counter_key(*key)).random_raw(size)
    return np.argsort(draws, kind="stable").astype(np.min_scalar_type(size))
