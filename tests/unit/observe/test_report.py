"""The report of one run and of several side by side."""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from report_runs import write_run
from result_factory import some_result
from written_records import append_record

from sar_dist.errors import UserError
from sar_dist.reports import figure_png, png_or_note, report_figure, report_page
from sar_dist.reports.runs import ReportedRun, config_differences, final_figures, load_runs, transfer_figures
from sar_dist.transfer.result import MeasuredData, MeasuredModel, Result, write_result

TOOL = Path(__file__).parents[3] / "tools" / "report.py"


def evaluated(run: Path, folder: str, result: Result) -> Path:
    """Put a result where the evaluation tool does."""
    (run / "transfer" / folder).mkdir(parents=True)
    return write_result(result, run / "transfer" / folder)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    regularized, baseline = write_run(tmp_path, "reg", 0.01, 62.0), write_run(tmp_path, "base", 0.0, 60.0)
    for path, score in ((regularized, 71.5), (baseline, 70.0)):
        baselines = {"random backbone": {"top1": score - 40, "k20_top1": score - 50}}
        evaluated(path, "knn", some_result(metrics={"k20_top1": score - 1, "top1": score}, baselines=baselines))
    return [regularized, baseline]


def test_curves_are_over_epochs(pair: list[Path]) -> None:
    run, baseline = load_runs(pair)
    epochs, losses = run.curve("train", "loss_cls")
    assert epochs == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert losses[0] == 2.0
    assert run.curve("val", "top1")[0] == [1.0, 2.0, 3.0, 4.0]
    assert baseline.curve("train", "loss_entropy") == ([], [])
    assert (run.is_baseline, baseline.is_baseline) == (False, True)


def test_final_figures(pair: list[Path]) -> None:
    figures = final_figures(load_runs(pair)[0])
    assert figures["validation top-1 %"] == figures["best validation top-1 %"] == 62.0
    assert figures["images per second, median"] == 125.0  # without the first record
    assert figures["waiting for data %, median"] == pytest.approx(10)
    assert figures["processes"] == 4
    assert figures["MFU %, median"] is None


def test_page_compares_with_the_baseline(pair: list[Path]) -> None:
    runs = load_runs(pair)
    page = report_page(runs, b"png")
    assert '<th scope="row">validation top-1 %</th><td>62 (+2)</td><td>60</td>' in page
    assert '<th scope="row">knn: top1</th><td>71.5 (+1.5)</td><td>70</td>' in page
    assert '<th scope="row">knn: k20_top1</th><td>70.5 (+1.5)</td><td>69</td>' in page
    assert page.index("knn: top1<") < page.index("knn: k20_top1<")  # the one that is quoted stands first
    assert '<th scope="row">knn: k20_top1, random backbone</th><td>21.5</td><td>20</td>' in page
    assert '<th scope="row">regularizer.weight</th><td>0.01</td><td>0.0</td>' in page
    assert "MFU" not in page.split("Curves")[0]
    assert "0123456789ab" in page


def test_one_run_and_no_transfer(tmp_path: Path) -> None:
    page = report_page(load_runs([write_run(tmp_path, "alone <&>", 0.01, 62.0)]), b"png")
    assert "alone &lt;&amp;&gt;" in page
    assert "In brackets" not in page
    assert "Transfer" not in page
    assert "<dd>62 %</dd><dd>validation top-1 after step 40</dd>" in page
    assert "Different settings" not in page


def test_every_evaluation_is_shown_also_one_of_a_users_own_task(pair: list[Path]) -> None:
    own = some_result(
        task="my_tasks:Sharpness",
        label="sharpness",
        primary="confidence",
        metrics={"confidence": 43.25},
        baselines={},
        partial=True,
        data=MeasuredData(name="d", fingerprints={}, samples=200, skipped=3),
    )
    evaluated(pair[0], "sharpness_flowers", own)
    (pair[1] / "transfer" / "ade20k" / "features").mkdir(parents=True)
    page = report_page(load_runs(pair), b"png")
    assert '<th scope="row">sharpness_flowers (partial): confidence</th><td>43.25</td><td>–</td>' in page
    assert '<th scope="row">sharpness_flowers (partial): scored samples</th><td>200</td><td>–</td>' in page
    assert "sharpness_flowers (partial): unreadable ones, which count as wrong</th><td>3</td>" in page
    assert '<th scope="row">evaluations without a result yet</th><td>0</td><td>ade20k</td>' in page
    assert '<th scope="row">unreadable images of evaluations</th><td>sharpness_flowers: 3</td><td>0</td>' in page


def test_a_single_run_has_the_references_beside_its_metrics(pair: list[Path]) -> None:
    baselines = {"chance": {"mass": 10.0}, "random backbone": {"mass": 12.5}}
    evaluated(pair[0], "boxes", some_result(primary="mass", metrics={"mass": 40.0}, baselines=baselines))
    page = report_page(load_runs(pair[:1]), b"png")
    header = '<th scope="col">chance</th><th scope="col" class="long">random backbone</th></tr>'
    assert header in page
    assert '<th scope="row">boxes: mass</th><td>40</td><td>10</td><td>12.5</td>' in page
    assert '<th scope="row">knn: top1</th><td>71.5</td><td>–</td><td>31.5</td>' in page
    assert '<th scope="row">knn: scored samples</th><td>10</td><td></td><td></td>' in page
    assert "Transfer: references" not in page


def test_a_damaged_result_is_refused(pair: list[Path]) -> None:
    (pair[0] / "transfer" / "knn" / "result.json").write_text('{"metrics": {"top1": 1}}')
    with pytest.raises(UserError, match=r"knn/result.json is not a result of tools/transfer_eval.py: task is missing"):
        load_runs(pair)


