"""All of a training and a validation batch on one device: tensors that only claim to be on a GPU refuse any mixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support import ROOT
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sar_dist.config import RunConfig, load_config
from sar_dist.data.images import Canvas, DrawnOperation, Kind, make_plan
from sar_dist.engine import autocast
from sar_dist.models import TappedVisionTransformer, build_model
from sar_dist.training.averages import RunningAverages
from sar_dist.training.task import ClassificationTask

DEVICE = torch.device("cuda:0")
SETTINGS = {
    "model.image_size": 32,
    "model.patch_size": 8,
    "model.num_classes": 4,
    "model.drop_path": 0.1,
    "model.options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "regularizer.blocks": (0, -1),
    "regularizer.weight": 0.1,
    "terms": ({"name": "total_variation", "weight": 0.1},),
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.random_erasing": 0.25,
    "augment.label_smoothing": 0.1,
}


@pytest.fixture(autouse=True)
def _autocast_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise torch.autocast turns itself off where there is no GPU."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)


def settings(precision: str) -> RunConfig:
    return load_config(ROOT / "configs" / "vit_s_in100.py").vary({**SETTINGS, "engine.precision": precision})


@contextmanager
def on_gpu(config: RunConfig) -> Iterator[tuple[TappedVisionTransformer, ClassificationTask]]:
    """Model and task on the GPU; inside, tensors have shape, type and device, and no number that a host could read."""
    model = build_model(config.model, config.regularizer)  # outside: timm reads numbers while it builds
    dtype = torch.bfloat16 if config.engine.precision == "bf16_parameters" else torch.float32
    with FakeTensorMode():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=dtype, device=DEVICE))
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
        yield model, ClassificationTask(config, model.grid, DEVICE)


def loaded_batch(images: int = 4) -> dict[str, Any]:
    """A micro-batch as the loader gives it, on the host."""
    numbers = {name: torch.zeros(images, dtype=torch.long) for name in ("label", "epoch", "sample", "position")}
    drawn = [
        [DrawnOperation(Kind.FLIP), *(DrawnOperation(kind, 1.0) for kind in Kind if kind is not Kind.FLIP)]
    ] * images
    plan, packed = make_plan(drawn, 32, Canvas("bicubic", (124, 116, 104)))
    pixels = torch.zeros(images, 3, 32, 32, dtype=torch.uint8)
    return {"image": pixels, "plan": plan, "operations": packed, **numbers}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_parameters"])
def test_a_training_batch_is_on_one_device(precision: str) -> None:
    config = settings(precision)
    with on_gpu(config) as (model, task):

        def engine(*inputs: Any) -> Any:
            with autocast(config, DEVICE):
                return model.train()(*inputs)

        losses = task.losses(engine, loaded_batch(), epoch=1.0)
        averages = RunningAverages(DEVICE)
        averages.add(losses)
    assert {"loss", "loss_cls", "loss_entropy", "loss_total_variation", "components"} == losses.keys()
    for value in (*losses.values(), *averages._sums.values()):
        assert value.device == DEVICE
        assert value.dtype == torch.float32
        assert value.shape == ()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_parameters"])
def test_a_validation_batch_is_on_one_device(precision: str) -> None:
    config = settings(precision)
    with on_gpu(config) as (model, task), torch.no_grad():
        output = task.predict(model.eval(), loaded_batch(3))
        measures = task.per_sample(output)
    assert output["logits"].device == DEVICE
    assert output["logits"].dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    assert {"entropy", "components", "total_variation"} == measures.keys()
    assert all(values.device == DEVICE for values in measures.values())


def test_a_mixture_is_refused() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="at least two devices"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def test_a_number_that_the_host_reads_is_refused() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3, device=DEVICE).sum().item()
