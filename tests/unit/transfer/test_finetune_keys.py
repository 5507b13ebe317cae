"""Messages of ``finetune`` name the keys that it takes, not those of the training run that it starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sar_dist.config import RunConfig, RunSettings, apply_overrides
from sar_dist.errors import CannotMeet, UserError
from sar_dist.transfer.tasks.finetune import FinetuneSettings, run_config
from sar_dist.transfer.tasks.finetune_keys import OWN_KEYS, in_own_keys, own_keys
from sar_dist.validation import field_types

USUAL = RunConfig(run=RunSettings(name="x"))
BACKBONE: Any = SimpleNamespace(
    loaded=SimpleNamespace(settings=USUAL.model, image_size=224, weights=None, augment=USUAL.augment),
    has_class_token=True,
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("use a smaller optim.global_batch", "use a smaller global_batch"),
        ("optim.min_lr=1: lower it, or optim.lr", "train.optim.min_lr=1: lower it, or lr"),
        (
            "unknown key 'optim.foo'; did you mean 'optim.name'?",
            "unknown key 'train.optim.foo'; did you mean 'train.optim.name'?",
        ),
        ("set train.optim.min_lr", "set train.optim.min_lr"),
        ("a/run.json, data.tar and run.dir/x stay", "a/run.json, data.tar and run.dir/x stay"),
    ],
)
def test_keys_are_translated(message: str, expected: str) -> None:
    assert in_own_keys(message) == expected
    with pytest.raises(CannotMeet) as caught, own_keys():
        raise CannotMeet(message)
    assert str(caught.value) == expected


def test_every_own_key_is_one_of_both() -> None:
    assert OWN_KEYS.keys() <= dict(field_types(RunConfig)).keys()
    assert set(OWN_KEYS.values()) <= FinetuneSettings.model_fields.keys()


def test_a_key_of_the_training_run_is_answered_with_the_one_to_type() -> None:
    with pytest.raises(UserError, match=r"unknown key 'optim\.min_lr'; did you mean 'train\.optim\.min_lr'"):
        apply_overrides(FinetuneSettings, ["optim.min_lr=0"])
    with pytest.raises(UserError, match=r"unknown key 'epoch'; did you mean 'epochs'"):
        apply_overrides(FinetuneSettings, ["epoch=0"])


@pytest.mark.parametrize("batch", [1, 8, 64, 512, 1024])
def test_any_batch_starts_with_the_default_rates(batch: int, tmp_path: Path) -> None:
    optim = run_config(BACKBONE, FinetuneSettings(global_batch=batch), tmp_path, 5).optim
    assert max(optim.min_lr, optim.warmup_lr) < optim.peak_lr
    if batch >= 64:
        assert (optim.min_lr, optim.warmup_lr) == (USUAL.optim.min_lr, USUAL.optim.warmup_lr)
    else:
        assert optim.min_lr == pytest.approx(optim.peak_lr * 0.02)
