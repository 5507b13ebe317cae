"""Means and paired differences against SciPy and against exact enumeration."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sar_dist.reports import Summary, summarize
from sar_dist.reports.statistics import bootstrap_interval, paired_difference, student_interval

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
