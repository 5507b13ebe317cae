"""Inputs that are not square: settings, model, weights, planning, export, transfer."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from run_factory import random_model, settings, write_run
from safetensors.torch import save_file

from sar_dist.config import RegularizerSettings, RunConfig, RunSettings
from sar_dist.data.images import DeviceTransform
from sar_dist.errors import UserError
from sar_dist.models import build_model, export_run, load_initial_weights, model_on_meta
from sar_dist.observe import count_flops, vit_forward_macs
from sar_dist.planning import ModelShape
from sar_dist.regularizer import spatial_entropy, spatial_entropy_from_query_key
from sar_dist.transfer import Backbone, load_model

TALL = (64, 32)
REGULARIZER = RegularizerSettings()


def images(height: int = 64, width: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_square_is_said_in_one_way_and_others_survive_a_file() -> None:
    assert settings(image_size=(32, 32)) == settings(image_size=[32, 32]) == settings(image_size=32)
    config = RunConfig(run=RunSettings(name="x"), model=settings(image_size=[64, 32]))
    assert config.model.image_size == TALL
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    for wrong in (True, (64, 32, 3), (64,), (64.5, 32), "64x32", (0, 32)):
        with pytest.raises(ValidationError):
            settings(image_size=wrong)
    with pytest.raises(
        UserError, match=r"model\.image_size=64x36 is not divisible by the patch size 8; use 32 or 40 for 36"
    ):
        build_model(settings(image_size=(64, 36)), REGULARIZER)


@pytest.mark.parametrize(
    "changes", [{}, {"name": "vit_small_patch16_rope_224", "patch_size": None, "options": {"depth": 2}}]
)
def test_logits_are_timms_and_the_entropy_is_of_the_whole_grid(changes: dict[str, object]) -> None:
    model = random_model(settings(image_size=TALL, **changes))
    plain = timm.create_model(
        str(changes.get("name", "vit_tiny_patch16_224")), img_size=TALL, num_classes=4, **model_arguments(changes)
    ).eval()
    plain.load_state_dict(model.vit.state_dict())
    output = model(images())
    assert torch.equal(output["logits"], plain(images()))
    rows, columns = model.grid
    assert rows == 2 * columns
    query, key = output["queries"][0], output["keys"][0]
    similarity = torch.einsum("bhd,bhnd->bhn", query, key) * key.shape[-1] ** -0.5
    expected = spatial_entropy(similarity.unflatten(2, (rows, columns)))
    torch.testing.assert_close(spatial_entropy_from_query_key(query, key, (rows, columns)), expected)


def model_arguments(changes: dict[str, object]) -> dict[str, object]:
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return {"depth": 2} if changes else small


def test_operations_and_inputs_are_counted() -> None:
    sizes = {"embed_dim": 32, "depth": 2, "num_classes": 4, "patch_size": 8}
    model = model_on_meta(settings(image_size=TALL), REGULARIZER)
    report = count_flops(model, (torch.empty(1, 3, *TALL, device="meta"),))
    assert report.macs == vit_forward_macs(image_size=TALL, **sizes)
    shape = ModelShape.of(RunConfig(run=RunSettings(name="x"), model=settings(image_size=TALL)))
    assert (shape.tokens, shape.image_values, shape.forward_macs) == (33, 3 * 64 * 32, report.macs)


def test_weights_of_a_square_are_resampled(tmp_path: Path) -> None:
    square = random_model(settings()).vit
    save_file(square.state_dict(), tmp_path / "square.safetensors")
    built = build_model(settings(image_size=TALL), REGULARIZER)
    chosen = settings(image_size=TALL, init_from=str(tmp_path / "square.safetensors"))
    report = load_initial_weights(built.vit, chosen)
    assert report is not None
    assert report.resampled == ("pos_embed",)
    square.set_input_size(img_size=TALL)
    torch.testing.assert_close(built.vit.pos_embed, square.pos_embed)


def test_an_export_is_loaded_and_evaluated_at_its_shape(tmp_path: Path) -> None:
    model = settings(image_size=TALL)
    trained = random_model(model)
    export_run(write_run(tmp_path, model, {1: trained.vit}), tmp_path / "out")
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.image_size == TALL
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert timm.data.resolve_model_data_config(by_timm)["input_size"] == (3, *TALL)
    assert torch.equal(by_timm(images()), trained(images())["logits"])
    backbone = Backbone("out", loaded, torch.device("cpu"), "fp32")
    assert torch.equal(backbone.logits(images()), trained(images())["logits"])
    square = backbone.resized(48, 48)
    assert (square.model.grid, square.image_size, square.logits(images(48, 48)).shape) == ((6, 6), 48, (2, 4))


def test_erased_and_mixed_boxes_have_the_images_shape() -> None:
    augment = RunConfig(run=RunSettings(name="x")).augment
    raw = torch.zeros(400, 3, *TALL, dtype=torch.uint8)
    numbers = torch.arange(400)
    inputs = (raw, numbers % 4, torch.zeros(400, dtype=torch.int64), numbers, numbers)
    erasing = DeviceTransform(augment.model_copy(update={"random_erasing": 1.0}), 4, seed=0)
    found, _ = erasing.train(*inputs)
    erased = (found != erasing.evaluate(raw)).any(1).any(0)
    assert erased.any(0).all()
    assert erased.any(1).all(), "boxes reach every row and every column"
    raw[0::2] = 255
    cutting = DeviceTransform(augment.model_copy(update={"cutmix": 1.0}), 4, seed=0)
    mixed, targets = cutting.train(*inputs)
    own = (mixed == cutting.evaluate(raw)).all(1)
    shares = targets.gather(1, inputs[1][:, None])[:, 0]
    torch.testing.assert_close(own.float().mean((1, 2)), shares)
    heights, widths = (~own).any(2).sum(1), (~own).any(1).sum(1)
    assert (heights > widths).float().mean() > 0.7
