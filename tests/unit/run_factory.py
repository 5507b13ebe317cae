"""Run directories made without training: a configuration and checkpoints of one process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sar_dist.checkpoint import CheckpointStore, EngineState, Fragment, RankIndex, SharedState
from sar_dist.config import ModelSettings, RunConfig, RunSettings
from sar_dist.models import TappedVisionTransformer, build_model

SMALL = {
    "name": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 4,
    "options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}


def settings(**changes: Any) -> ModelSettings:
    """A model that computes in milliseconds."""
    return ModelSettings(**{**SMALL, **changes})


def random_model(model: ModelSettings, seed: int = 0) -> TappedVisionTransformer:
    """The model with every parameter random, also those that are initialised to zero or one."""
    torch.manual_seed(seed)
    built = build_model(model, RunConfig(run=RunSettings(name="x")).regularizer).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return built


def write_run(
    root: Path,
    model: ModelSettings,
    checkpoints: dict[int, nn.Module],
    average: nn.Module | None = None,
    classes: Sequence[str] | None = None,
) -> Path:
    """A run directory with a checkpoint of each given step's weights, all with the same moving average.

    Without ``classes`` it is as one from before checkpoints recorded the class names.
    """
    run = root / "small"
    run.mkdir(parents=True)
    config = RunConfig(run=RunSettings(name="small", dir=str(root)), model=model)
    (run / "config.json").write_text(config.model_dump_json())
    store = CheckpointStore(run / "checkpoints", keep_last=9, keep_every=None)
    store.prepare()
    for step, vit in checkpoints.items():
        parameters = {name: parameter.detach() for name, parameter in vit.named_parameters()}
        tensors = {"0/master": torch.cat([parameter.flatten() for parameter in parameters.values()])}
        if average is not None:
            tensors["0/ema"] = torch.cat([parameter.detach().flatten() for parameter in average.parameters()])
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        shared = weights_alone(shapes, None if average is None else step).model_copy(
            update={"classes": None if classes is None else tuple(classes)}
        )
        store.save(step, tensors, index_of_one_shard(shapes, step), shared)
        store.wait()
        assert store.take_problem() is None
    return run


def index_of_one_shard(shapes: dict[str, tuple[int, ...]], step: int) -> RankIndex:
    """All parameters one after the other in the only shard of one process."""
    fragments, offset = [], 0
    for name, shape in shapes.items():
        fragments.append(Fragment(name=name, start=0, numel=math.prod(shape), shard=0, offset=offset))
        offset += math.prod(shape)
    return RankIndex(adam_steps=[float(step)], fragments=fragments)


def weights_alone(shapes: dict[str, tuple[int, ...]], ema_updates: int | None = None) -> SharedState:
    """What a checkpoint of weights says beside tensors."""
    return SharedState(engine=EngineState(lr_scheduler={}, counters={}, ema_updates=ema_updates, shapes=shapes))
