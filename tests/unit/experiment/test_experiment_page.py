"""The tables, curves and page of an experiment, from runs whose figures are known."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from experiment_factory import make_experiment, make_tools
from PIL import Image
from report_runs import keep_details

from sar_dist.errors import UserError
from sar_dist.experiment import page
from sar_dist.experiment.curves import band, curves_board, curves_figure, curves_of, ordered_heads
from sar_dist.experiment.page import check_report, markdown, print_tables, write_report
from sar_dist.experiment.results import Comparison, Results, collect
from sar_dist.experiment.runner import RunOptions, evaluate, train
from sar_dist.paired_statistics import Difference
from sar_dist.reports import Picture, Summary, format_difference, format_summary


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Baseline and method with seeds 0 and 1, the optional arm with seed 5; one run is missing."""
    root = tmp_path_factory.mktemp("experiment")
    (root / "data").mkdir()
    options = RunOptions(root / "out", tools=make_tools(root / "tools"))
    experiment = make_experiment(root / "data", seeds=(0, 1, 2))
    for arms, seeds in ((["baseline", "method"], [0, 1]), (["strong", "method"], [5]), (["baseline"], [2])):
        train(experiment, arms, seeds, options, lambda _: None)
    evaluate(experiment, [], [0, 1], options, lambda _: None)
    return collect(experiment, options.out)


def test_figures_of_every_run(results: Results) -> None:
    assert results.values["top-1, %"] == {
        "baseline": {0: 50.0, 1: 60.0, 2: 70.0},
        "method": {0: 51.0, 1: 61.0, 5: 101.0},
        "strong": {5: 110.0},
    }
    assert results.values["knn: top1"] == {"baseline": {0: 40.0, 1: 41.0}, "method": {0: 40.0, 1: 41.0}}
    assert results.references == {"knn: top1": {"chance": 10.0}}
    assert results.unfinished == ("method_seed2",)


def test_charts_over_steps_and_images_where_the_runs_of_an_arm_agree(results: Results) -> None:
    def axes(of: Results) -> list[tuple[str, list[float]]]:
        picture = Picture("curves", "curves", b"")
        return [(axis.name, list(axis.per_x)) for axis in curves_board(of, picture).further_axes]

    batch = results.runs["baseline"][0].config["optim"]["global_batch"]
    assert axes(results) == [("step", [2, 2, 2]), ("training image", [2 * batch] * 3)]

    other = copy.deepcopy(results.runs["method"][1])
    other.config["optim"]["global_batch"] *= 2
    mixed = {**results.runs, "method": {**results.runs["method"], 1: other}}
    assert axes(dataclasses.replace(results, runs=mixed)) == [("step", [2, 2, 2])]


def test_comparisons_with_the_baseline_and_with_the_named_arm(results: Results) -> None:
    assert results.comparisons() == [
        Comparison("method", "baseline"),
        Comparison("strong", "baseline"),
        Comparison("strong", "method"),
    ]
    named = tuple(arm.model_copy(update={"against": ("baseline", "method")}) for arm in results.arms[2:])
    again = dataclasses.replace(results, arms=(*results.arms[:2], *named))
    assert again.comparisons() == results.comparisons(), "each pair once"
    first = results.difference("top-1, %", Comparison("method", "baseline"))
    assert first is not None
    assert (first.mean, first.count) == (pytest.approx(1.0), 2)
    assert results.difference("top-1, %", Comparison("strong", "baseline")) is None
    single = results.difference("top-1, %", Comparison("strong", "method"))
    assert single is not None
    assert (single.mean, single.student) == (pytest.approx(9.0), None)
    assert results.difference("knn: top1", Comparison("strong", "method")) is None


def test_numbers_have_the_digits_that_they_bear() -> None:
    assert format_summary(Summary(76.0234, 0.612, 3)) == "76.02 ± 0.61 (3)"
    assert format_summary(Summary(0.243211, 0.0021, 3)) == "0.2432 ± 0.0021 (3)"
    assert format_summary(Summary(50.0, None, 1)) == "50.00 (1)"
    assert format_summary(Summary(0.0, 0.0, 2)) == "0.00 ± 0.00 (2)"
    assert format_summary(Summary(math.inf, None, 1)) == "inf (1)"
    assert format_summary(None) == "–"
    assert format_difference(Difference(0.61, (-0.2, 1.1), (-0.95, 2.17), 3)) == "+0.6 [-0.2, 1.1] [-0.9, 2.2]"
    assert format_difference(Difference(-0.0123, None, None, 1)) == "-0.0123"
    assert format_difference(None) == "–"


