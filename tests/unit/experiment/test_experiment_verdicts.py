"""The verdict of a declared analysis, from values whose tests can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from experiment_factory import make_experiment

from sar_dist.experiment import Analysis, Measure
from sar_dist.experiment.curves import points_figure
from sar_dist.experiment.page import headlines_of, verdicts_table
from sar_dist.experiment.results import Results
from sar_dist.experiment.verdicts import Verdict, verdicts

SEEDS = tuple(range(8))
NOISE = (0.1, -0.1, 0.2, -0.2, 0.05, -0.05, 0.15, -0.15)  # of mean zero


def results_of(
    measured: dict[str, list[float]], seeds: tuple[int, ...] = SEEDS, explored: tuple[int, ...] = ()
) -> Results:
    """Metric -> difference of method and baseline by seed; ``matters`` is 1 for each."""
    primary = tuple(Measure(metric=name, why="x", matters=1.0) for name in measured)
    analysis = Analysis(arm="method", reference="baseline", primary=primary, explored=explored)
    experiment = make_experiment(Path("data"), seeds=seeds, analysis=(analysis,))
    values = {
        name: {"baseline": dict.fromkeys(range(len(each)), 10.0), "method": {n: 10.0 + v for n, v in enumerate(each)}}
        for name, each in measured.items()
    }
    return Results(experiment, experiment.arms[:2], {}, {}, values, {}, ())


def verdicts_of(results: Results) -> list[Verdict]:
    return verdicts(results, results.experiment.analysis[0])


def test_words_claim_no_more_than_the_interval() -> None:
    found = verdicts_of(
        results_of(
            {
                "large": [3 + each for each in NOISE],
                "about one": [1 + each for each in NOISE],
                "small": [-0.5 + each for each in NOISE],
                "nothing": list(NOISE),
                "wide": [20 * each for each in NOISE],
            }
        )
    )
    assert [each.words for each in found] == [
        "established: higher, by as much as would matter",
        "established: higher; whether by as much as would matter is open",
        "established: lower, but by less than would matter",
        "no change shown; the interval holds none that would matter",
        "no change shown; one that would matter is not ruled out",
    ]
    # All eight of one sign: 2 of 256 ways, times the five measures for the lowest p; Holm keeps the others no lower.
    assert [each.permutation for each in found[:3]] == [pytest.approx(5 * 2 / 256)] * 3


def test_few_seeds_have_no_verdict_and_added_ones_do_not_count() -> None:
    interim = verdicts_of(results_of({"large": [3.1, 2.9, 3.0]}))[0]
    assert (interim.words, interim.is_established) == ("interim, 3 of 8 seeds: no verdict", False)
    more = verdicts_of(results_of({"large": [3 + each for each in NOISE] + [-50.0]}))[0]
    assert more.difference is not None
    assert (more.difference.count, more.words) == (8, "established: higher, by as much as would matter")


def test_both_tests_must_reject() -> None:
    # Five seeds: Student's t is certain, but the permutation of signs has p of 2 / 32 at least.
    found = verdicts_of(results_of({"large": [3 + each for each in NOISE[:5]]}, seeds=SEEDS[:5]))[0]
    assert found.student is not None
    assert found.student < 0.001
    assert found.permutation == pytest.approx(2 / 32)
    assert not found.is_established


def test_a_diverged_run_counts_and_establishes_nothing() -> None:
    found = verdicts_of(results_of({"large": [3.0] * 7 + [float("nan")], "other": [3 + each for each in NOISE]}))
    assert found[0].words == "no change shown; one that would matter is not ruled out"
    assert (found[0].student, found[0].permutation) == (None, None)
    assert found[1].permutation == pytest.approx(2 * 2 / 256)  # the family keeps its size


def test_table_tells_the_result_without_the_seeds_that_suggested_it() -> None:
    results = results_of({"large": [9.0, 9.0, 3.0, 3.2, 2.8, 3.1, 2.9, 3.0], "none": []}, explored=(0, 1))
    table = verdicts_table(results, results.experiment.analysis[0])
    assert "without seeds 0, 1" in table.header
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["without seeds 0, 1"].startswith("+3.0 [")
    assert row["pairs"] == "8"
    empty = dict(zip(table.header, table.rows[1], strict=True))
    assert (empty["difference"], empty["verdict"]) == ("–", "interim, 0 of 8 seeds: no verdict")


@pytest.mark.parametrize(("seeds", "least"), [(6, None), (5, "0.0625")])
def test_a_plan_of_too_few_seeds_says_that_it_can_establish_nothing(seeds: int, least: str | None) -> None:
    results = results_of({"large": [3 + each for each in NOISE[:seeds]]}, seeds=SEEDS[:seeds])
    (analysis,) = results.experiment.analysis
    note = verdicts_table(results, analysis).note
    assert verdicts_of(results)[0].is_established == (least is None)
    assert ("nothing can be established" in note) == (least is not None)
    assert (
        least is None or f"With the {seeds} pairs of the plan the permutation test's p cannot be below {least}," in note
    )


def test_the_page_begins_with_what_was_declared() -> None:
    results = results_of({"large": [3 + each for each in NOISE], "none": []})
    assert [(each.label, each.value, each.note) for each in headlines_of(results)] == [
        ("large: method - baseline", "+3.0 [2.9, 3.1]", "established: higher, by as much as would matter"),
        ("none: method - baseline", "–", "interim, 0 of 8 seeds: no verdict"),
    ]
    plain = replace(results, experiment=results.experiment.model_copy(update={"analysis": ()}))
    assert [(each.label, each.note) for each in headlines_of(plain)] == [("baseline", "large"), ("method", "large")]


def test_points_are_those_of_the_seeds() -> None:
    figure = points_figure(results_of({"large": [3.0, 4.0]}))
    assert figure is not None
    (axis,) = figure.axes
    drawn = [collection.get_offsets().tolist() for collection in axis.collections[::2]]
    assert drawn == [[[0, 10], [0, 10]], [[1, 13], [1, 14]]]
    assert points_figure(Results(make_experiment(Path("d")), (), {}, {}, {}, {}, ())) is None
