"""Which programs are run, in which order, and what happens when they fail or are stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from experiment_factory import ARMS, make_experiment, make_tools
from support import ROOT, program_environment

from sar_dist.errors import UserError
from sar_dist.experiment import Analysis, Evaluation, Experiment, Measure, collect
from sar_dist.experiment.jobs import Job, Processes, run_jobs
from sar_dist.experiment.runner import RunOptions, check_programs, evaluate, train
from sar_dist.setting_trees import merged


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    return RunOptions(tmp_path / "out", tools=make_tools(tmp_path / "tools"))


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "data").mkdir()
    return make_experiment(tmp_path / "data")


def calls(options: RunOptions, name: str = "calls") -> list[str]:
    file = options.out / name
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def quiet(_: str) -> None:
    pass


def test_runs_seed_by_seed_and_only_once(experiment: Experiment, options: RunOptions) -> None:
    lines: list[str] = []
    train(experiment, [], [], options, lines.append)
    expected = ["baseline_seed0", "method_seed0", "baseline_seed1", "method_seed1"]
    assert calls(options) == expected
    train(experiment, [], [], options, lines.append)
    assert calls(options) == expected
    assert "4 of 4 done already" in lines
    train(experiment, ["strong"], [1], options, lines.append)
    assert calls(options) == [*expected, "strong_seed1"]


def test_several_at_once_share_the_cores(
    experiment: Experiment, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    train(experiment, [], [0], RunOptions(options.out, jobs=2, tools=options.tools), quiet)
    assert {line.split()[1] for line in (options.out / "calls").read_text().splitlines()} == {"3"}


def test_a_failure_is_one_line_and_the_rest_goes_on_later(experiment: Experiment, options: RunOptions) -> None:
    options.out.mkdir()
    reason = options.out / "method_seed0.fails"
    reason.touch()
    log = options.out / "logs" / "method_seed0.log"
    message = rf"^method_seed0 ended with status 2 .*: error: the disk is full of cats \(see {log}\)$"
    with pytest.raises(UserError, match=message):
        train(experiment, [], [], options, quiet)
    assert calls(options) == ["baseline_seed0", "method_seed0"]
    reason.unlink()
    train(experiment, [], [], options, quiet)
    assert calls(options)[2:] == ["method_seed0", "baseline_seed1", "method_seed1"]


def test_a_run_that_stopped_early_goes_on(experiment: Experiment, options: RunOptions) -> None:
    options.out.mkdir()
    (options.out / "baseline_seed0.stops").touch()
    with pytest.raises(UserError, match="baseline_seed0 ended with status 0 before its end"):
        train(experiment, [], [0], options, quiet)
    train(experiment, [], [0], options, quiet)
    assert calls(options) == ["baseline_seed0", "baseline_seed0", "method_seed0"]


def test_results_of_another_specification_are_not_taken(experiment: Experiment, options: RunOptions) -> None:
    train(experiment, ["baseline"], [0], options, quiet)
    for key, before, asked in (
        ("optim.epochs", 300.0, 20.0),
        ("engine.precision", "bf16", "fp32"),
        ("data.repeated_augmentation", 1, 2),
        ("data.epoch_samples", None, 100),
    ):
        other = make_experiment(options.out, base=experiment.base.vary({key: asked}))
        with pytest.raises(
            UserError, match=f"baseline_seed0 was made with {key}={before}, the experiment says {asked}"
        ):
            train(other, ["baseline"], [0], options, quiet)
    faster = make_experiment(options.out, base=experiment.base.vary({"data.workers": 3}))
    train(faster, ["baseline"], [0], options, quiet)
    assert calls(options) == ["baseline_seed0"]


def test_data_of_other_names_are_another_run(experiment: Experiment, options: RunOptions) -> None:
    folders = [options.out.parent / name for name in ("one/in100/train", "two/in100", "two/in1k/train", "nowhere")]
    for folder in folders[:3]:
        folder.mkdir(parents=True)
    here, moved, other, nowhere = (
        make_experiment(options.out, base=experiment.base.vary({"data.train": str(folder)})) for folder in folders
    )
    train(here, ["baseline"], [0], options, quiet)
    train(moved, ["baseline"], [0], options, quiet)
    link = options.out.parent / "link"
    link.symlink_to(folders[0])  # its own name and the other one's lead to the same images
    linked = experiment.base.vary({"data.train": str(link)})
    train(make_experiment(options.out, base=linked), ["baseline"], [0], options, quiet)
    with pytest.raises(
        UserError, match=r"baseline_seed0 was made with data.train=\S*one/in100/train, the experiment says \S*two/in1k"
    ):
        train(other, ["baseline"], [0], options, quiet)
    with pytest.raises(UserError, match=r"baseline_seed1: data.train: there is no \S*nowhere"):
        train(nowhere, ["baseline"], [1], options, quiet)
    with pytest.raises(UserError, match=r"baseline_seed1: cannot start"):  # the node that it would run on may have them
        train(nowhere, ["baseline"], [1], dataclasses.replace(options, launcher="/no/srun"), quiet)
    assert calls(options) == ["baseline_seed0"]


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        ({"task": "logreg", "settings": {}}, "task=knn, the experiment says logreg"),
        ({"settings": {"k": [5, 20]}}, r"k=\[3, 20\], the experiment says \[5, 20\]"),
        ({"settings": {}}, r"k=\[3, 20\], the experiment says \[10, 20, 100, 200\]"),
        ({"settings": {"k": [3, 20], "seed": 7}}, "seed=0, the experiment says 7"),
        ({"data": "other_set"}, "data=data, the experiment says other_set"),
    ],
    ids=["task", "setting", "default", "seed", "data"],
)
def test_evaluations_of_another_specification_are_not_taken(
    experiment: Experiment, options: RunOptions, tmp_path: Path, evaluation: dict[str, Any], reason: str
) -> None:
    train(experiment, ["baseline"], [0], options, quiet)
    evaluate(experiment, ["baseline"], [0], options, quiet)
    collect(experiment, options.out)
    asked = {**experiment.evaluations[0].model_dump(), **evaluation}
    if "data" in evaluation:
        asked["data"] = str(tmp_path / evaluation["data"])
        (tmp_path / evaluation["data"]).mkdir()
    other = make_experiment(options.out, evaluations=(Evaluation(**asked),))
    for use in (lambda: evaluate(other, ["baseline"], [0], options, quiet), lambda: collect(other, options.out)):
        with pytest.raises(UserError, match=f"baseline_seed0/knn was made with {reason}; remove that folder"):
            use()
    assert calls(options, "evaluations_made") == ["baseline_seed0"]


def test_tables_need_no_data(
    experiment: Experiment, options: RunOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(experiment, ["baseline"], [0], options, quiet)
    evaluate(experiment, ["baseline"], [0], options, quiet)
    elsewhere = experiment.evaluations[0].model_copy(update={"data": str(tmp_path / "gone")})
    results = collect(make_experiment(options.out, evaluations=(elsewhere,)), options.out)
    assert list(results.records["baseline"][0].evaluations) == ["knn"]
    assert re.search(r"made with data=data, and whether that is \S*gone cannot be told", capsys.readouterr().err)


def test_tables_are_not_made_of_runs_of_another_recipe(experiment: Experiment, options: RunOptions) -> None:
    train(experiment, ["baseline"], [0], options, quiet)
    other = make_experiment(options.out, base=experiment.base.vary({"optim.epochs": 20.0}))
    with pytest.raises(UserError, match=r"baseline_seed0 was made with optim.epochs=300.0, the experiment says 20.0"):
        collect(other, options.out)


def test_what_a_run_settles_itself_is_no_other_configuration(experiment: Experiment, options: RunOptions) -> None:
    train(experiment, ["baseline"], [0], options, quiet)
    file = options.out / "runs" / "baseline_seed0" / "config.json"
    assert experiment.base.augment.where is None
    file.write_text(json.dumps(merged(json.loads(file.read_text()), {"augment": {"where": "worker"}})))
    train(experiment, ["baseline"], [0], options, quiet)
    on_gpu = make_experiment(options.out, base=experiment.base.vary({"augment.where": "device"}))
    with pytest.raises(UserError, match=r"made with augment.where=worker, the experiment says device"):
        train(on_gpu, ["baseline"], [0], options, quiet)


def test_launcher(experiment: Experiment, options: RunOptions, tmp_path: Path) -> None:
    launcher = tmp_path / "my launcher"
    launcher.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/first"\nshift\nexec {sys.executable} "$@"\n')
    launcher.chmod(0o755)
    train(experiment, ["baseline"], [0], RunOptions(options.out, 1, f"'{launcher}' --gpus=8", options.tools), quiet)
    assert (tmp_path / "first").read_text() == "--gpus=8\n"
    assert calls(options) == ["baseline_seed0"]


def test_evaluations(experiment: Experiment, options: RunOptions, tmp_path: Path) -> None:
    evaluate(experiment, [], [], options, quiet)
    assert not calls(options, "evaluations_made")  # nothing is trained yet
    train(experiment, [], [1], options, quiet)
    for _ in range(2):
        evaluate(experiment, [], [], options, quiet)
    assert calls(options, "evaluations_made") == ["baseline_seed1", "method_seed1"]
    line = (options.out / "evaluations_made").read_text().splitlines()[0]
    assert line == f"baseline_seed1 knn {tmp_path / 'data'} {{'seed': '1', 'k': '[3, 20]'}}"
    # A run that was trained again is evaluated again.
    later = time.time() + 5
    os.utime(options.out / "runs" / "method_seed1" / "summary.json", (later, later))
    with pytest.raises(UserError, match="method_seed1_knn ended with status 0 before its end"):
        evaluate(experiment, [], [], options, quiet)  # whose result seems older still
    assert calls(options, "evaluations_made")[2:] == ["method_seed1"]


def test_data_of_evaluations(tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all" / "some_set").mkdir(parents=True)
    monkeypatch.setenv("SAR_DIST_DATA", str(tmp_path / "all"))
    there, missing = make_experiment(Path("some_set")), make_experiment(Path("no_set"))
    train(there, ["baseline"], [0], options, quiet)
    evaluate(there, [], [], options, quiet)
    assert str(tmp_path / "all" / "some_set") in (options.out / "evaluations_made").read_text()
    with pytest.raises(UserError, match=r"evaluation knn: there is no no_set or .*all/no_set.*\$SAR_DIST_DATA"):
        evaluate(missing, [], [], options, quiet)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    job = Job("x", [str(tmp_path / "nothing")], tmp_path / "x.log", lambda: False)
    with pytest.raises(UserError, match=r"x: cannot start .*nothing: No such file"):
        run_jobs([job], 1, quiet)


def test_says_how_much_longer_it_takes(tmp_path: Path) -> None:
    def job(name: str) -> Job:
        file = tmp_path / name
        return Job(name, [sys.executable, "-c", f"open({str(file)!r}, 'w')"], tmp_path / "log", file.exists)

    lines: list[str] = []
    (tmp_path / "d").touch()
    assert run_jobs([job(name) for name in "abcd"], 1, lines.append)
    words = [line.partition(", about")[0] for line in lines if "about" in line]
    assert words == ["2 of 4 done", "3 of 4 done"]
    assert all(line.endswith("s left for these") for line in lines if "about" in line)


def test_time_that_is_left() -> None:
    processes = Processes(seconds=[80.0, 120.0])
    assert processes.seconds_left(6, at_once=2) == pytest.approx(300)
    now = time.monotonic()
    processes.running = {1: now - 50, 2: now - 900}  # type: ignore[dict-item]
    assert processes.seconds_left(2, at_once=2) == pytest.approx(25, abs=1)


def test_a_deadline_lets_what_is_running_save(tmp_path: Path) -> None:
    child = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(60)"
    jobs = [Job(name, [sys.executable, "-c", child], tmp_path / f"{name}.log", lambda: False) for name in "ab"]
    lines: list[str] = []
    assert not run_jobs(jobs, 1, lines.append, time.monotonic() + 1)
    assert [line.partition(":")[0] for line in lines if "started" in line] == ["a"]
    assert not run_jobs(jobs, 1, lines.append, time.monotonic() - 1)


STOPPED = """
import sys
from pathlib import Path
from typing import Any
from sar_dist.program import run_tool
from sar_dist.experiment.jobs import Job, run_jobs
folder = Path(sys.argv[1])
child = '''
import signal, sys, time
from pathlib import Path
from typing import Any
def stop(*_):
    Path(sys.argv[1] + ".saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1] + ".started").touch()
time.sleep(60)
'''
jobs = [
    Job(name, [sys.executable, "-c", child, str(folder / name)], folder / (name + ".log"), lambda: False)
    for name in "abc"
]
run_tool(lambda: run_jobs(jobs, 2, print))
"""


def test_what_it_starts_knows_whose_end_is_its_own(tmp_path: Path) -> None:
    """A training run that was started by an experiment that is killed saves and ends, as under a launcher."""
    asks = "from sar_dist.launchers import find_launchers; print([found.pid for found in find_launchers()])"
    log = tmp_path / "log"
    job = Job("a", [sys.executable, "-c", asks], log, lambda: log.exists() and log.stat().st_size > 0)
    assert run_jobs([job], 1, lambda _: None)
    assert str(os.getpid()) in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_what_is_running(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path)], cwd=ROOT, env=program_environment(), stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.started"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1].decode().strip() == "interrupted"
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["a.saved", "b.saved"]
    assert not (tmp_path / "c.started").exists()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("knnn", {}, r"^evaluation e: there is no task 'knnn'; did you mean knn"),
        ("knn", {"kk": 3}, r"^evaluation e: .*kk"),
        ("knn", {"k": "many"}, r"^evaluation e: k"),
    ],
)
def test_wrong_evaluations_are_found_without_a_run(
    tmp_path: Path, task: str, settings: dict[str, object], message: str
) -> None:
    wrong = make_experiment(
        tmp_path, evaluations=(Evaluation(name="e", task=task, data=str(tmp_path), settings=settings),)
    )
    check_programs(wrong, evaluations=False)
    with pytest.raises(UserError, match=message):
        check_programs(wrong, evaluations=True)


def test_unknown_terms_are_found_without_a_run(experiment: Experiment, tmp_path: Path) -> None:
    check_programs(experiment, evaluations=False)
    with pytest.raises(UserError, match=r"^arm method-nope-1: there is no term 'nope'"):
        check_programs(make_experiment(tmp_path, arms=ARMS).with_term("method", "nope", 1.0), evaluations=False)


@pytest.mark.parametrize("metric", ["nope", "knn: ", "knm: top1", "linear: top5", "top1"])
def test_a_measure_without_a_row_is_found_without_a_run(tmp_path: Path, metric: str) -> None:
    evaluations = tuple(
        Evaluation(name=name, task=name, data=str(tmp_path), metrics=metrics)
        for name, metrics in (("knn", ()), ("linear", ("top1",)))
    )

    def measuring(*metrics: str) -> Experiment:
        primary = tuple(Measure(metric=metric, why="x", matters=1.0) for metric in metrics)
        analysis = Analysis(arm="method", reference="baseline", primary=primary)
        return make_experiment(tmp_path, evaluations=evaluations, analysis=(analysis,))

    check_programs(measuring("knn: top1", "knn: top1 (partial)", "linear: top1", "top-1, %"), evaluations=False)
    own = measuring("total variation").with_term("method", "total_variation", 1.0)
    check_programs(own, evaluations=False)
    with pytest.raises(
        UserError, match=rf"^the analysis measures '{metric}', of which .* no row; they have .*knn: top1"
    ):
        check_programs(measuring("knn: top1", metric), evaluations=False)
