"""Runs that differ in their seed alone are summed up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from result_factory import some_result

from sar_dist.errors import UserError
from sar_dist.reports import COLORS, figure_png, report_figure, report_page
from sar_dist.reports.curves import looks_of
from sar_dist.reports.runs import ReportedRun
from sar_dist.reports.seeds import differences_table, find_baseline, means_table, seed_groups


def run(name: str, weight: float, seed: int, top1: float) -> ReportedRun:
    config = {"run": {"name": name, "dir": "runs", "seed": seed}, "regularizer": {"weight": weight}}
    records = [{"step": 10, "prefix": "train", "epoch": 1.0, "loss_cls": 1.0}]
    return ReportedRun(name, Path(name), config, {}, records, {"knn": some_result(metrics={"top1": top1})})


RUNS = [
    run("method_seed0", 0.01, 0, 61.0),
    run("plain_seed0", 0.0, 0, 60.0),
    run("method_seed1", 0.01, 1, 64.0),
    run("plain_seed1", 0.0, 1, 59.0),
    run("plain_seed2", 0.0, 2, 58.5),
]
FIGURES = [
    {"knn: top1": r.transfer["knn"].metrics["top1"], "rare": 1.0 if r.name == "method_seed0" else None} for r in RUNS
]


GROUPS = seed_groups(RUNS)


def test_runs_are_grouped_by_everything_but_the_seed() -> None:
    assert [(group.name, group.runs, group.seeds) for group in GROUPS] == [
        ("method (2 seeds)", [0, 2], [0, 1]),
        ("plain (3 seeds)", [1, 3, 4], [0, 1, 2]),
    ]


def test_means_and_deviations() -> None:
    table = means_table(GROUPS, FIGURES)
    assert table is not None
    assert table.header == ["", "method (2 seeds)", "plain (3 seeds)"]
    assert table.rows == [["knn: top1", "62.5 ± 2.1 (2)", "59.17 ± 0.76 (3)"], ["rare", "1.000 (1)", "–"]]
    assert means_table(seed_groups(RUNS[:2]), FIGURES[:2]) is None


def test_runs_on_other_data_are_compared_only_when_asked_to() -> None:
    runs = [replace(each, config=each.config | {"data": {"val": each.name}}) for each in RUNS]
    groups = seed_groups(runs)
    assert find_baseline(groups, runs, []) is None
    assert find_baseline(groups, runs, [Path("plain_seed0")]) is groups[1]


def test_differences_are_of_the_same_seed_with_intervals() -> None:
    baseline = find_baseline(GROUPS, RUNS, [])
    assert baseline is GROUPS[1]  # the only group without the regularizer
    table = differences_table(GROUPS, baseline, FIGURES)
    assert table.title == "Differences to plain (3 seeds)"
    # 61 - 60 and 64 - 59; Student's t for two of them: 3 +- 12.706 x 2
    assert table.header == ["", "difference", "method (2 seeds)", "plain (3 seeds)"]
    assert table.rows == [["knn: top1", "+3 [1, 5] [-22, 28]", "62.5 ± 2.1", "59.17 ± 0.76"]]
    assert "95 % interval" in table.note


def test_differences_of_one_seed_promise_no_interval_and_say_which_way_is_up() -> None:
    groups = seed_groups(RUNS[:2])
    table = differences_table(groups, groups[1], [{"validation loss": 2.0}, {"validation loss": 2.5}])
    assert table.rows == [["validation loss (less is better)", "-0.50", "2", "2.5"]]
    assert table.note.startswith("Of one seed each")


def test_a_baseline_is_chosen_by_any_of_its_runs() -> None:
    assert find_baseline(GROUPS, RUNS, [Path("method_seed1")]) is GROUPS[0]
    for runs, chosen, problem in (
        (RUNS, ["method_seed0", "plain_seed0"], r"method_seed0 and plain_seed0 differ in regularizer.weight"),
        (RUNS[1::2], ["plain_seed0"], "every run has the baseline's settings"),
        (
            [*RUNS, run("again", 0.0, 2, 58.0)],
            ["again"],
            "plain_seed2, again have the same settings, and a seed in common",
        ),
    ):
        with pytest.raises(UserError, match=problem):
            find_baseline(seed_groups(runs), runs, [Path(name) for name in chosen])


def test_no_seed_in_common_is_said() -> None:
    runs = [run("a", 0.01, 5, 60.0), *RUNS[1::2]]
    groups = seed_groups(runs)
    table = differences_table(groups, groups[1], [{"knn: top1": 60.0}] * 3)
    assert table.rows == []
    assert table.note.endswith("Without a seed in common with it: a.")


def test_the_page_has_the_tables() -> None:
    page = report_page(RUNS, figure_png(report_figure(RUNS)))
    assert "Over seeds" in page
    assert "<td>62.5\u00a0±\u00a02.1 (2)</td>" in page  # not broken on a phone
    assert page.index("Differences to plain (3 seeds)") < page.index("<td>+3 [1,\u00a05] [-22,\u00a028]</td>")
    pair = report_page(RUNS[:2], b"")
    assert "Over seeds" not in pair
    assert "Differences to" not in pair  # in brackets instead
    assert '<th scope="row">knn: top1</th><td>+1.00</td><td>61</td><td>60</td>' in report_page(
        RUNS[:2], b"", [Path("plain_seed0")]
    )
    twice = report_page([*RUNS, run("again", 0.0, 2, 58.0)], b"")
    assert "Differences to" not in twice


def test_the_headline_says_how_much_better() -> None:
    runs = [
        ReportedRun(each.name, each.path, each.config, {}, [*each.records, record], {})
        for each, record in zip(
            RUNS[:4], [{"step": 10, "prefix": "val", "top1": top1} for top1 in (70.0, 60.0, 72.0, 61.0)], strict=True
        )
    ]
    page = report_page(runs, b"")
    note = "validation top-1 after step 10; +10.5 [10.0, 11.0] [4.1, 16.9] against plain (2 seeds)"
    assert f"<dt>method (2 seeds)</dt><dd>71.0 ± 1.4 %</dd><dd>{note}</dd>" in page
    assert "<dt>plain (2 seeds)</dt><dd>60.50 ± 0.71 %</dd><dd>validation top-1 after step 10</dd>" in page


def test_a_run_that_diverged_has_a_headline() -> None:
    records = [*RUNS[0].records, {"step": 10, "prefix": "val", "top1": "NaN"}]
    page = report_page([ReportedRun("x", Path("x"), RUNS[0].config, {}, records, {})], b"")
    assert "<dd>nan %</dd><dd>validation top-1 after step 10</dd>" in page


def test_a_colour_is_a_configuration_and_a_line_style_a_seed() -> None:
    looks = looks_of(RUNS)
    assert [look.color for look in looks] == [COLORS[0], COLORS[1], COLORS[0], COLORS[1], COLORS[1]]
    assert [look.style for look in looks] == ["solid", "solid", "dashed", "dashed", "dotted"]
    many = looks_of([run(str(weight), float(weight), 0, 60.0) for weight in range(len(COLORS) + 1)])
    assert (many[-1].color, many[-1].style) == (COLORS[0], "dashed")
