"""Checkpoints as DINO, MoCo v3, MAE, DeiT, DINOv2, DINOv3 and CLIP publish them: names and shapes theirs, values random."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from run_factory import random_model, settings
from safetensors.torch import save_file
from timm.models.eva import checkpoint_filter_fn as convert_eva
from timm.models.vision_transformer import checkpoint_filter_fn as convert_vit
from torch import Tensor

from sar_dist.config import ModelSettings, RegularizerSettings
from sar_dist.errors import UserError
from sar_dist.models import build_model
from sar_dist.models.initialize import InitialWeightsReport, load_initial_weights
from sar_dist.models.weights import open_weights
from sar_dist.transfer import load_model

State = dict[str, Tensor]


def load(path: object, model: ModelSettings | None = None) -> tuple[State, InitialWeightsReport]:
    chosen = (model or settings()).model_copy(update={"init_from": str(path)})
    built = random_model(chosen, seed=99)
    report = load_initial_weights(built.vit, chosen)
    assert report is not None
    return built.vit.state_dict(), report


@pytest.fixture
def backbone() -> State:
    state = random_model(settings()).vit.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


def below(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def dino_head(width: int = 32) -> State:
    names = {f"head.mlp.{layer}.{kind}": torch.randn(width) for layer in (0, 2, 4) for kind in ("weight", "bias")}
    return {**names, "head.last_layer.weight_g": torch.randn(9, 1), "head.last_layer.weight_v": torch.randn(9, 5)}


def dino(state: State) -> dict[str, Any]:
    teacher = {**below("backbone.", state), **dino_head()}
    student = below("module.", {**below("backbone.", other(state)), **dino_head()})
    return {"student": student, "teacher": teacher, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}


def moco(state: State) -> dict[str, Any]:
    projector = {"head.0.weight": torch.randn(4, 32), "head.1.running_mean": torch.randn(4)}
    content = {
        **below("module.base_encoder.", {**state, **projector}),
        **below("module.momentum_encoder.", {**other(state), **projector}),
        "module.predictor.0.weight": torch.randn(4, 4),
    }
    return {"epoch": 3, "arch": "vit_small", "state_dict": content}


def mae(state: State) -> dict[str, Any]:
    decoder = {"decoder_pos_embed": torch.randn(1, 17, 8), "decoder_blocks.0.norm1.weight": torch.randn(8)}
    return {"model": {**state, **decoder, "mask_token": torch.randn(1, 1, 8), "decoder_pred.bias": torch.randn(8)}}


LAYOUTS = {
    "dino": (dino, "teacher.backbone", 8),
    "moco": (moco, "state_dict.base_encoder", 5 + 16),
    "mae": (mae, "model", 4),
    "deit": (lambda state: {"model": state}, "model", 0),
    "bare": (lambda state: state, "", 0),
    "dinov2 training": (
        lambda state: {"teacher": {**below("backbone.", state), "dino_head.mlp.0.bias": torch.ones(1)}},
        "teacher.backbone",
        1,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_is_found_and_the_rest_is_said(layout: str, backbone: State, tmp_path: Path) -> None:
    make, part, left = LAYOUTS[layout]
    content = make(backbone)
    torch.save(content, tmp_path / "weights.pth")
    found, report = load(tmp_path / "weights.pth")
    assert all(torch.equal(found[name], value) for name, value in backbone.items())
    assert report.loaded == tuple(backbone)
    assert report.source == f"{tmp_path / 'weights.pth'}{'#' if part else ''}{part}"
    if layout == "moco":
        left = sum(not name.startswith("module.base_encoder.") for name in content["state_dict"]) + 2
    assert (f"left {left} tensors: " in str(report)) is (left > 0)


@pytest.mark.parametrize(
    ("layout", "part"), [("dino", "student"), ("moco", "momentum_encoder"), ("moco", "state_dict.momentum_encoder")]
)
def test_another_part_is_chosen_by_hand(layout: str, part: str, backbone: State, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout][0](backbone), tmp_path / "weights.pth")
    found, _ = load(f"{tmp_path / 'weights.pth'}#{part}")
    assert all(torch.equal(found[name], value + 1) for name, value in backbone.items())


def small(name: str, **options: Any) -> ModelSettings:
    return ModelSettings(
        name=name, image_size=64, num_classes=4, options={"embed_dim": 48, "depth": 2, "num_heads": 3, **options}
    )


def test_dinov3_is_what_timm_converts(tmp_path: Path) -> None:
    model = small("vit_small_patch16_dinov3_qkvb")
    vit = random_model(model).vit
    published: State = {"mask_token": torch.randn(1, 48), "rope_embed.periods": torch.randn(4)}
    for name, value in vit.state_dict().items():
        if name.startswith("head."):
            continue
        if name.endswith("q_bias"):
            block = name.removesuffix("q_bias")
            parts = value, torch.randn(48), vit.state_dict()[f"{block}v_bias"]  # the key's is masked away
            published |= {f"{block}qkv.bias": torch.cat(parts), f"{block}qkv.bias_mask": torch.ones(144)}
        elif not name.endswith("v_bias"):
            renamed = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            published[renamed.replace("reg_token", "storage_tokens")] = value
    compare(model, published, convert_eva, vit, tmp_path)
    plain = small("vit_small_patch16_dinov3")
    with pytest.raises(UserError, match=r"qkv\.bias is not zero and the model has no such bias"):
        load(tmp_path / "published.pth", plain)
    torch.save({n: v * (not n.endswith("qkv.bias")) for n, v in published.items()}, tmp_path / "zero.pth")
    _, report = load(tmp_path / "zero.pth", plain)
    assert report.missing == ("head.weight", "head.bias")


def test_dinov2_with_registers_is_what_timm_converts(tmp_path: Path) -> None:
    model = small("vit_small_patch14_reg4_dinov2")
    model = model.model_copy(update={"image_size": 56})
    vit = random_model(model).vit
    published = {name: value for name, value in vit.state_dict().items() if not name.startswith("head.")}
    published["register_tokens"] = published.pop("reg_token")
    published["mask_token"] = torch.randn(1, 48)
    of_class = torch.randn(1, 1, 48)
    published["pos_embed"] = torch.cat([of_class, published["pos_embed"]], dim=1)
    published["cls_token"] = published["cls_token"] - of_class
    compare(model, published, convert_vit, vit, tmp_path)


def test_the_visual_tower_of_clip_is_what_timm_converts(tmp_path: Path) -> None:
    model = small("vit_base_patch16_clip_224")
    vit = random_model(model).vit
    state = vit.state_dict()
    names = {
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "blocks.": "transformer.resblocks.",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    published: State = {
        "logit_scale": torch.ones(()),
        "transformer.resblocks.0.ln_1.weight": torch.ones(3),
        "positional_embedding": torch.ones(7, 3),
    }
    for name, value in state.items():
        if name in ("cls_token", "pos_embed") or name.startswith("head."):
            continue
        renamed = "ln_post" + name.removeprefix("norm") if name.startswith("norm.") else name
        for ours, theirs in names.items():
            renamed = renamed.replace(ours, theirs)
        published[f"visual.{renamed}"] = value
    published["visual.class_embedding"] = state["cls_token"][0, 0]
    published["visual.positional_embedding"] = state["pos_embed"][0]
    compare(model, published, convert_vit, vit, tmp_path)


def compare(model: ModelSettings, published: State, convert: Any, expected: Any, folder: Path) -> None:
    """Load a published file and compare features with the model it was made from, and weights with timm's conversion."""
    torch.save(published, folder / "published.pth")
    save_file({name: value.clone() for name, value in published.items()}, folder / "published.safetensors")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = convert(dict(published), expected)
    for file in ("published.pth", "published.safetensors"):
        found, report = load(folder / file, model)
        assert all(torch.equal(found[name], reference[name]) for name in report.loaded)
        assert set(report.missing) == {"head.weight", "head.bias"}
        vit = build_model(model, RegularizerSettings()).vit
        vit.load_state_dict(found)
        images = torch.randn(2, 3, model.image_size, model.image_size)
        with torch.no_grad():
            torch.testing.assert_close(vit.eval().forward_features(images), expected.eval().forward_features(images))


