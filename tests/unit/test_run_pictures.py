"""Samples as the model sees them, the profiler's turns, and that a run closes its logger whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from support import ROOT

from sar_dist.config import RunConfig, load_config
from sar_dist.data.images import Canvas, DrawnOperation, Kind, make_plan
from sar_dist.observe import QUANTITIES
from sar_dist.training import ClassificationTask, Trainer, pictures, profiling
from sar_dist.training.length import RunLength
from sar_dist.training.pictures import Pictures
from sar_dist.training.profiling import StepProfiler, time_shares
from sar_dist.training.reporting import progress_values

CPU = torch.device("cpu")


def demo(*overrides: str) -> RunConfig:
    return load_config(ROOT / "configs" / "demo.py", overrides)


def training_batch(size: int) -> dict[str, Any]:
    number = torch.arange(size)
    pixels = torch.randint(0, 256, (size, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensors = {"image": pixels, "label": number % 8, "epoch": number * 0, "sample": 7 * number, "position": number}
    return {**tensors, "bad": 0, "bad_keys": []}


@pytest.mark.parametrize("where", ["worker", "device"])
def test_the_drawn_samples_are_what_the_model_saw(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    config = demo("augment.mixup=0.8", "augment.cutmix=1.0", "augment.random_erasing=0.9", "regularizer.weight=0")
    task = ClassificationTask(config, (8, 8), CPU)
    seen: list[torch.Tensor] = []

    def model(images: torch.Tensor, sample_keys: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        seen.append(images)
        return {"logits": torch.zeros(len(images), 8, requires_grad=True)}

    batch = training_batch(24)
    if where == "device":
        drawn_for_each = [
            [DrawnOperation(Kind.FLIP), DrawnOperation(Kind.ROTATE, 3.0 * number)] for number in range(24)
        ]
        batch["plan"], batch["operations"] = make_plan(drawn_for_each, 64, Canvas("bicubic", (124, 116, 104)))
    task.losses(model, batch, 0.0)
    drawn = Mock()
    monkeypatch.setattr(pictures, "samples_figure", drawn)
    loader: Any = SimpleNamespace(class_names=("ant", "bee"), total=3)
    Pictures(config, task, loader, Mock())._samples(batch)
    images, captions, _ = drawn.call_args.args
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.augment.mean, config.augment.std))
    assert torch.allclose((images - mean) / std, seen[0][:16], atol=1e-5)
    assert len(captions) == 16
    assert all("%" in caption for caption in captions)
    mixed = [caption for caption in captions if ", " in caption]
    assert mixed
    assert not any(" 0%" in caption for caption in captions)
    assert captions[0].startswith(("ant", "bee"))
    assert any("class 5" in caption for caption in captions)  # the data names two of the model's eight classes


class TraceOfNothing:
    """Stands in for ``StepTrace`` and writes down what is asked of it."""

    said: list[str]

    def __init__(self, steps: range, device: torch.device, write: Callable[..., None]) -> None:
        self.said.append(f"trace {steps}")

    def step(self, number: int) -> Any:
        self.said.append(f"traced {number}")
        return profiling.collectives_as_regions()

    def step_done(self) -> None:
        self.said.append("done")

    def close(self) -> None:
        self.said.append("closed")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens around each step, without DeepSpeed."""
    from contextlib import contextmanager, nullcontext

    lines: list[str] = []

    @contextmanager
    def timed(self: Any) -> Any:
        lines.append("timed")
        yield

    monkeypatch.setattr(TraceOfNothing, "said", lines, raising=False)
    monkeypatch.setattr(profiling, "StepTrace", TraceOfNothing)
    monkeypatch.setattr(profiling, "collectives_as_regions", nullcontext)
    monkeypatch.setattr(profiling.StepTimer, "step", timed)
    return lines


def run_steps(first: int, last: int, *overrides: str) -> Mock:
    """Profile the steps after ``first`` up to ``last``; returns the logger."""
    config, logger = demo(*overrides), Mock()
    throughput: Any = Mock(paused=Mock(return_value=profiling.collectives_as_regions()))
    profiler = StepProfiler(config, RunLength(config, 100), first, CPU, logger, throughput)
    for number in range(first + 1, last + 1):
        with profiler.step(number):
            pass
    profiler.close()
    return logger


def test_steps_are_timed_in_turn_but_never_the_first(said: list[str]) -> None:
    run_steps(0, 25)
    assert said == ["timed", "timed"]
    said.clear()
    run_steps(9, 25)  # step 10 is the first after a resume
    assert said == ["timed"]
    said.clear()
    run_steps(0, 25, "profile.sample_every=null")
    assert said == []


def test_traced_steps_are_not_timed(said: list[str]) -> None:
    logger = run_steps(
        40, 60, "profile.sample_every=1", "profile.trace=true", "profile.trace_after=2", "profile.trace_steps=2"
    )
    assert said[:8] == ["trace range(43, 45)", "traced 42", "done", "traced 43", "done", "traced 44", "done", "timed"]
    assert said[-1] == "closed"
    logger.message.assert_not_called()


def test_a_trace_that_never_begins_is_said(said: list[str]) -> None:
    logger = run_steps(0, 5, "profile.trace=true")
    (message,) = logger.message.call_args.args
    assert message == "warning: profile.trace: training ended before step 10; lower profile.trace_after"


def test_the_progress_line_names_the_largest_parts() -> None:
    split = dict.fromkeys(profiling.PARTS, 0.01) | {"backward": 0.5, "forward": 0.3, "communication": 0.13}
    assert time_shares(split | {"total": 1.0}) == "backward 50% forward 30% comm 13% data 1%"
    metrics = {"loss": 1.0, "images_per_second": 2.0, "data_wait_share": 0.0, "mfu_of_matmul": 0.5}
    assert progress_values(metrics, {}, QUANTITIES)["MFU (of matmul)"] == "50.0%"
    assert "time:" not in progress_values(metrics, {}, QUANTITIES)
    shown = progress_values(metrics, split | {"total": 1.0}, QUANTITIES)
    assert str(shown["time:"]).startswith("backward")
    assert list(shown) == ["loss", "img/s", "data wait", "MFU (of matmul)", "time:"]


def test_a_run_that_fails_closes_its_logger(tmp_path: Path) -> None:
    trainer: Any = Trainer.__new__(Trainer)
    trainer.logger, trainer.profiler = Mock(), Mock()
    trainer.run_loop = Mock(side_effect=ArithmeticError)
    with pytest.raises(ArithmeticError):
        trainer.train()
    trainer.logger.close.assert_called_once_with()
    trainer.profiler.close.assert_called_once_with()
