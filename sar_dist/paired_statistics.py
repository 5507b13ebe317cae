"""Differences that are paired by seed: confidence intervals, two tests, and the correction for several of them.

Few seeds say little, and each method says so differently. The bootstrap assumes nothing about the distribution, but
cannot leave the range of the differences that were seen: with three seeds it is too narrow. Student's t assumes normal
differences and is honest about three of them: it is wide. The permutation of signs assumes only that without an effect
a difference may as well have the other sign; with n seeds its p is never below 2 ** (1 - n), which is .06 for five.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, with confidence intervals (None for a single pair).

    Attributes:
        mean: of the differences.
        bootstrap: percentile interval of the resampled mean.
        student: interval of Student's t.
        count: number of pairs.
        values: the differences, in the order of their seeds.
    """

    mean: float
    bootstrap: tuple[float, float] | None
    student: tuple[float, float] | None
    count: int
    values: tuple[float, ...] = ()


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values`` minus ``reference`` where both have the seed; None where no seed is in both.

    The same seed means the same order of the data and the same augmentation, and where the models have the same
    parameters the same initial weights: what the seeds have in common cancels.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    found = tuple(values[seed] - reference[seed] for seed in seeds)
    if len(found) < 2:
        return Difference(found[0], None, None, 1, found)
    return Difference(float(np.mean(found)), bootstrap_interval(found), student_interval(found), len(found), found)


def bootstrap_interval(
    values: Sequence[float], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values``: the same for the same ``seed``."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values, dtype=float), (resamples, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def student_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the mean of at least two ``values``, taken as normally distributed."""
    assert len(values) > 1, "an interval takes two values or more"
    error = _standard_error(values)
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def student_p(values: Sequence[float]) -> float | None:
    """Two-sided p of a mean of zero by Student's t.

    None where the test says nothing: fewer than two values, values without spread, or one that is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    error = _standard_error(values)
    # Equal values differ by rounding at most; measures that count images give such ones.
    if error <= 1e-12 * np.abs(values).max():
        return None
    return float(2 * stats.t.sf(abs(np.mean(values)) / error, len(values) - 1))


def permutation_p(values: Sequence[float]) -> float | None:
    """Two-sided p of a mean of zero by all the 2 ** n ways to give the ``values`` signs (10 000 drawn ones from n = 14).

    None for fewer than two values, or one that is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    found = stats.permutation_test(
        (np.asarray(values, dtype=float),),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p of each test after Holm's correction: with these, every test is held against the level of the family.

    Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def _standard_error(values: Sequence[float]) -> float:
    with np.errstate(invalid="ignore"):  # infinity - infinity, of a run that diverged
        return float(np.std(values, ddof=1)) / math.sqrt(len(values))
