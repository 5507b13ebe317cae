"""Model + configuration -> a DeepSpeed engine with optimizer and learning-rate schedule."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import sys
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from sar_dist.config import RunConfig
from sar_dist.engine.deepspeed_config import deepspeed_config
from sar_dist.engine.engine_state import leave_overflows_to_the_guard
from sar_dist.engine.optimizers import optimizer_of
from sar_dist.engine.protocol import Engine
from sar_dist.engine.schedule import learning_rate_factor
from sar_dist.errors import UserError
from sar_dist.models import TappedVisionTransformer, parameter_groups

# ZeRO-3's gathers do not wait for the optimizer's writes, on another stream, of themselves. They do as long as a step ends
# with the gather of the small parameters that are kept whole, so some must be: a bias of the smallest model has 192.
_PERSISTENCE = "stage3_param_persistence_threshold"
_LEAST_PERSISTENCE = 10_000
# Training and validation of a block with and without its tap; each is a graph, of every size of images.
_GRAPHS_PER_SIZE = 4


def check_engine(config: RunConfig, device: torch.device, world_size: int) -> None:
    """Find what the engine would refuse, before any process group exists.

    Raises:
        UserError: impossible batch arithmetic, a bad ``engine.deepspeed``, or a precision that this machine lacks.
    """
    generated = deepspeed_config(config, world_size)
    optimizer_of(config.optim)
    if config.engine.precision == "fp16" and device.type != "cuda":
        raise UserError("engine.precision=fp16 needs a GPU; use bf16 or fp32 on this machine")
    threshold = generated["zero_optimization"].get(_PERSISTENCE, math.inf)
    if device.type == "cuda" and config.engine.zero_stage == 3 and threshold < _LEAST_PERSISTENCE:
        raise UserError(
            f"engine.deepspeed.zero_optimization.{_PERSISTENCE}={threshold} lets a GPU read weights while they are being "
            f"updated; leave it out, or set it to {_LEAST_PERSISTENCE} or more"
        )


def build_engine(config: RunConfig, model: TappedVisionTransformer, *, world_size: int, steps_per_epoch: int) -> Engine:
    """Wrap ``model`` in a DeepSpeed engine.

    The model is built the ordinary way first: under ``deepspeed.zero.Init`` timm's initialisation silently goes wrong.
    The schedule steps once per optimizer step and pauses on a skipped one.
    """
    import deepspeed  # slow to import, and it initialises the accelerator

    if config.engine.compile:
        _compile_blocks(model, sharded=config.engine.zero_stage == 3)
    _allow_graphs(len(set(config.model.train_sizes or ())))
    optim = config.optim
    groups = parameter_groups(
        model.vit, lr=optim.peak_lr, weight_decay=optim.weight_decay, layer_decay=optim.layer_decay
    )
    settings = optimizer_of(optim)
    optimizer = settings.build(settings.arranged(groups, model.vit), optim.peak_lr)
    optimizer.settings = settings  # type: ignore[attr-defined] # for ``shards.optimizer_settings``
    _leave_muon_uncompiled()
    # Its bf16 optimizer prints the memory of every parameter group, at any log level.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=lambda inner: LambdaLR(
                inner, lambda step: learning_rate_factor(step, optim, steps_per_epoch=steps_per_epoch)
            ),
            config=deepspeed_config(config, world_size),
        )
    settings.connect(optimizer, engine)
    leave_overflows_to_the_guard(engine)
    return engine


def input_dtype(config: RunConfig) -> torch.dtype:
    """Type in which images enter the engine: DeepSpeed's own precision blocks do not cast inputs."""
    return {"bf16_parameters": torch.bfloat16, "fp16": torch.float16}.get(config.engine.precision, torch.float32)


def autocast(config: RunConfig, device: torch.device) -> AbstractContextManager[object]:
    """What the engine's forward pass runs in, for a model that is called without the engine, as in validation."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.engine.precision == "bf16")


def _leave_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon without wrapping its functions in ``torch.compile``, unless somebody has imported it to use it.

    Each engine imports it to ask whether its optimizer is one, and the wrapping loads all of Inductor: a second of
    processor time at every start.
    """
    module = "deepspeed.runtime.zero.muon.original_muon"
    if module in sys.modules:
        return
    from deepspeed.runtime import compiler

    wrap = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module(module)
    finally:
        compiler.compile = wrap


def _allow_graphs(sizes: int) -> None:
    """Each of ``sizes`` of training images has graphs of its own; PyTorch gives up compiling what has more than its limit."""
    if sizes:
        import torch._dynamo.config  # takes a second to load, which most runs do not need

        limits: Any = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, _GRAPHS_PER_SIZE * (sizes + 1))


def _compile_blocks(model: TappedVisionTransformer, *, sharded: bool) -> None:
    """Compile each block by itself: equal blocks share one graph, and the taps stay ordinary return values."""
    if sharded:
        from deepspeed.utils import set_z3_leaf_modules

        # Otherwise ZeRO-3's per-module hooks break each block's graph dozens of times.
        set_z3_leaf_modules(model, sorted({type(block) for block in model.vit.blocks}, key=lambda kind: kind.__name__))
    for block in model.vit.blocks:
        block.forward = torch.compile(block.forward, dynamic=False)
