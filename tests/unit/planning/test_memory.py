"""The memory formulas against numbers written down by hand."""

from __future__ import annotations

import pytest

from sar_dist.config import RunConfig
from sar_dist.errors import UserError
from sar_dist.models import model_on_meta
from sar_dist.planning import ModelShape, plan_memory

BUCKET = 50_000_000


def vit_large(**changes: object) -> RunConfig:
    config = RunConfig(
        run={"name": "x"},
        model={"name": "vit_large_patch16_224", "no_skip_last_block": True},
        optim={"global_batch": 1024},
        engine={"micro_batch": 64},
    )
    return config.vary(changes)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.of(vit_large())


def test_shape_of_vit_large(shape: ModelShape) -> None:
    model = model_on_meta(vit_large().model, vit_large().regularizer)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.tokens, shape.width, shape.block.hidden, shape.depth, shape.block.heads) == (197, 1024, 4096, 24, 16)
    assert shape.forward_macs == pytest.approx(61.55e9, rel=1e-3)
    assert (shape.skip_last, shape.tapped, shape.block.layer_scale) == (False, 1, False)
    assert shape.small_parameters(1025) < 0.003 * shape.parameters < shape.parameters


def test_between_steps(shape: ModelShape) -> None:
    parts = plan_memory(shape, vit_large(), 16).moments["rest"]
    assert parts["weights"] == 4 * shape.parameters
    assert parts["optimizer"] == 12 * shape.parameters / 16
    assert parts["gradients"] == parts["average"] == parts["activations"] == 0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_moves_the_optimizer_and_nothing_is_lost(shape: ModelShape, stage: int) -> None:
    config = vit_large(**{"engine.zero_stage": stage, "optim.ema": 0.99})
    plain = plan_memory(shape, config, 4)
    offloaded = plan_memory(shape, config.vary({"engine.offload": "optimizer"}), 4)
    assert offloaded.host["optimizer"] == plain.moments["rest"]["optimizer"]
    assert offloaded.host["average"] == plain.moments["rest"]["average"] == shape.parameters
    assert offloaded.moments["rest"]["optimizer"] == 0
    assert offloaded.peak < plain.peak


def test_higher_stages_hold_less_between_steps(shape: ModelShape) -> None:
    held = [
        plan_memory(shape, vit_large(**{"engine.zero_stage": stage, "engine.precision": "bf16_parameters"}), 8)
        for stage in (1, 2, 3)
    ]
    totals = [plan.total("rest") for plan in held]
    assert totals[0] > totals[1] > totals[2]  # stage 1 adds up all gradients in float32 on every process
    assert held[0].total("backward ends") > held[1].total("backward ends")
    totals = [plan_memory(shape, vit_large(**{"engine.zero_stage": stage}), 8).total("rest") for stage in (1, 2, 3)]
    assert totals[0] == totals[1] > totals[2]


def test_buckets_are_allocated_whole(shape: ModelShape) -> None:
    small = vit_large(**{"model.name": "vit_tiny_patch16_224"})
    plan = plan_memory(ModelShape.of(small), small, 16)
    assert plan.moments["backward begins"]["buckets"] == 2 * 4 * BUCKET  # two, as one is filled while the other is sent
    plan = plan_memory(shape, vit_large(**{"engine.precision": "fp32"}), 16)
    assert plan.moments["backward ends"]["buckets"] == 2 * 4 * BUCKET


def test_checkpointing_trades_activations(shape: ModelShape) -> None:
    plain = plan_memory(shape, vit_large(), 16).activations
    checkpointed = plan_memory(shape, vit_large(**{"engine.activation_checkpointing": True}), 16).activations
    assert plain.recomputed == 0 < checkpointed.recomputed
    assert checkpointed.saved < plain.saved / 5
    tokens = 64 * 197 * 1024
    assert checkpointed.saved == pytest.approx(24 * 4 * tokens, rel=0.15)


def test_activations_grow_with_the_micro_batch_alone(shape: ModelShape) -> None:
    small, large = (
        plan_memory(shape, vit_large(**{"engine.micro_batch": micro}), 16).activations for micro in (16, 32)
    )
    assert large.saved == 2 * small.saved
    assert large.weight_casts == small.weight_casts


def test_unknown_blocks_are_refused() -> None:
    config = vit_large(**{"model.name": "vit_giant_patch14_reg4_dinov2"})  # its MLP is gated
    with pytest.raises(UserError, match="planning knows"):
        ModelShape.of(config)
