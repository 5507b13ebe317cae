"""``log.to``: what it may name, that a resume continues the same run there, and that nothing there stops training."""

from __future__ import annotations

import importlib.machinery
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sar_dist.config import RunConfig
from sar_dist.errors import UserError
from sar_dist.observe import RunLogger, check_destinations


class FakeRun:
    """A W&B run as the server would hold it, and what this start may do with it."""

    def __init__(self, server: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.id, self.url, self.offline, self.arguments = arguments["id"], "https://w/run", False, arguments
        self.history = server.setdefault(self.id, {})
        self.step = max(self.history, default=-1) + 1
        self.summary: dict[str, float] = {}
        self.exit_code: int | None = None

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= max(self.history, default=-1), "W&B drops what goes back"
        self.history.setdefault(step, {}).update(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with the few functions that we use; ``runs`` are the starts, ``server`` what is kept of each id."""
    module: Any = ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.server, module.runs = {}, []

    def init(**arguments: Any) -> FakeRun:
        module.runs.append(FakeRun(module.server, arguments))
        return module.runs[-1]

    module.init, module.Settings = init, SimpleNamespace
    module.Image = lambda pixels: ("image", pixels.shape)
    module.Histogram = lambda values: ("histogram", len(values))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def make_logger(directory: Path, to: tuple[str, ...] = ("wandb",), enabled: bool = True) -> RunLogger:
    directory.mkdir(exist_ok=True)
    return RunLogger(directory, enabled=enabled, total_steps=100, description="demo", to=to, project="vits")


def test_everything_arrives_at_wandb(tmp_path: Path, wandb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make_logger(tmp_path / "run")
    logger.start({"optim": {"lr": 0.1}}, -1)
    logger.metrics(1, {"loss": 2.0})
    logger.metrics(1, {"forward": 0.5}, prefix="step_seconds")
    figure = Figure(figsize=(2, 1), dpi=50)
    logger.figure("attention", figure, 2)
    logger.histograms(2, {"entropy": np.array([[1.0, np.nan], [2.0, 3.0]])}, prefix="attention")
    logger.hyperparameters({}, {"top1": 50.0})
    logger.close()
    (run,) = wandb.runs
    assert run.history == {
        1: {"train/loss": 2.0, "step_seconds/forward": 0.5},
        2: {"attention": ("image", (50, 100, 3)), "attention/entropy": ("histogram", 3)},
    }
    assert (run.summary, run.exit_code) == ({"final/top1": 50.0}, 0)
    assert (run.arguments["project"], run.arguments["name"]) == ("vits", "demo")
    assert run.arguments["config"] == {"optim": {"lr": 0.1}}
    assert f"W&B run {run.id}: https://w/run" in capsys.readouterr().out
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert logger.failures == 0


def test_a_resume_continues_the_same_wandb_run(tmp_path: Path, wandb: Any) -> None:
    for start, stop in ((-1, 9), (5, 12)):  # killed at step 9; the newest checkpoint is of step 5
        logger = make_logger(tmp_path / "run")
        logger.start({}, start)
        for step in range(max(start, 0) + 1, stop + 1):
            logger.metrics(step, {"loss": 1 / step})
        logger.close()
        assert logger.failures == 0
    (history,) = wandb.server.values()
    assert history == {step: {"train/loss": 1 / step} for step in range(1, 13)}
    other = make_logger(tmp_path / "other")
    other.start({}, -1)
    assert len(wandb.server) == 2


def test_a_destination_that_fails_while_training_is_said_once_and_counted(
    tmp_path: Path, wandb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = make_logger(tmp_path / "run", to=("wandb", "tensorboard"))
    logger.start({}, -1)
    run = wandb.runs[0]
    run.log = lambda values, step: (_ for _ in ()).throw(RuntimeError("the service is gone"))
    for step in (1, 2, 3):
        logger.metrics(step, {"loss": 1.0})
    errors = capsys.readouterr().err
    assert errors.count("\n") == errors.count("logging failed in wandb, training goes on") == 1
    assert "the service is gone" in errors
    del run.log
    logger.metrics(4, {"loss": 1.0})
    with pytest.raises(KeyError), closing(logger):
        raise KeyError
    assert (logger.failures, list(run.history), run.exit_code) == (3, [4], 1)
    assert capsys.readouterr().err == "warning: log entries that were lost: 3 of wandb\n"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert any((tmp_path / "run" / "tensorboard").iterdir())


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("in the text of an error")


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (ValueError("a\n\n  b\n"), "a b"),
        (Unprintable(), "Unprintable: its text cannot be shown"),
        (ValueError(), "ValueError"),
    ],
)
def test_whatever_a_library_raises_at_its_start_is_one_line(
    problem: Exception, text: str, tmp_path: Path, wandb: Any
) -> None:
    def init(**arguments: Any) -> None:
        raise problem

    wandb.init = init
    with pytest.raises(UserError) as raised:
        make_logger(tmp_path / "run").start({}, -1)
    assert str(raised.value).startswith(f"log.to: wandb does not start: {text}; see to that")


@pytest.mark.parametrize("problem", [ValueError("a\nb\n"), Unprintable()])
def test_whatever_a_library_raises_while_training_is_one_line(
    problem: Exception, tmp_path: Path, wandb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = make_logger(tmp_path / "run", to=("wandb",))
    logger.start({}, -1)
    capsys.readouterr()
    wandb.runs[0].log = lambda values, step: (_ for _ in ()).throw(problem)
    logger.metrics(1, {"loss": 1.0})
    assert capsys.readouterr().err.count("\n") == 1
    assert logger.failures == 1


def test_a_destination_that_does_not_start_is_one_line(tmp_path: Path, wandb: Any) -> None:
    def init(**arguments: Any) -> None:
        raise RuntimeError("No API key configured")

    wandb.init = init
    logger = make_logger(tmp_path / "run")
    with pytest.raises(UserError, match=r"wandb does not start: No API key configured; .*WANDB_MODE=offline"):
        logger.start({}, -1)


def test_only_the_main_process_logs(tmp_path: Path, wandb: Any) -> None:
    logger = make_logger(tmp_path / "run", enabled=False)
    logger.start({}, -1)
    logger.metrics(1, {"loss": 1.0})
    logger.close()
    assert wandb.runs == []
    assert list((tmp_path / "run").iterdir()) == []


def test_what_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"log\.to=wandb needs wandb: pip install 'sar_dist\[wandb\]'"):
        check_destinations(("tensorboard", "wandb"))
    with pytest.raises(UserError, match=r"there is no 'tensorbord'; did you mean tensorboard\?"):
        check_destinations(("tensorbord",))
    with pytest.raises(UserError, match="that is no class derived from"):
        check_destinations(("pathlib:Path",))


def test_one_name_is_a_list_of_one() -> None:
    def config(to: Any) -> RunConfig:
        return RunConfig.model_validate({"run": {"name": "a"}, "log": {"to": to}})

    assert config("wandb").log.to == ("wandb",)
    assert config([]).log.to == ()


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'sar_dist[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_destinations(("wandb",))
    for step in (1, 2):
        logger = make_logger(tmp_path / "run")
        logger.start({"optim": {"lr": 0.1, "betas": (0.9, 0.99)}}, step - 1)
        logger.metrics(step, {"loss": float("nan")})
        logger.figure("attention", Figure(figsize=(2, 1), dpi=50), step)
        logger.histograms(step, {"entropy": np.ones(3)}, prefix="attention")
        logger.hyperparameters({}, {"top1": 50.0})
        logger.close()
        assert logger.failures == 0
    run_id = (tmp_path / "run" / "wandb_run_id").read_text().strip()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert {file.name for file in files} == {f"run-{run_id}.wandb"}
    assert all(b"train/loss" in file.read_bytes() for file in files)
