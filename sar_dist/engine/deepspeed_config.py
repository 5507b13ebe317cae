"""Our configuration -> the dictionary that DeepSpeed takes. The only place where DeepSpeed's own key names appear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sar_dist.config import RunConfig
from sar_dist.engine.deepspeed_raw import check_kinds, check_with_deepspeed
from sar_dist.errors import UserError
from sar_dist.setting_trees import merged

# What we model ourselves: key in the DeepSpeed dictionary -> our key. Setting it twice would let them disagree.
_OWNED_KEYS = {
    "train_batch_size": "optim.global_batch",
    "train_micro_batch_size_per_gpu": "engine.micro_batch",
    "gradient_accumulation_steps": "optim.global_batch and engine.micro_batch",
    "gradient_clipping": "optim.clip",
    "optimizer": "optim.*",
    "scheduler": "optim.*",
    "torch_autocast.enabled": "engine.precision",
    "torch_autocast.dtype": "engine.precision",
    "torch_autocast.lower_precision_safe_modules": "engine.reduce_dtype",
    "communication_data_type": "engine.reduce_dtype",
    "bf16.enabled": "engine.precision",
    "fp16.enabled": "engine.precision",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload",
    "zero_optimization.offload_param": "engine.offload",
}


@dataclass(frozen=True)
class BatchArithmetic:
    """How one optimizer step's images are split: ``global_batch = micro_batch * accumulation * world_size``."""

    global_batch: int
    micro_batch: int
    accumulation: int
    world_size: int


def batch_arithmetic(config: RunConfig, world_size: int) -> BatchArithmetic:
    """Derive the number of accumulated micro-batches.

    Raises:
        UserError: the global batch cannot be made of whole micro-batches on every process.
    """
    total, micro = config.optim.global_batch, config.engine.micro_batch
    accumulation, rest = divmod(total, micro * world_size)
    if rest or not accumulation:
        share = total // world_size
        fitting = [size for size in range(1, share + 1) if share % size == 0] if total % world_size == 0 else []
        nearest = min(fitting, key=lambda size: (abs(size - micro), -size), default=None)
        advice = (
            f"use engine.micro_batch={nearest}"
            if nearest
            else f"use optim.global_batch={max(1, round(total / (micro * world_size))) * micro * world_size}"
        )
        raise UserError(
            f"optim.global_batch={total} is not a multiple of engine.micro_batch={micro} on {world_size} "
            f"process{'es' if world_size > 1 else ''}; {advice}"
        )
    return BatchArithmetic(total, micro, accumulation, world_size)


def deepspeed_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """Generate the DeepSpeed dictionary and merge ``engine.deepspeed`` over it.

    Raises:
        UserError: impossible batch arithmetic, or ``engine.deepspeed`` has an unknown key, a value that DeepSpeed does not take,
            or a key that we own.
    """
    batch = batch_arithmetic(config, world_size)
    generated: dict[str, Any] = {
        "train_batch_size": batch.global_batch,
        "train_micro_batch_size_per_gpu": batch.micro_batch,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": config.optim.clip or 0.0,
        "zero_optimization": _zero(config, world_size),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,  # our logger reports, not DeepSpeed's
        # It would wait for the device twice in every micro-batch.
        "timers": {"throughput": {"enabled": False}},
        **_precision(config),
    }
    raw = config.engine.deepspeed
    if raw:
        check_kinds(raw)
        _check_owned(raw)
        check_with_deepspeed(raw, generated)
    return merged(generated, raw)


def _zero(config: RunConfig, world_size: int) -> dict[str, Any]:
    zero: dict[str, Any] = {
        # Without ZeRO, DeepSpeed has no non-finite guard and no global gradient norm; stage 1 costs nothing more.
        "stage": config.engine.zero_stage,
        # The default replaces torch.nn.functional.linear for the whole process, and for later engines.
        "memory_efficient_linear": False,
        # The default of 5e8 elements reserves gigabytes even for a tiny model. One process sends nothing: its bucket is
        # but a copy of the gradients, which is cheaper in small pieces (docs/benchmarks_train_step.md).
        "reduce_bucket_size": 50_000_000 if world_size > 1 else 5_000_000,
        "allgather_bucket_size": 50_000_000,
        "overlap_comm": world_size > 1,
    }
    if world_size == 1 and config.engine.zero_stage < 3:
        # Both are work for nobody: a division of every gradient by the number of processes, also by 1, and a copy of
        # every gradient into a buffer to send it from, which only offloading needs too.
        zero |= {"reduce_scatter": False, "contiguous_gradients": config.engine.offload != "none"}
    if config.engine.zero_stage == 3:
        # The defaults of 1e9 keep a whole ViT-L gathered from forward to backward, as if it were not sharded.
        zero |= {"stage3_max_live_parameters": 100_000_000, "stage3_max_reuse_distance": 100_000_000}
    if config.engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.engine.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return zero


def _precision(config: RunConfig) -> dict[str, Any]:
    """At most one precision block: DeepSpeed accepts two together and silently changes the parameters' type."""
    engine = config.engine
    if engine.precision == "bf16":
        autocast: dict[str, Any] = {"enabled": True, "dtype": "bfloat16"}
        if engine.reduce_dtype == "fp32":
            autocast["lower_precision_safe_modules"] = []  # whose gradients would be reduced in bfloat16
        return {"torch_autocast": autocast}
    reduced = {"communication_data_type": engine.reduce_dtype}
    if engine.precision == "bf16_parameters":
        # Otherwise the gradients of the micro-batches are added up in bfloat16, which loses the small ones.
        return {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}, **reduced}
    if engine.precision == "fp16":
        return {"fp16": {"enabled": True, "initial_scale_power": 16}, **reduced}
    return {}


def _check_owned(raw: dict[str, Any]) -> None:
    for path, ours in _OWNED_KEYS.items():
        value: Any = raw
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            raise UserError(f"engine.deepspeed.{path} is decided by {ours}; set that instead")
