"""Differences that are paired by seed, with confidence intervals.

Few seeds say little, and the two intervals say so differently. The bootstrap assumes nothing about the distribution,
but cannot leave the range of the differences that were seen: with three seeds it is too narrow. Student's t assumes
normal differences and is honest about three of them: it is wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sar_dist.reports.summary import summarize

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
    """

    mean: float
    bootstrap: tuple[float, float] | None
    student: tuple[float, float] | None
    count: int


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values`` minus ``reference`` where both have the seed; None where no seed is in both.

    The same seed means the same order of the data and the same augmentation, and where the models have the same
    parameters the same initial weights: what the seeds have in common cancels.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = [values[seed] - reference[seed] for seed in seeds]
    mean = summarize(differences).mean
    if len(differences) < 2:
        return Difference(mean, None, None, 1)
    return Difference(mean, bootstrap_interval(differences), student_interval(differences), len(differences))


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
    found = summarize(values)
    assert found.deviation is not None, "an interval takes two values or more"
    half = found.deviation / math.sqrt(found.count) * float(stats.t.ppf((1 + confidence) / 2, found.count - 1))
    return found.mean - half, found.mean + half