def test_curves_of_an_arm(results: Results) -> None:
    epochs, values = band(list(results.runs["method"].values()), "val", "top1")
    assert epochs.tolist() == [0.5, 1.0, 1.5, 2.0]
    np.testing.assert_allclose(values[:, -1], [51, 61, 101])
    none, empty = band(list(results.runs["method"].values()), "val", "speed")
    assert none.size == empty.size == 0


def test_only_what_was_recorded_has_a_chart(results: Results) -> None:
    drawn = curves_of(results)
    assert ("validation top-1, %", "val", "top1") in drawn
    assert not [title for title, _, _ in drawn if "total variation" in title or "distillation" in title]
    assert all(band(list(results.runs["method"].values()), prefix, name)[0].size for _, prefix, name in drawn)
    assert len(curves_figure(results).axes) == len(drawn)
    nothing = dataclasses.replace(results, runs={arm: {} for arm in results.runs})
    assert curves_figure(nothing).axes == []


def test_heads_are_in_order_of_their_value_in_each_run(results: Results) -> None:
    # Head 0 is the higher one with seed 0 and the lower one with seed 1.
    low, high = ordered_heads({seed: results.runs["baseline"][seed] for seed in (0, 1)}, "entropy_block")
    np.testing.assert_allclose(low[1][:, -1], [0.2, 0.2])
    np.testing.assert_allclose(high[1][:, -1], [0.4, 0.4])


def test_page_and_files(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = write_report(results, tmp_path).read_text()
    assert "A &lt;small&gt; experiment" in page
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page
    chart = json.loads(page.split('<script type="application/json">')[1].split("</script>")[0])["charts"][0]
    baseline = chart["lines"][0]
    assert (baseline["x"][-1], baseline["y"][-1], baseline["low"][-1], baseline["high"][-1]) == (2, 0.75, 0.75, 0.75)
    assert "Not finished: method_seed2." in page
    for name in ("curves", "heads"):
        assert Image.open(io.BytesIO((tmp_path / f"{name}.png").read_bytes())).width > 600
    text = (tmp_path / "results.md").read_text()
    assert text == markdown(results)
    assert "| top-1, % | 60 ± 10 (3) | 71 ± 26 (3) | 110.0 (1) |  |" in text
    assert "| knn: top1 | 40.50 ± 0.71 (2) | 40.50 ± 0.71 (2) | – | 10 |" in text
    print_tables(results)
    assert "not finished: method_seed2" in capsys.readouterr().out


def test_the_page_has_the_attention_of_a_run_of_each_arm(results: Results, tmp_path: Path) -> None:
    assert "Attention over training" not in write_report(results, tmp_path).read_text()
    kept = [next(iter(by_seed.values())) for by_seed in results.runs.values()]
    for run in kept:
        keep_details(run.path, [1, 2])
    page = write_report(results, tmp_path).read_text()
    assert re.findall(r'<div class="attended-run">\s*<h3>(.*?)</h3>', page) == [run.name for run in kept]


def test_a_picture_that_fails_costs_no_table(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Results) -> None:
        raise ValueError("no room for axes")

    monkeypatch.setattr(page, "curves_figure", fails)
    write_report(results, tmp_path)
    assert (tmp_path / "results.md").read_text() == markdown(results)
    assert capsys.readouterr().err.count("curves could not be drawn (ValueError: no room for axes)") == 1
    with Image.open(tmp_path / "curves.png") as note:
        assert note.size == (480, 60)


def test_a_metric_that_the_evaluation_does_not_have(results: Results, tmp_path: Path) -> None:
    knn = results.experiment.evaluations[0].model_copy(update={"metrics": ("top3",)})
    wrong = results.experiment.model_copy(update={"evaluations": (knn,)})
    with pytest.raises(UserError, match=r"evaluation knn of baseline, seed 0, has no 'top3', which .* shows: top1"):
        collect(wrong, next(iter(results.runs["baseline"].values())).path.parents[1])


def test_many_unfinished_runs_are_counted(results: Results) -> None:
    names = tuple(f"{arm}_seed{seed}" for arm in ("baseline", "my_arm") for seed in range(4))
    assert markdown(dataclasses.replace(results, unfinished=names)).endswith(
        "Not finished: 4 of baseline, 4 of my_arm.\n"
    )


def test_a_report_takes_the_place_of_its_own_files_alone(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    check_report(tmp_path)
    (tmp_path / "experiment.html").unlink()
    with pytest.raises(UserError, match=r"results\.md would be overwritten"):
        check_report(tmp_path)


def test_nothing_is_finished_yet(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with pytest.raises(UserError, match="no run of small is finished"):
        write_report(collect(experiment, tmp_path), tmp_path)