def test_a_teacher_is_evaluated_as_a_timm_architecture(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(dino(vit.state_dict()), tmp_path / "dino.pth")
    loaded = load_model(f"timm:vit_tiny_patch16_224:{tmp_path / 'dino.pth'}")
    assert loaded.description.startswith(
        f"vit_tiny_patch16_224, weights of {tmp_path / 'dino.pth'}#teacher.backbone; left 8"
    )
    assert all(torch.equal(value, vit.state_dict()[name]) for name, value in loaded.model.vit.state_dict().items())


def test_what_is_unknown_is_one_line(backbone: State, tmp_path: Path) -> None:
    torch.save({"vit.encoder.layer.0.attention.attention.query.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no layout that is known here.*the nearest, has") as caught:
        load(tmp_path / "other.pth")
    assert "\n" not in str(caught.value)
    torch.save(dino(backbone), tmp_path / "dino.pth")
    with pytest.raises(UserError, match=r"has no part 'nothing'; it has .*student, .*backbone, head"):
        open_weights(f"{tmp_path / 'dino.pth'}#nothing")
    torch.save({"first": backbone, "second": {"inner": backbone}, "epoch": 3}, tmp_path / "two.pth")
    for part in ("", "#nothing"):
        with pytest.raises(UserError, match=r"no state dict: .*; \S*two\.pth#PART takes another .*: first, second$"):
            open_weights(f"{tmp_path / 'two.pth'}{part}")
    torch.save({"model": {**backbone, "surprise": torch.ones(1)}}, tmp_path / "more.pth")
    with pytest.raises(UserError, match="surprise unexpected"):
        load(tmp_path / "more.pth")
