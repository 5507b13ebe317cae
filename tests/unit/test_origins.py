"""Weight files whose names and shapes fit a model that would compute something else with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from run_factory import random_model, settings
from torch import Tensor

from sar_dist.config import ModelSettings
from sar_dist.errors import UserError
from sar_dist.models.initialize import load_initial_weights
from sar_dist.models.layouts import find_part
from sar_dist.models.origins import check_origin, project_of, remark_on_activation, remark_on_normalisation
from sar_dist.models.weights import open_weights
from sar_dist.transfer import load_model

State = dict[str, Tensor]
TINY = "vit_tiny_patch16_224"


def tiny(name: str = TINY, **options: Any) -> State:
    return timm.create_model(name, num_classes=0, depth=1, **options).state_dict()


def load_tiny(content: object, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = TINY) -> Any:
    """What ``timm:NAME:FILE`` loads, with one block instead of twelve."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: create(*names, **{"depth": 1, **options}))
    torch.save(content, folder / "weights.pth")
    return load_model(f"timm:{name}:{folder / 'weights.pth'}")


@pytest.mark.parametrize("more", [{}, {"mask_token": torch.zeros(1, 1, 192)}])
def test_patches_of_another_size_are_refused_and_a_grid_of_another_is_said(
    more: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"has patches of 8x8 pixels, and the model patches of 16x16: choose .* of 8 "):
        load_tiny({**tiny(patch_size=8), **more}, tmp_path, monkeypatch)
    larger = tiny(img_size=384)
    loaded = load_tiny({**larger, **more}, tmp_path, monkeypatch)
    assert "; resampled pos_embed; " in loaded.description
    assert loaded.model.vit.pos_embed.shape == (1, 197, 192)
    same = load_tiny({**tiny(), **more}, tmp_path, monkeypatch)
    assert "resampled" not in same.description
    assert "pos_embed" not in same.description


def test_a_start_from_patches_of_another_size_is_refused(tmp_path: Path) -> None:
    other = random_model(settings().model_copy(update={"patch_size": 8})).vit.state_dict()
    torch.save({"model": {**other, "mask_token": torch.zeros(1, 1, 32)}}, tmp_path / "mae.pth")
    chosen = settings().model_copy(update={"init_from": str(tmp_path / "mae.pth"), "patch_size": 4})
    with pytest.raises(UserError, match=r"model\.init_from: .*patches of 8x8.* 4x4: .*model\.patch_size=8"):
        load_initial_weights(random_model(chosen).vit, chosen)


def test_the_heads_of_moco_are_set_for_evaluation_and_asked_for_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "vit_small_patch16_224"
    content = {"state_dict": {f"module.base_encoder.{key}": value for key, value in tiny(name).items()}}
    loaded = load_tiny(content, tmp_path, monkeypatch, name)
    assert loaded.model.vit.blocks[0].attn.num_heads == 12
    assert loaded.settings.options == {"num_heads": 12}
    assert loaded.build_untrained().vit.blocks[0].attn.num_heads == 12
    assert "; 12 heads, as MoCo v3 has; " in loaded.description
    chosen = ModelSettings(name=name, options={"depth": 1}, init_from=str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match=r"12 heads, and the model has 6: set model\.options\.num_heads=12"):
        load_initial_weights(random_model(chosen).vit, chosen)
    chosen = chosen.model_copy(update={"options": {"depth": 1, "num_heads": 12}})
    load_initial_weights(random_model(chosen).vit, chosen)


def test_the_numbers_by_which_images_are_normalised_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_tiny({**tiny(), "decoder_pred.bias": torch.ones(2)}, tmp_path, monkeypatch)
    assert loaded.description.endswith("; images normalised by mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5")
    assert "layout is that of MAE, which normalises images by ImageNet's" in capsys.readouterr().err
    load_tiny(tiny(), tmp_path, monkeypatch)
    assert not capsys.readouterr().err


def test_a_name_with_imagenets_mean_is_recommended() -> None:
    half, imagenet = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
    assert "give timm:vit_base_patch16_224.mae:FILE" in remark_on_normalisation("MAE", "vit_base_patch16_224", half)
    assert "give timm:vit_base_patch16_224.dino:FILE" in remark_on_normalisation("DINO", "vit_base_patch16_224", half)
    assert "give timm:deit_tiny_patch16_224:FILE" in remark_on_normalisation("MoCo v3", TINY, half)
    assert not remark_on_normalisation("MAE", "vit_base_patch16_224", imagenet)
    assert not remark_on_normalisation("", "vit_base_patch16_224", half)


