"""What DeepSpeed is told, and how the learning rate moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import ROOT

from sar_dist.config import RunConfig, load_config
from sar_dist.engine import batch_arithmetic, check_engine, deepspeed_config, learning_rate_factor, total_steps
from sar_dist.errors import UserError


def config(**changes: Any) -> RunConfig:
    base = load_config(ROOT / "configs" / "vit_b_in1k.py").vary({"engine.micro_batch": 128})
    return base.vary({k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize(("world", "accumulation"), [(1, 32), (8, 4), (32, 1)])
def test_accumulation_is_derived(world: int, accumulation: int) -> None:
    batch = batch_arithmetic(config(), world)
    assert batch.accumulation == accumulation
    generated = deepspeed_config(config(), world)
    product = generated["train_micro_batch_size_per_gpu"] * generated["gradient_accumulation_steps"] * world
    assert product == generated["train_batch_size"] == 4096


@pytest.mark.parametrize(
    ("changes", "world", "advice"),
    [
        ({}, 3, "use optim.global_batch=4224"),
        ({"engine__micro_batch": 100}, 8, "use engine.micro_batch=128"),
        ({"optim__global_batch": 64, "engine__micro_batch": 128}, 1, "use engine.micro_batch=64"),
    ],
)
def test_impossible_arithmetic_names_numbers_that_fit(changes: dict[str, Any], world: int, advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        batch_arithmetic(config(**changes), world)
    key, value = advice.removeprefix("use ").split("=")
    batch_arithmetic(config(**changes).vary({key: int(value)}), world)


def test_precision_is_one_block_at_most() -> None:
    blocks = {"torch_autocast", "bf16", "fp16"}
    for precision, expected in (
        ("bf16", {"torch_autocast"}),
        ("bf16_parameters", {"bf16"}),
        ("fp16", {"fp16"}),
        ("fp32", set()),
    ):
        assert deepspeed_config(config(engine__precision=precision), 8).keys() & blocks == expected


@pytest.mark.parametrize(
    ("precision", "reduce_dtype", "expected"),
    [
        (
            "bf16",
            "fp32",
            {"torch_autocast": {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}},
        ),
        ("bf16", "bf16", {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}),
        ("bf16_parameters", "fp32", {"communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}),
        ("bf16_parameters", "bf16", {"communication_data_type": "bf16", "data_types": {"grad_accum_dtype": "fp32"}}),
        ("fp16", "fp32", {"communication_data_type": "fp32"}),
    ],
)
def test_gradients_are_added_up_and_averaged_in_float32(
    precision: str, reduce_dtype: str, expected: dict[str, Any]
) -> None:
    chosen = config(engine__precision=precision).vary({"engine.reduce_dtype": reduce_dtype})
    generated = deepspeed_config(chosen, 8)
    assert {key: generated[key] for key in expected} == expected


def test_nothing_waits_for_the_device_and_communication_overlaps() -> None:
    assert deepspeed_config(config(), 8)["timers"] == {"throughput": {"enabled": False}}
    assert deepspeed_config(config(), 8)["zero_optimization"]["overlap_comm"] is True
    assert deepspeed_config(config(), 1)["zero_optimization"]["overlap_comm"] is False


def test_what_no_engine_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="reduce_dtype=bf16 does not go with"):
        config().vary({"engine.precision": "fp32", "engine.reduce_dtype": "bf16"})
    threshold = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    racing = config(engine__zero_stage=3, engine__deepspeed=threshold)
    check_engine(racing, torch.device("cpu"), 8)
    with pytest.raises(UserError, match="persistence_threshold=0 lets a GPU read weights"):
        check_engine(racing, torch.device("cuda"), 8)


def test_stage_offload_and_traps() -> None:
    zero = deepspeed_config(config(engine__zero_stage=1), 8)["zero_optimization"]
    assert zero["stage"] == 1
    assert zero["memory_efficient_linear"] is False
    assert zero["reduce_bucket_size"] == 50_000_000
    assert deepspeed_config(config(), 1)["zero_optimization"]["reduce_bucket_size"] == 5_000_000
    assert "offload_optimizer" not in zero
    assert "reduce_scatter" not in zero
    assert "contiguous_gradients" not in zero
    alone = deepspeed_config(config(), 1)["zero_optimization"]
    assert alone["reduce_scatter"] is alone["contiguous_gradients"] is False
    assert deepspeed_config(config(engine__offload="optimizer"), 1)["zero_optimization"]["contiguous_gradients"] is True
    assert "reduce_scatter" not in deepspeed_config(config(engine__zero_stage=3), 1)["zero_optimization"]
    zero = deepspeed_config(config(engine__zero_stage=3, engine__offload="all"), 8)["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    assert zero["offload_optimizer"]["pin_memory"] is True  # DeepSpeed's CPU accelerator ignores it


def test_raw_settings_are_merged_and_conflicts_refused() -> None:
    raw = {"zero_optimization": {"overlap_comm": True}, "comms_logger": {"enabled": True}}
    generated = deepspeed_config(config(engine__deepspeed=raw), 8)
    assert generated["zero_optimization"]["overlap_comm"] is True
    assert generated["zero_optimization"]["stage"] == 1
    assert generated["comms_logger"] == {"enabled": True}
    for bad, message in (
        ({"train_batch_size": 1}, "optim.global_batch"),
        ({"zero_optimization": {"stage": 2}}, "engine.zero_stage"),
        ({"bf16": {"enabled": True}}, "engine.precision"),
        ({"optimizer": {"type": "Adam"}}, "optim"),
        ({"gradient_cliping": 1}, "did you mean 'gradient_clipping'"),
    ):
        with pytest.raises(UserError, match=message):
            deepspeed_config(config(engine__deepspeed=bad), 8)


def test_learning_rate_warms_up_and_follows_the_cosine() -> None:
    optim = config(optim__warmup_lr=1e-6, optim__min_lr=1e-5).optim
    factor = [learning_rate_factor(step, optim, steps_per_epoch=10) for step in range(3001)]
    assert optim.peak_lr == pytest.approx(1.6e-3)
    assert factor[0] * optim.peak_lr == pytest.approx(1e-6)
    assert factor[100] == pytest.approx((factor[0] + 1) / 2)
    assert factor[200] == 1 == max(factor)
    middle = (200 + 3000) // 2
    assert factor[middle] * optim.peak_lr == pytest.approx((1e-5 + 1.6e-3) / 2)
    assert factor[900] * optim.peak_lr == pytest.approx(
        1e-5 + (1.6e-3 - 1e-5) * (1 + math.cos(math.pi * 700 / 2800)) / 2
    )
    assert factor[3000] * optim.peak_lr == pytest.approx(1e-5)
    assert learning_rate_factor(9999, optim, steps_per_epoch=10) == factor[3000]
    assert total_steps(optim, 10) == 3000


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"fp16": False}, r"^engine\.deepspeed\.fp16=False: should be a mapping$"),
        ({"zero_optimization": True}, r"zero_optimization=True: should be a mapping"),
        ({"zero_optimization": {"overlap_com": True}}, r"zero_optimization: DeepSpeed has no key 'overlap_com' there"),
        ({"zero_optimization": {"overlap_comm": "maybe"}}, r"zero_optimization: overlap_comm=maybe: .* valid boolean"),
        ({"zero_optimization": {"reduce_bucket_size": "much"}}, r"zero_optimization: reduce_bucket_size=much: "),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, r"zero_optimization: reduce_bucket_size=-1: "),
        ({"zero_optimization": {"mics_shard_size": 2}}, r"zero_optimization: DeepSpeed does not take .*removed"),
        ({"fp16": {"loss_scale": "x"}}, r"fp16: loss_scale=x: "),
        ({"bf16": {"x": 1}}, r"bf16: DeepSpeed has no key 'x' there"),
        ({"activation_checkpointing": {"profil": True}}, r"activation_checkpointing\.profil: .* mean 'profile'\?"),
        ({"activation_checkpointing": {"profile": 1}}, r"activation_checkpointing\.profile=1: should be true or false"),
        ({"flops_profiler": {"profile_step": "x"}}, r"flops_profiler\.profile_step=x: should be a whole number"),
        ({"comms_logger": {"enabled": 3.5}}, r"comms_logger: enabled=3\.5: "),
        ({"steps_per_print": 0}, r"^engine\.deepspeed\.steps_per_print=0: should be a whole number, 1 or more$"),
        ({"tensorboard": [1]}, r"tensorboard=\[1\]: should be a mapping"),
        ({"aio": {"block_size": None}}, r"aio\.block_size=None: should be a whole number"),
        ({"checkpoint": {"tag_validation": "Boo"}}, r"checkpoint: DeepSpeed does not take .*BOO"),
        (
            {"data_types": {"grad_accum_dtype": "fp8"}},
            r"data_types\.grad_accum_dtype=fp8: should be fp32, fp16 or bf16",
        ),
        ({"communication_data_type": 3}, r"communication_data_type=3: should be fp32, fp16 or bf16"),
        ({"gradient_allreduce_op": "x"}, r"gradient_allreduce_op: DeepSpeed does not take x"),
        ({"timers": {"throughput": {"enabled": "x"}}}, r"timers: enabled=x: "),
        ({"compile": {"foo": 1}}, r"compile: DeepSpeed has no key 'foo' there"),
        ({"wall_clock_breakdown": "x" * 9999}, r"wall_clock_breakdown=x{80}: should be true or false"),
        ({"torch_autocast": {"lower_precision_safe_modules": 3}}, r"modules=3: should be a list of text"),
        ({"steps_per_prin": 1}, r"steps_per_prin: DeepSpeed has no such key; did you mean 'steps_per_print'\?"),
    ],
)
def test_what_deepspeed_would_stumble_over_is_one_line(raw: dict[str, Any], message: str) -> None:
    for world in (1, 8):
        with pytest.raises(UserError, match=message) as found:
            deepspeed_config(config(engine__deepspeed=raw), world)
        assert "\n" not in str(found.value)


def test_sections_that_deepspeed_takes() -> None:
    raw = {
        "zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 5e7, "zero_hpz_partition_size": 8},
        "activation_checkpointing": {"partition_activations": True, "number_checkpoints": 2},
        "flops_profiler": {"enabled": False, "module_depth": -1, "recompute_fwd_factor": 0},
        "comms_logger": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32", "keep_in_fp32_modules": ["norm"]},
        "timers": {"throughput": {"enabled": False}},
        "checkpoint": {"tag_validation": "Warn"},
        "gradient_predivide_factor": 2,
        "dump_state": False,
        "log_level": "info",
    }
    for precision in ("bf16", "bf16_parameters", "fp16", "fp32"):
        for stage in (1, 2, 3):
            changed = config(engine__deepspeed=raw, engine__precision=precision, engine__zero_stage=stage)
            assert deepspeed_config(changed, 8)["comms_logger"] == {"enabled": True}
