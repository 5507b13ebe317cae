"""The learning rate of every step against timm's schedulers, before and after a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.wsd_lr import WSDLRScheduler
from torch.optim.lr_scheduler import LambdaLR

from sar_dist.config import OptimSettings
from sar_dist.engine import learning_rate_factor

EPOCHS, WARMUP, COOLDOWN, PER_EPOCH = 9, 2, 3, 7
STEPS, WARMUP_STEPS, COOLDOWN_STEPS = (PER_EPOCH * epochs for epochs in (EPOCHS, WARMUP, COOLDOWN))
MAIN = STEPS - WARMUP_STEPS
COMMON = {"warmup_t": WARMUP_STEPS, "warmup_lr_init": 2e-5, "t_in_epochs": False}
FALLING = {"t_initial": MAIN, "lr_min": 3e-5, **COMMON}
STABLE = {"schedule": "warmup_stable_decay", "cooldown_epochs": COOLDOWN}
CASES = [
    ({}, CosineLRScheduler, {**FALLING, "warmup_prefix": True}),
    ({"schedule": "linear"}, PolyLRScheduler, {**FALLING, "warmup_prefix": True, "power": 1.0}),
    ({"schedule": "constant"}, StepLRScheduler, {"decay_t": 1, "decay_rate": 1.0, **COMMON}),
    *(
        ({**STABLE, "cooldown": course}, WSDLRScheduler, {**FALLING, "decay_t": COOLDOWN_STEPS, "decay_fn": course})
        for course in ("1-sqrt", "linear", "cosine")
    ),
]


def settings(**changes: Any) -> OptimSettings:
    base = {"lr": 1e-3, "lr_reference_batch": None, "epochs": EPOCHS, "warmup_epochs": WARMUP}
    return OptimSettings(**{**base, "warmup_lr": 2e-5, "min_lr": 3e-5, **changes})


def schedule_of(optim: OptimSettings) -> LambdaLR:
    """As the engine makes it."""
    inner = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=optim.peak_lr)
    return LambdaLR(inner, lambda step: learning_rate_factor(step, optim, steps_per_epoch=PER_EPOCH))


@pytest.mark.parametrize(("changes", "kind", "arguments"), CASES, ids=lambda value: str(value)[:40])
def test_every_rate_is_timms_also_after_a_resume(changes: dict[str, Any], kind: Any, arguments: dict[str, Any]) -> None:
    optim = settings(**changes)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=optim.peak_lr)
    timms = kind(theirs, **arguments)
    ours, rates, expected = schedule_of(optim), [], []
    for step in range(STEPS + 5):
        timms.step_update(step)
        expected.append(theirs.param_groups[0]["lr"])
        rates.append(ours.get_last_lr()[0])
        if step == 40:  # killed and started again
            saved, ours = ours.state_dict(), schedule_of(optim)
            ours.load_state_dict(saved)
        ours.optimizer.step()
        ours.step()
    assert rates == pytest.approx(expected, rel=1e-12, abs=0)
    assert len(set(rates)) > WARMUP_STEPS


def test_a_cooldown_takes_a_fifth_by_default() -> None:
    optim = settings(schedule="warmup_stable_decay", epochs=10)
    factors = [learning_rate_factor(step, optim, steps_per_epoch=10) for step in range(101)]
    assert factors[20:81] == [1.0] * 61
    assert factors[81] < 1
    assert factors[100] == optim.min_lr / optim.peak_lr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cooldown_epochs": 2}, "is of optim.schedule=warmup_stable_decay"),
        ({"schedule": "warmup_stable_decay", "cooldown_epochs": 8}, "set optim.cooldown_epochs to 7 or less"),
        ({"schedule": "cosin"}, "'cosine', 'linear', 'constant' or 'warmup_stable_decay'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)
