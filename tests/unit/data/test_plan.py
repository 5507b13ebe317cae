"""The order of samples: a pure function that loses and repeats nothing, whatever the number of ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar_dist.data.order.plan import (
    BatchPlan,
    EpochPlan,
    PlanSettings,
    check_streams,
    default_streams,
    divisors,
    window_samples,
)
from sar_dist.errors import UserError
from sar_dist.keys import keyed_permutation


@st.composite
def setups(draw: st.DrawFn) -> tuple[np.ndarray, PlanSettings]:
    sizes = np.array(draw(st.lists(st.integers(1, 60), min_size=1, max_size=12)))
    streams = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    global_batch = streams * draw(st.integers(1, 4))
    if sizes.sum() < global_batch:
        sizes[0] += global_batch
    window = window_samples(sizes, draw(st.sampled_from([0.01, 0.5, 1.0, 4.0])))
    return sizes, PlanSettings(draw(st.integers(0, 2**40)), global_batch, streams, window)


def epoch_samples(plan: EpochPlan) -> list[tuple[int, int]]:
    found = [zip(*(part.tolist() for part in plan.samples(step)), strict=True) for step in range(plan.steps)]
    return list(itertools.chain.from_iterable(found))


@given(setups(), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_each_sample_at_most_once_and_fewer_than_a_batch_left_out(
    setup: tuple[np.ndarray, PlanSettings], epoch: int
) -> None:
    sizes, plan_settings = setup
    found = epoch_samples(EpochPlan(sizes, plan_settings, epoch))
    assert len(set(found)) == len(found) > sizes.sum() - plan_settings.global_batch
    assert all(0 <= index < sizes[shard] for shard, index in found)


@given(setups(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_ranks_together_are_the_global_batch(setup: tuple[np.ndarray, PlanSettings], epoch: int) -> None:
    sizes, plan_settings = setup
    plan = EpochPlan(sizes, plan_settings, epoch)
    for world in (d for d in (1, 2, 4, 8) if plan_settings.streams % d == 0):
        share = plan_settings.streams // world
        for step in range(min(plan.steps, 3)):
            whole = plan.samples(step)
            parts = [plan.samples(step, slice(rank * share, (rank + 1) * share)) for rank in range(world)]
            assert np.array_equal(whole[0], np.concatenate([part[0] for part in parts]))
            assert np.array_equal(whole[1], np.concatenate([part[1] for part in parts]))


@given(setups())
@settings(max_examples=20, deadline=None)
def test_a_seek_gives_what_running_there_gives(setup: tuple[np.ndarray, PlanSettings]) -> None:
    sizes, plan_settings = setup
    running = BatchPlan(sizes, plan_settings)
    for batch in range(3 * running.steps_per_epoch):
        if batch % 5 == 0:
            epoch, step = running.at(batch)
            seek_epoch, seek_step = BatchPlan(sizes, plan_settings).at(batch)
            assert np.array_equal(epoch.samples(step), seek_epoch.samples(seek_step))


def test_epochs_seeds_and_left_out_samples_differ() -> None:
    sizes = np.full(10, 21)
    base = PlanSettings(0, 16, 8, 42)
    first, second = (epoch_samples(EpochPlan(sizes, base, epoch)) for epoch in (0, 1))
    other_seed = epoch_samples(EpochPlan(sizes, PlanSettings(1, 16, 8, 42), 0))
    assert first != second
    assert first != other_seed
    everything = {(shard, index) for shard in range(10) for index in range(21)}
    left_out = [everything - set(epoch_samples(EpochPlan(sizes, base, epoch))) for epoch in range(30)]
    assert all(len(missing) == 210 % 16 for missing in left_out)
    assert len({frozenset(missing) for missing in left_out}) > 5


def test_substitutes_are_the_rest_of_the_window_in_order() -> None:
    plan = EpochPlan(np.array([50, 50]), PlanSettings(3, 10, 2, 20), 0)
    window = list(zip(*(part.tolist() for part in plan.locate(np.zeros(20, int), np.arange(20))), strict=True))
    assert list(plan.substitutes(0, 7)) == window[8:] + window[:7]


def test_order_is_frozen() -> None:
    """A checkpoint names a place in this order: it must never change without a new ORDER_VERSION (loader.py)."""
    plan = EpochPlan(np.array([5, 7, 6]), PlanSettings(1, 4, 2, 6), 2)
    assert [part.tolist() for part in plan.samples(1)] == [[0, 0, 2, 1], [1, 0, 0, 5]]
    assert keyed_permutation(6, 1, "x").tolist() == [3, 5, 2, 1, 4, 0]


def test_shuffles_well() -> None:
    """Neighbours in a shard are not neighbours in the order, and all positions are equally likely."""
    order = keyed_permutation(1000, 7, 0, "a").astype(int)
    assert sorted(order) == list(range(1000))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01
    first = [int(keyed_permutation(10, seed)[0]) for seed in range(2000)]
    assert np.bincount(first, minlength=10).min() > 140


@pytest.mark.parametrize(
    ("global_batch", "streams"), [(1, 1), (24, 24), (256, 256), (1024, 256), (1000, 250), (514, 2), (600, 200)]
)
def test_default_streams(global_batch: int, streams: int) -> None:
    assert default_streams(global_batch) == streams


def test_divisors() -> None:
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]


@pytest.mark.parametrize(
    ("streams", "global_batch", "world", "message"),
    [(3, 16, 1, "valid: 1, 2, 4, 8, 16"), (2, 16, 4, "valid: 4, 8, 16"), (4, 16, 3, "use 15 or 18")],
)
def test_impossible_streams_name_valid_ones(streams: int, global_batch: int, world: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_streams(streams, global_batch, world)


def test_less_than_one_batch_is_refused() -> None:
    with pytest.raises(UserError, match="fewer than one global batch"):
        BatchPlan([3, 4], PlanSettings(0, 8, 8, 5))
