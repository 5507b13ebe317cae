"""Means, paired differences and tests against SciPy, exact enumeration and figures worked out by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sar_dist.paired_statistics import (
    bootstrap_interval,
    holm,
    paired_difference,
    permutation_p,
    student_interval,
    student_p,
)
from sar_dist.reports import Summary, summarize

DIFFERENCES = [0.4, -0.3, 1.1, 0.9, 0.2]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_mean_and_deviation(values: list[float]) -> None:
    found = summarize(values)
    assert found.deviation is not None
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found.deviation == pytest.approx(statistics.stdev(values), abs=1e-9)
    assert found.count == len(values)


def test_one_value_has_no_deviation_and_none_is_an_error() -> None:
    assert summarize([2.0]) == Summary(2.0, None, 1)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_a_run_that_diverged_is_seen_in_the_mean() -> None:
    for values in ([1.0, math.nan], [1.0, math.inf], [math.inf, math.inf]):
        found = summarize(values)
        assert not math.isfinite(found.mean)
        assert found.deviation is not None
        assert math.isnan(found.deviation)


def test_bootstrap_is_scipys() -> None:
    ours = bootstrap_interval(DIFFERENCES, resamples=200_000)
    theirs = stats.bootstrap((DIFFERENCES,), np.mean, n_resamples=200_000, method="percentile").confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_of_three_is_the_exact_one() -> None:
    values = [0.1, 0.7, 2.0]
    means = [statistics.fmean(drawn) for drawn in itertools.product(values, repeat=3)]
    exact = np.quantile(means, [0.1, 0.9], method="inverted_cdf")  # 27 means: no border of a step is near these
    assert bootstrap_interval(values, confidence=0.8, resamples=50_000) == pytest.approx(tuple(exact), abs=1e-9)


def test_bootstrap_has_a_seed() -> None:
    noise = np.random.default_rng(0).normal(size=40).tolist()
    assert bootstrap_interval(noise) == bootstrap_interval(noise)
    assert bootstrap_interval(noise) != bootstrap_interval(noise, seed=1)


def test_student_is_scipys_paired_test() -> None:
    first, second = [5.1, 4.8, 6.0, 5.5], [4.9, 5.0, 5.1, 5.2]
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = student_interval([a - b for a, b in zip(first, second, strict=True)])
    assert found == pytest.approx((expected.low, expected.high))


def test_both_intervals_agree_on_many_normal_values() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    assert bootstrap_interval(values) == pytest.approx(student_interval(values), abs=0.03)


def test_differences_are_paired_by_seed() -> None:
    # Seeds differ by tens, arms by one: unpaired, the difference would drown.
    found = paired_difference({0: 11.0, 1: 21.2, 2: 30.8, 9: 99.0}, {2: 30.0, 1: 20.0, 0: 10.0, 7: 0.0})
    assert found is not None
    assert found.bootstrap is not None
    assert found.student is not None
    assert (found.mean, found.count) == (pytest.approx(1.0), 3)
    assert 0.8 <= found.bootstrap[0] <= found.bootstrap[1] <= 1.2 + 1e-9
    assert found.student[0] < found.bootstrap[0]


def test_difference_of_one_pair_or_none() -> None:
    single = paired_difference({0: 2.0}, {0: 1.5})
    assert single is not None
    assert (single.mean, single.bootstrap, single.student, single.count) == (0.5, None, None, 1)
    assert paired_difference({0: 2.0}, {1: 1.5}) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_permutation_enumerates_all_signs(values: list[float]) -> None:
    sums = [
        abs(math.fsum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    observed = abs(math.fsum(values))
    slack = 1e-9 * max(1.0, observed)
    found = permutation_p(values)
    assert found is not None
    # Sums that are equal but for their rounding may fall on either side.
    assert sum(each > observed + slack for each in sums) <= found * len(sums) + 1e-6
    assert found * len(sums) <= sum(each >= observed - slack for each in sums) + 1e-6


def test_permutation_by_hand() -> None:
    # 1 + 2 + 3: of the eight sums, 6 and -6 alone are as far from zero.
    assert permutation_p([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    # 1 + 2 - 3 = 0: none is nearer.
    assert permutation_p([1.0, 2.0, -3.0]) == 1
    assert permutation_p([0.1] * 8) == pytest.approx(2 / 256)
    assert permutation_p(np.random.default_rng(0).normal(1, 1, 40).tolist()) == pytest.approx(1 / 5000, rel=0.5)


def test_student_by_hand() -> None:
    # 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.4641 with 2 degrees of freedom, p = 1 - t / sqrt(2 + t**2).
    assert student_p([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12) / math.sqrt(14))
    assert student_p(DIFFERENCES) == pytest.approx(stats.ttest_1samp(DIFFERENCES, 0).pvalue)


def test_what_a_test_cannot_say() -> None:
    for values in ([], [1.0], [1.0, math.nan], [1.0, math.inf]):
        assert student_p(values) is None
        assert permutation_p(values) is None
    assert student_p([0.4, 0.4, 0.1 + 0.3]) is None  # an interval without width is not certainty
    assert student_p([0.0, 0.0]) is None
    assert permutation_p([0.0, 0.0]) == 1


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03: 3 x .01, 2 x .02, then .03, which may not be below the one before it.
    assert holm([0.02, 0.03, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
