"""How means over seeds and differences are written, with the digits that they bear; in reports and experiments alike."""

from __future__ import annotations

import math

from sar_dist.paired_statistics import Difference
from sar_dist.reports.summary import Summary

NOTHING = "–"
MEANS_NOTE = "Mean over the seeds ± standard deviation (number of seeds)."
DIFFERENCES_NOTE = (
    "Difference of runs with the same seed, mean over the seeds; in brackets its 95 % interval by bootstrap over the "
    "seeds, then by Student's t. Few seeds: the bootstrap cannot leave the range that was seen and is too narrow, "
    "Student's t assumes normal differences. The intervals are not corrected for the number of rows."
)

ONE_SEED_NOTE = "Of one seed each: how much of a difference is chance, only further seeds say."


def format_mean(summary: Summary | None) -> str:
    """Such as ``76.02 ± 0.61``, or the value itself where there is one."""
    if summary is None:
        return NOTHING
    return f"{summary.mean:.4g}" if summary.count == 1 else format_summary(summary).rpartition(" (")[0]


def format_summary(summary: Summary | None) -> str:
    """Such as ``76.02 ± 0.61 (3)``: as many digits as the deviation bears."""
    if summary is None:
        return NOTHING
    digits = _digits(summary.deviation if summary.deviation else abs(summary.mean) / 100)
    deviation = "" if summary.deviation is None else f" ± {summary.deviation:.{digits}f}"
    return f"{summary.mean:.{digits}f}{deviation} ({summary.count})"


def format_difference(difference: Difference | None) -> str:
    """Such as ``+0.61 [-0.20, 1.10] [-0.95, 2.17]``."""
    if difference is None:
        return NOTHING
    spread = max(map(abs, difference.student or (difference.mean,)))
    digits = _digits(spread / 2)
    intervals = [difference.bootstrap, difference.student]
    text = " ".join(f"[{pair[0]:.{digits}f}, {pair[1]:.{digits}f}]" for pair in intervals if pair)
    return f"{difference.mean:+.{digits}f} {text}".strip()


def _digits(size: float) -> int:
    """Decimals that show two significant digits of ``size``; four at most."""
    return min(4, max(0, 1 - math.floor(math.log10(size)))) if 0 < size < math.inf else 2
