"""A DeepSpeed engine's training state <-> named tensors, independent of world size, ZeRO stage and precision.

DeepSpeed's own checkpoints are pickles tied to one topology and are not committed atomically (docs/reliability.md), so
the state is read from and written to the engine's float32 shards directly: master weights, moments, moving average.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sar_dist.checkpoint import MANIFEST, CheckpointReader, DamagedCheckpoint, EngineState, RankIndex
from sar_dist.engine.ema import ExponentialMovingAverage
from sar_dist.engine.protocol import Engine
from sar_dist.engine.shards import flat_shards, fragments, optimizer_settings, optimizer_states, publish_shards

_BY_GROUP = ("base_lrs", "_last_lr", "lr_lambdas")
# What the loss scaler is told once: StepGuard ends a run whose steps are skipped for ever, in a line that names the samples.
_RAISES = "raise_error_at_min_scale"
_COUNTERS = ("global_steps", "global_samples", "skipped_steps")


def snapshot(
    engine: Engine, ema: ExponentialMovingAverage | None, *, copy: bool = True
) -> tuple[dict[str, Tensor], RankIndex]:
    """This process's state in host memory: with ``copy``, the only part of a save that training waits for.

    Without it, tensors that are in host memory already are not doubled; training must wait until they are written.

    Returns:
        The tensors of this process by key ("K/master", "K/exp_avg", ...), and the index that describes them.
    """
    tensors: dict[str, Tensor] = {}
    states, moments = optimizer_states(engine), optimizer_settings(engine).moments
    for number, (shard, state) in enumerate(zip(flat_shards(engine), states, strict=True)):
        tensors[f"{number}/master"] = shard
        tensors.update({f"{number}/{moment}": state[moment] for moment in moments if moment in state})
        if ema is not None:
            tensors[f"{number}/ema"] = ema.average[number]
    copies = {key: tensor.detach().to("cpu", copy=copy, non_blocking=True) for key, tensor in tensors.items()}
    if engine.device.type == "cuda":
        torch.cuda.current_stream(engine.device).synchronize()
    index = RankIndex(
        adam_steps=[float(state.get("step", 0)) for state in states],
        fragments=fragments(engine),
    )
    return copies, index


def shared_state(engine: Engine, ema: ExponentialMovingAverage | None) -> EngineState:
    """The engine's small state that is the same on every process."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    settings = {} if scaler is None else vars(scaler)
    state = {
        "lr_scheduler": engine.lr_scheduler.state_dict(),
        "counters": {name: getattr(engine, name) for name in _COUNTERS},
        "loss_scaler": {key: value for key, value in settings.items() if isinstance(value, bool | int | float)},
        "ema_updates": ema.updates if ema is not None else None,
        "shapes": {name: tuple(_shape(parameter)) for name, parameter in engine.module.vit.named_parameters()},
    }
    return EngineState.model_validate(state)


@torch.no_grad()
def restore(engine: Engine, ema: ExponentialMovingAverage | None, reader: CheckpointReader) -> None:
    """Fill the engine, and the moving average, from a checkpoint of any topology.

    Raises:
        DamagedCheckpoint: the checkpoint lacks a parameter or has another shape for it, or it lacks the schedule's state.
    """
    shared = reader.manifest.engine
    schedule = _schedule_state(engine, reader)
    reader.check_shapes({name: tuple(_shape(parameter)) for name, parameter in engine.module.vit.named_parameters()})
    shards, states = flat_shards(engine), optimizer_states(engine)
    moments = optimizer_settings(engine).moments
    for fragment in fragments(engine):
        stretch = slice(fragment.offset, fragment.offset + fragment.numel)
        targets: dict[str, Tensor] = {"master": shards[fragment.shard].data}
        state = states[fragment.shard]
        targets.update({moment: state[moment] for moment in moments if moment in state})
        if ema is not None:  # a run that begins to average starts from the weights, as at its first step
            targets["ema"] = ema.average[fragment.shard]
        for kind, target in targets.items():
            source = "master" if kind == "ema" and shared.ema_updates is None else kind
            target[stretch].copy_(reader.read(source, fragment.name, fragment.start, fragment.numel))
    for state in states:
        if "step" in state:
            state["step"].fill_(reader.adam_step)
    publish_shards(engine)

    engine.lr_scheduler.load_state_dict(schedule)
    for group, lr in zip(engine.optimizer.optimizer.param_groups, schedule["_last_lr"], strict=True):
        group["lr"] = lr
    for name, value in {**shared.counters, "micro_steps": 0}.items():
        setattr(engine, name, value)
    scaler = getattr(engine.optimizer, "loss_scaler", None)  # DeepSpeed's BF16_Optimizer has none
    for name, value in shared.loss_scaler.items() if scaler is not None else ():
        setattr(scaler, name, value)
    leave_overflows_to_the_guard(engine)  # whatever an earlier version saved of that
    if ema is not None:
        ema.updates = shared.ema_updates or 0


def leave_overflows_to_the_guard(engine: Engine) -> None:
    """Let fp16's loss scaler stay at its smallest scale, where DeepSpeed's would raise before ``guard.max_skipped`` is reached."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if hasattr(scaler, _RAISES):
        setattr(scaler, _RAISES, False)


def _schedule_state(engine: Engine, reader: CheckpointReader) -> dict[str, Any]:
    """The state of the learning-rate schedule. Raises DamagedCheckpoint where it or the counters do not say where to go on."""
    saved, groups = reader.manifest.engine.model_dump(), len(engine.optimizer.optimizer.param_groups)
    schedule: dict[str, Any] = saved["lr_scheduler"]
    missing = [f"lr_scheduler.{name}" for name in ("last_epoch", *_BY_GROUP) if name not in schedule]
    missing += [f"counters.{name}" for name in _COUNTERS if name not in saved["counters"]]
    problems = [f"{name} is missing" for name in missing]
    problems += [
        f"lr_scheduler.{name} is of {len(schedule[name])} groups of parameters, the optimizer has {groups}"
        for name in _BY_GROUP
        if name in schedule and len(schedule[name]) != groups
    ]
    if problems:
        raise DamagedCheckpoint(f"{reader.folder / MANIFEST}: engine.{problems[0]}")
    return schedule


def _shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole parameter: ZeRO-3 leaves an empty tensor in its place."""
    return getattr(parameter, "ds_shape", parameter.shape)
