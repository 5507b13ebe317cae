"""Random numbers as functions of keys: the one place where this project turns keys into randomness.

A generator with a state gives numbers that depend on what was drawn before, hence on how a batch is split over ranks.
Here the numbers of an item are a hash of its keys (seed, epoch, sample, ...), so every split computes the same ones, in
parallel over the batch and without a word from the host. ``counter_uniform``'s hash is the SplitMix64 finaliser (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), whose output passes the usual test
batteries on consecutive counters.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_GOLDEN_RATIO = 0x9E3779B97F4A7C15
_UNIT = 2.0**-53


def counter_uniform(seed: int, keys: Sequence[Tensor], count: int) -> Tensor:
    """Uniform random numbers in [0, 1) with 53 random bits.

    Args:
        seed: 64-bit seed, see ``seed_of``.
        keys: int64 tensors (n,) that together name an item.
        count: numbers per item.

    Returns:
        float64 tensor (n, count) on the device of the keys.
    """
    state = torch.full_like(keys[0], seed)
    for key in keys:
        state = _mix(state ^ key)
    counters = torch.arange(1, count + 1, device=state.device)
    bits = _mix(state.unsqueeze(1) + counters * _signed(_GOLDEN_RATIO))
    return _shift_right(bits, 11).to(torch.float64) * _UNIT


def _mix(value: Tensor) -> Tensor:
    value = value + _signed(_GOLDEN_RATIO)
    value = (value ^ _shift_right(value, 30)) * _signed(0xBF58476D1CE4E5B9)
    value = (value ^ _shift_right(value, 27)) * _signed(0x94D049BB133111EB)
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's int64 shift copies the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits as a uint64; products and sums wrap alike."""
    return value - (1 << 64) if value >= 1 << 63 else value


def seed_generators(*key: int) -> None:
    """Seed the global generators of ``random``, NumPy and torch (CPU) from ``key``."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - transforms of other libraries draw from the global generator
    # Not torch.manual_seed, which visits every accelerator too and takes 50 times as long.
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators of ``random``, NumPy and torch (CPU) as they were before the body."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.default_generator.set_state(torch_state)
