"""Runs that differ in their seed alone are summed up."""

from __future__ import annotations

import statistics
from pathlib import Path

from result_factory import some_result

from sar_dist.reports import figure_png, report_figure, report_page
from sar_dist.reports.runs import ReportedRun
from sar_dist.reports.seeds import seed_groups, seeds_table


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


def test_runs_are_grouped_by_everything_but_the_seed() -> None:
    assert seed_groups(RUNS) == [[0, 2], [1, 3, 4]]


def test_means_deviations_and_differences() -> None:
    table = seeds_table(RUNS, FIGURES)
    assert table is not None
    assert table.header == ["", "method (2 seeds)", "plain (3 seeds)"]
    assert table.rows[0] == ["knn: top1", "62.5 ± 2.1 (+3.33)", f"59.17 ± {statistics.stdev([60, 59, 58.5]):.2g}"]
    assert table.rows[1] == ["rare", "1", "–"]


def test_no_table_without_a_second_seed() -> None:
    assert seeds_table(RUNS[:2], FIGURES[:2]) is None


def test_the_page_has_the_table() -> None:
    page = report_page(RUNS, figure_png(report_figure(RUNS)))
    assert "Over seeds" in page
    assert "62.5 ± 2.1 (+3.33)" in page
    assert "Over seeds" not in report_page(RUNS[:2], b"")
