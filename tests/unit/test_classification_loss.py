"""The classification's losses against timm's and plain definitions."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from sar_dist.config import OptimSettings, RunConfig
from sar_dist.training.task import classification_loss

BINARY = {"loss": "binary_cross_entropy"}


def mixed_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and targets of two classes each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    own, other = torch.eye(6, dtype=torch.float64)[:4], torch.eye(6, dtype=torch.float64)[1:5]
    return logits, 0.85 * own + 0.15 * other


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
def test_binary_cross_entropy_is_timms_on_mixed_targets(threshold: float | None) -> None:
    logits, targets = mixed_batch()
    ours = classification_loss(logits, targets, OptimSettings(**BINARY, target_threshold=threshold))
    theirs = BinaryCrossEntropy(smoothing=0, target_threshold=threshold)(logits, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-14)
    wanted = targets if threshold is None else (targets > threshold).double()
    (gradient,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(gradient, (logits.sigmoid() - wanted) / logits.numel())
    assert wanted.sum().item() == {None: 4, 0.0: 8, 0.2: 4}[threshold]


def test_cross_entropy_stays_the_default() -> None:
    logits, targets = mixed_batch()
    ours = classification_loss(logits, targets, OptimSettings())
    assert ours.item() == pytest.approx(SoftTargetCrossEntropy()(logits, targets).item(), rel=1e-14)


@pytest.mark.parametrize(
    ("optim", "smoothing", "message"),
    [
        ({"target_threshold": 0.0}, 0.0, "is of optim.loss=binary_cross_entropy"),
        ({**BINARY, "target_threshold": 0.0}, 0.1, "set augment.label_smoothing=0"),
        ({"loss": "bce"}, 0.0, "'cross_entropy' or 'binary_cross_entropy'"),
    ],
)
def test_what_does_not_fit_is_refused(optim: dict[str, object], smoothing: float, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig(run={"name": "x"}, augment={"label_smoothing": smoothing}, optim=optim)
    RunConfig(run={"name": "x"}, augment={"label_smoothing": 0.1}, optim={**BINARY, "target_threshold": 0.2})
