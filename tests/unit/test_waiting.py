"""Waiting that is noticed: for data, for other processes in a collective, in a long validation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sar_dist.distributed import collective_timeout
from sar_dist.training.evaluation import evaluate
from sar_dist.training.loader_stages import Remedy, StageCosts
from sar_dist.training.reporting import DataAdvice


def test_waiting_for_data_is_said_once_with_what_helps() -> None:
    costs = StageCosts(0.1, 1.2, 0.4, 0.3, 0.0, (Remedy("train on smaller images", 0.8), Remedy("the other", 1.6)))
    measured: list[int] = []
    advice = DataAdvice(lambda: measured.append(1) or costs)  # type: ignore[func-returns-value]
    assert advice.after_interval({"loss": 1.0}) is None
    assert advice.after_interval({"data_wait_share": 0.05}) is None
    line = advice.after_interval({"data_wait_share": 0.2})
    assert line is not None
    assert line.startswith("warning: training waited 20% of the time for data: train on smaller images: 60% less work")
    assert "data.workers" in line
    assert "the other" not in line
    assert advice.after_interval({"data_wait_share": 0.9}) is None
    assert measured == [1]


def test_where_the_time_goes_is_said_if_only_cores_help() -> None:
    line = DataAdvice(lambda: StageCosts(0.1, 1.2, 0.4, 0.0, 0.0, ())).after_interval({"data_wait_share": 0.06})
    assert line is not None
    assert "read 0.10, decode 1.20, crop and resize 0.40, operations 0.00, batch and the rest 0.00; give each" in line


@pytest.mark.parametrize(("backend", "minutes"), [("nccl", 22.5), ("gloo", 37.5)])
def test_nccl_records_its_collectives_before_the_watchdog_ends_the_process(backend: str, minutes: float) -> None:
    assert collective_timeout(backend, 30) == timedelta(minutes=minutes)


class _Loader:
    total = 6

    def iterate(self) -> Iterator[dict[str, torch.Tensor]]:
        for number in range(3):
            label = torch.tensor([number, number])
            yield {"label": label, "valid": torch.ones(2, dtype=torch.bool), "bad": torch.zeros(2, dtype=torch.bool)}


class _Model(torch.nn.Module):
    tapped: tuple[int, ...] = ()


def test_every_validation_batch_is_progress() -> None:
    """A validation may take longer than guard.stall_minutes as long as its batches do not."""
    moved: list[int] = []
    task: Any = SimpleNamespace(
        device=torch.device("cpu"),
        predict=lambda model, batch: {"logits": torch.eye(3)[batch["label"]]},
        per_sample=lambda output: {},
    )
    loader: Any = _Loader()
    scores = evaluate(_Model(), task, loader, between_batches=lambda: moved.append(1))
    assert len(moved) == 3
    assert scores["top1"] == 100