@pytest.mark.parametrize(
    ("names", "part", "project"),
    [
        (["blocks.0.norm1.weight"], "state_dict.base_encoder", "MoCo v3"),
        (["head.mlp.0.weight", "norm.weight"], "teacher.backbone", "DINO"),
        (["ibot_head.mlp.0.weight"], "teacher.backbone", "DINOv2"),
        (["mask_token", "decoder_embed.bias"], "model", "MAE"),
        (["blocks.0.norm1.weight", "head.weight"], "model", ""),
    ],
)
def test_a_project_is_known_by_what_it_saves_beside_a_backbone(names: list[str], part: str, project: str) -> None:
    assert project_of(names, part) == project


def test_the_activation_of_openais_clip_is_asked_for() -> None:
    with torch.device("meta"):
        plain = timm.create_model("vit_base_patch32_clip_224", depth=1)
        quick = timm.create_model("vit_base_patch32_clip_quickgelu_224", depth=1)
    left = ("input_resolution", "context_length", "vocab_size")
    shapes = {"visual.conv1.weight": (768, 3, 32, 32), "visual.transformer.resblocks.0.ln_1.weight": (768,)}
    with pytest.raises(UserError, match="has GELU: give vit_base_patch32_clip_quickgelu_224"):
        check_origin("", shapes, left, plain, "clip.pth")
    check_origin("", shapes, left, quick, "clip.pth")
    check_origin("", shapes, (), plain, "clip.pth")
    assert not remark_on_activation(shapes, left, quick)
    assert "GELU as in vit_base_patch32_clip_224" in remark_on_activation(shapes, (), plain)


def test_one_name_with_and_without_a_wrappers_prefix_is_refused(tmp_path: Path) -> None:
    state, other = {"norm.weight": torch.ones(2)}, {"module.norm.weight": torch.zeros(2)}
    for content in (
        {**state, **other},
        {**other, **state},
        {"backbone.patch_embed.x": torch.ones(1), **state} | {"backbone.norm.weight": torch.zeros(2)},
    ):
        torch.save(content, tmp_path / "twice.pth")
        with pytest.raises(UserError, match=r"two sets of weights in one: \S*norm\.weight and \S*norm\.weight"):
            open_weights(str(tmp_path / "twice.pth"))
    torch.save({**state, **other}, tmp_path / "twice.pth")
    assert open_weights(f"{tmp_path / 'twice.pth'}#module").read("norm.weight").sum() == 0


@pytest.mark.parametrize("name", ["ema", "ema_model", "ema_state_dict", "model_swa"])
def test_an_average_beside_live_weights_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    live, average = {"norm.weight": torch.ones(1)}, {"norm.weight": torch.zeros(1)}
    for first in ("model", "state_dict"):
        assert find_part({first: live, name: average}, "", "file.pth")[1] == first
        assert f"{first} is taken, not {name}, " in capsys.readouterr().err
    find_part({"model": live, name: average}, name, "file.pth")
    find_part({"model": live, "schema": average, "model_ema": average}, "", "file.pth")
    assert not capsys.readouterr().err


def test_the_counter_of_an_averaged_model_is_left(tmp_path: Path) -> None:
    torch.save({"n_averaged": torch.tensor(5), "module.norm.weight": torch.ones(2)}, tmp_path / "swa.pth")
    weights = open_weights(str(tmp_path / "swa.pth"))
    assert (list(weights.shapes), weights.left) == (["norm.weight"], ("n_averaged",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dist_token": torch.ones(1, 1, 192)}, "dist_token unexpected (a distilled model's"),
        ({"fc_norm.weight": torch.ones(192)}, "fc_norm.weight unexpected (of a model that averages its patches"),
        ({"blocks.0.attn.q.weight": torch.ones(2)}, "unexpected (query, key and value apart: join them into attn.qkv)"),
        ({"head.bias": torch.ones(3)}, "head.bias unexpected; give the architecture"),
        ({"head.weight": torch.ones(3, 192)}, "head.bias missing"),
    ],
)
def test_what_does_not_fit_is_one_line_that_says_what_to_do(
    change: State, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as caught:
        load_tiny({**tiny(), **change}, tmp_path, monkeypatch)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stem_of_several_convolutions_has_no_patches_to_compare() -> None:
    with torch.device("meta"):
        stem = timm.create_model("vit_base_mci_224", depth=1)
    check_origin("", {"patch_embed.proj.weight": (768, 3, 16, 16)}, (), stem, "file.pth")
