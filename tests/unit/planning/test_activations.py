"""The activation formulas against the tensors that autograd really saves."""

from __future__ import annotations

import contextlib

import pytest
import torch

from sar_dist.config import RunConfig
from sar_dist.models import build_model
from sar_dist.planning import ModelShape, Precision
from sar_dist.planning.activations import plan_activations

IMAGES = 2


def run_config(name: str, precision: str, *, no_skip: bool, checkpointing: bool = False) -> RunConfig:
    return RunConfig(
        run={"name": "x"},
        model={"name": name, "drop_path": 0.1, "no_skip_last_block": no_skip},
        engine={"precision": precision, "activation_checkpointing": checkpointing, "micro_batch": IMAGES},
    )


def saved_bytes(config: RunConfig) -> int:
    """Bytes of the distinct storages that a forward pass saves for its backward pass, without the parameters."""
    torch.manual_seed(0)
    checkpointing = config.engine.activation_checkpointing
    model = build_model(config.model, config.regularizer, activation_checkpointing=checkpointing).train()
    dtype = torch.bfloat16 if config.engine.precision == "bf16_parameters" else torch.float32
    model = model.to(dtype)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            saved[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address is used twice
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if config.engine.precision == "bf16" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        output = model(torch.randn(IMAGES, 3, config.model.image_size, config.model.image_size, dtype=dtype))
    for tensor in (*output["queries"], *output["keys"]):  # the regularizer saves these
        pack(tensor)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "precision", "no_skip"),
    [
        ("vit_small_patch16_224", "fp32", True),
        ("vit_small_patch16_224", "bf16", True),
        ("vit_small_patch16_224", "bf16_parameters", False),
        ("vit_base_patch16_224", "bf16", False),
        ("vit_small_patch14_reg4_dinov2", "bf16", True),
        ("deit3_small_patch16_224", "fp32", False),
        ("vit_small_patch16_dinov3", "bf16", True),
        ("vit_small_patch16_rope_mixed_224", "bf16", False),
        ("eva02_tiny_patch14_224", "fp32", True),
    ],
)
def test_saved_tensors(name: str, precision: str, no_skip: bool, checkpointing: bool) -> None:
    config = run_config(name, precision, no_skip=no_skip, checkpointing=checkpointing)
    if "dinov2" in name:
        config = config.vary({"model.image_size": 224})
    shape = ModelShape.of(config)
    plan = plan_activations(shape, Precision.of(config), IMAGES, checkpointing=checkpointing)
    # Under checkpointing a block's weights are cast when it is recomputed, which is after this measurement.
    planned = plan.saved if checkpointing else plan.saved + plan.weight_casts
    assert planned == pytest.approx(saved_bytes(config), rel=0.15 if checkpointing else 0.03)
