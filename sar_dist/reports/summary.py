"""Several runs as one number: mean and standard deviation, for the report over seeds and for the experiments alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (None for a single value) of ``count`` values."""

    mean: float
    deviation: float | None
    count: int


def summarize(values: Sequence[float]) -> Summary:
    """Mean and standard deviation (n - 1 in the denominator); NaN where a value is not finite.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("no values to summarize")
    with np.errstate(invalid="ignore"):  # infinity - infinity, of a run that diverged
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Summary(float(np.mean(values)), deviation, len(values))