def test_figure_shows_what_was_recorded(pair: list[Path]) -> None:
    figure = report_figure(load_runs(pair))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert "cross-entropy, nats (training; with markers: validation)" in titles
    assert not any("FLOPs" in title for title in titles)  # no run has MFU
    norms = figure.axes[titles.index("gradient norm before clipping")]
    assert norms.get_yscale() == "log"
    with Image.open(io.BytesIO(figure_png(figure))) as picture:
        assert picture.width == 13 * 130
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["reg", "base"]


def test_texts_do_not_overlap(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path, f"a_run_with_a_long_name_{number}", 0.01 * number) for number in range(4)])
    figure = report_figure(runs)
    figure.canvas.draw()
    boxes = [axis.get_tightbbox().padded(-1) for axis in figure.axes] + [figure.legends[0].get_window_extent()]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_diverged_and_short_runs(tmp_path: Path) -> None:
    path = write_run(tmp_path, "nan", 0.01, steps=5)
    append_record(path / "metrics.jsonl", 10, "train", 0.0, {"loss_cls": float("nan"), "epoch": 1.0})
    runs = load_runs([path])
    assert final_figures(runs[0])["training loss"] != final_figures(runs[0])["training loss"]
    assert "nan" in report_page(runs, figure_png(report_figure(runs)))


def test_names_are_no_formulas(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path, name, 0.01) for name in (r"$\frac$", "$a_b$")])
    assert figure_png(report_figure(runs)).startswith(b"\x89PNG")


def test_same_name_in_two_places(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "a", "same", 0.0), write_run(tmp_path / "b", "same", 0.0)])
    assert [run.name for run in runs] == [str(tmp_path / "a" / "same"), str(tmp_path / "b" / "same")]


def test_differences_of_configuration() -> None:
    def run(config: dict) -> ReportedRun:
        return ReportedRun("x", Path("x"), config, {}, [], {})

    first = run({"run": {"name": "a"}, "optim": {"lr": 1, "clip": None}})
    second = run({"run": {"name": "b"}, "optim": {"lr": 2, "clip": None}})
    assert config_differences([first, second]) == {"optim.lr": ["1", "2"]}


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl"])
def test_not_a_run(tmp_path: Path, missing: str) -> None:
    path = write_run(tmp_path, "x", 0.0)
    (path / missing).unlink()
    with pytest.raises(UserError, match=str(path)):
        load_runs([path])


def test_tool(pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_status:
            runpy.run_path(str(TOOL), run_name="__main__")
        return exit_status.value.code, capsys.readouterr().err

    assert run(*pair, "--out", tmp_path / "page") == (0, "")
    assert run(pair[0]) == (0, "")
    assert (pair[0] / "report" / "report.html").is_file()
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["curves.png", "report.html"]
    assert (tmp_path / "page" / "report.html").read_text().count("data:image/png;base64,") == 1
    assert run(pair[0], "--baseline", pair[1], "--out", tmp_path / "page") == (0, "")
    assert "<h2>Differences to base</h2>" in (tmp_path / "page" / "report.html").read_text()
    status, error = run(pair[0], "--baseline", pair[0], "--out", tmp_path / "page")
    assert (status, "every run has the baseline's settings" in error) == (2, True)
    status, error = run(tmp_path, "--out", tmp_path / "page")
    assert (status, error.count("\n")) == (2, 1)
    status, error = run(pair[0], pair[0], "--out", tmp_path / "page")
    assert (status, "named twice" in error) == (2, True)
    status, error = run(pair[0], "--out", pair[0] / "config.json")
    assert (status, "cannot write" in error) == (2, True)


def test_a_picture_that_fails_is_said_and_noted_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> bytes:
        raise ValueError("cannot\nconvert")

    with Image.open(io.BytesIO(png_or_note("curves", fails))) as note:
        assert note.convert("L").getextrema()[0] < 128, "there is text on it"
    assert capsys.readouterr().err == (
        "the picture curves could not be drawn (ValueError: cannot convert); it is left out, and the numbers are complete\n"
    )
    assert png_or_note("curves", lambda: b"png") == b"png"


@pytest.mark.parametrize(
    ("description", "row"),
    [
        ("a (vit_tiny), moving average of the weights after step 40", "knn: top1"),
        ("out/a (vit_tiny), run a, weights after step 40", "knn: top1"),
        ("a (vit_tiny), weights after step 10", "knn (after step 10): top1"),
        ("out/a (vit_tiny), run a, weights after step 10", "knn (after step 10): top1"),
        ("b (vit_tiny), weights after step 40", "knn (of b, after step 40): top1"),
        ("vit_tiny, pretrained weights", "knn: top1"),
    ],
)
def test_results_of_other_weights_than_the_runs_last_ones_say_so(tmp_path: Path, description: str, row: str) -> None:
    run = write_run(tmp_path, "a", 0.0, steps=40)
    model = MeasuredModel(spec="x", description=description, fingerprint="f")
    evaluated(run, "knn", some_result(model=model))
    assert list(transfer_figures(load_runs([run])[0])) == [row]


def test_damaged_lines_of_a_log_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "a", 0.0)
    log = run / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 45, "pre')  # the run goes on
    count = len(load_runs([run])[0].records)
    assert capsys.readouterr().err == ""
    log.write_bytes(b"\0\0\n" + whole + b'{"step": 45, "prefix": "train", "loss": "high"}\n')
    assert len(load_runs([run])[0].records) == count
    assert capsys.readouterr().err.endswith(
        "metrics.jsonl: 2 lines that cannot be read left out, the first is line 1\n"
    )
