"""timm's Eva models (DINOv3, RoPE ViT, EVA-02, Perception Encoder): bit-identical, tapped after rotation, counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from run_factory import write_run
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from torch.nn import functional

from sar_dist.config import ModelSettings, RegularizerSettings, RunConfig, RunSettings
from sar_dist.errors import UserError
from sar_dist.models import TappedVisionTransformer, build_model, family_of, model_on_meta, parameter_groups
from sar_dist.models.export import export_run
from sar_dist.observe import count_flops
from sar_dist.planning import ModelShape
from sar_dist.regularizer import class_similarity
from sar_dist.transfer import Backbone
from sar_dist.transfer.tasks.segmentation.model import SegmentationModel, recipe_for
from sar_dist.transfer.tasks.segmentation.settings import SegmentationSettings

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
# One of each way in which timm's Eva models compute.
VARIANTS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_dinov3": {},  # registers, LayerScale, any input size
    "vit_small_patch16_dinov3_qkvb": {},  # biases added after the projection
    "vit_small_plus_patch16_dinov3": {},  # SwiGLU
    "eva02_tiny_patch14_224": {},  # packed SwiGLU, position embedding and rotation, mean pooling
    "eva02_base_patch14_224": {},  # three projections, norms inside of MLP and attention
    "eva_giant_patch14_clip_224": {},  # no rotation
    "eva02_enormous_patch14_clip_224": {},  # norms after the branches
    "vit_small_patch16_rope_224": {},
    "vit_small_patch16_rope_mixed_ape_224": {},  # learned angles of each block
    "vit_medium_patch16_rope_reg1_gap_256": {"query": "mean"},  # no [CLS]
    "vit_pe_core_base_patch16_224": {},  # attention pooling
    "vit_base_patch16_sapiens2": {"options": {"num_kv_heads": 1, "rope_rescale_coords": 1.0}},  # grouped queries
}


def settings(name: str, **changes: Any) -> ModelSettings:
    patch = 14 if "patch14" in name else 16
    options = {**SMALL, **VARIANTS[name].get("options", {})}
    return ModelSettings(**{"name": name, "image_size": 4 * patch, "num_classes": 7, "options": options, **changes})


def random_values(model: nn.Module) -> None:
    """Every parameter random, also those that begin as zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def build(model: ModelSettings, **regularizer: Any) -> TappedVisionTransformer:
    torch.manual_seed(0)
    query = VARIANTS[model.name].get("query", "cls")
    built = build_model(model, RegularizerSettings(**{"query": query, **regularizer}))
    random_values(built)
    return built


def plain_model(model: ModelSettings) -> Any:
    plain = timm.create_model(model.name, img_size=model.image_size, num_classes=model.num_classes, **model.options)
    random_values(plain)
    return plain


def images(model: ModelSettings) -> Tensor:
    return torch.randn(2, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("training", [True, False])
def test_logits_are_bit_identical_to_timm(name: str, training: bool) -> None:
    model = build(settings(name), blocks=(0, -1)).train(training)
    plain = plain_model(settings(name)).train(training)
    plain.load_state_dict(model.vit.state_dict())
    expected = plain(images(settings(name)))
    assert torch.equal(model(images(settings(name)))["logits"], expected)
    assert torch.equal(model.vit(images(settings(name))), expected)


def attention_inputs(run: Any) -> list[Tensor]:
    """Query and keys that the last self-attention of timm's own forward compares."""
    seen: list[Tensor] = []
    original = functional.scaled_dot_product_attention

    def watch(q: Tensor, k: Tensor, *further: Any, **options: Any) -> Tensor:
        if q.shape == k.shape:  # not that of attention pooling
            seen[:] = [q, k]
        return original(q, k, *further, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", watch)
        run()
    return seen


@pytest.mark.parametrize("name", VARIANTS)
def test_the_tap_is_what_timms_attention_compares(name: str) -> None:
    model, plain = build(settings(name)).eval(), plain_model(settings(name)).eval()
    plain.load_state_dict(model.vit.state_dict())
    query, keys = attention_inputs(lambda: plain(images(settings(name))))
    output = model(images(settings(name)))
    prefix = plain.num_prefix_tokens
    expected = query[:, :, prefix:].mean(2) if model.vit.cls_token is None else query[:, :, 0]
    assert torch.equal(output["queries"][0], expected)
    assert torch.equal(output["keys"][0], keys[:, :, prefix:])
    similarity = class_similarity(output["queries"][0], output["keys"][0], model.grid)
    assert similarity.shape == (2, 3, 4, 4)
    products = torch.einsum("bhd,bhnd->bhn", expected, keys[:, :, prefix:]) / math.sqrt(query.shape[-1])
    torch.testing.assert_close(similarity.flatten(2), products)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_base_patch14_224"])
def test_no_skip_last_block_is_the_function_of_the_paper(name: str) -> None:
    model = build(settings(name, no_skip_last_block=True)).eval()
    block = model.vit.blocks[-1]
    x, further = torch.randn(2, 4 * 4 + model.vit.num_prefix_tokens, 48), model.vit.rope.get_embed((4, 4))
    attended = block.attn(block.norm1(x), rope=further)
    mlp = block.mlp(attended) * (1 if block.gamma_2 is None else block.gamma_2)
    torch.testing.assert_close(block(x, rope=further), attended + mlp, rtol=0, atol=1e-6)
    absent = plain_model(settings(name)).state_dict().keys() - model.vit.state_dict().keys()
    scales = {"blocks.2.gamma_1"} if "dinov3" in name else set()
    assert absent == {"blocks.2.norm2.weight", "blocks.2.norm2.bias"} | scales
    assert torch.equal(model(images(settings(name)))["logits"], model.vit(images(settings(name))))


@pytest.mark.parametrize("name", ["vit_small_plus_patch16_dinov3", "vit_small_patch16_rope_mixed_ape_224"])
def test_activation_checkpointing_and_drop_path_keep_every_gradient(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = build(settings(name, drop_path=0.5, no_skip_last_block=True)).train()
        model.activation_checkpointing = checkpointing
        output = model(images(settings(name)), (torch.tensor([1, 2]),))
        (output["logits"].var() + 10 * output["keys"][0].var()).backward()
        gradients.append({key: parameter.grad for key, parameter in model.vit.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert torch.equal(gradient, gradients[1][key]), key


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_may_leave_out_what_they_drop(name: str) -> None:
    """The others are computed with all that the block takes beside its tokens: a dropped sample passes unchanged."""
    model = build(settings(name, drop_path=0.5, skip_dropped=True)).train()
    pixels = torch.cat([images(settings(name))] * 2)
    seen: list[Tensor] = []
    model.vit.blocks[1].register_forward_hook(lambda _, arguments, output: seen.append(arguments[0]))
    model(pixels, (torch.arange(4),))["logits"].sum().backward()
    assert [len(x) for x in seen] == [3]
    assert all(parameter.grad is not None for parameter in model.vit.blocks[1].parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_planned_arithmetic_is_what_fvcore_counts(name: str) -> None:
    model = settings(name, options=VARIANTS[name].get("options", {}) | {"depth": 2})
    query = VARIANTS[name].get("query", "cls")
    config = RunConfig(run=RunSettings(name="x"), model=model, regularizer={"query": query})
    counted = count_flops(
        model_on_meta(model, config.regularizer),
        (torch.empty(1, 3, model.image_size, model.image_size, device="meta"),),
    )
    assert ModelShape.of(config).forward_macs == pytest.approx(counted.macs, rel=1e-3)
    assert ModelShape.of(config).parameters == counted.parameters


def test_tokens_and_learned_angles_do_not_decay() -> None:
    model = build(settings("vit_small_patch16_rope_mixed_ape_224"))
    groups = parameter_groups(model.vit, lr=1.0, weight_decay=0.3)
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    named = dict(model.vit.named_parameters())
    assert not {name for name in ("rope.freqs", "cls_token", "pos_embed") if id(named[name]) in decayed}
    assert id(named["blocks.0.attn.qkv.weight"]) in decayed


def test_a_size_that_timm_resamples_to_keeps_the_tap() -> None:
    """DINOv3 and EVA-02 at another size, as segmentation and the attention tasks use them."""
    for name in ("vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_small_patch16_rope_mixed_ape_224"):
        model = build(settings(name)).eval()
        patch = model.vit.patch_embed.patch_size[0]
        model.vit.set_input_size(img_size=(6 * patch, 3 * patch))
        output = model(torch.randn(1, 3, 6 * patch, 3 * patch))
        assert model.grid == (6, 3)
        assert output["keys"][0].shape == (1, 3, 18, 16)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("eva02_enormous_patch14_clip_224", {"no_skip_last_block": True}, "no LayerNorm after its attention"),
        ("vit_huge_patch14_xp_224", {}, "made of ParallelScalingBlock.*nearest.*vit_huge_patch14"),
        ("vit_small_patch16_18x2_224", {}, "made of ParallelThingsBlock.*nearest.*vit_small_patch16"),
        ("swin_tiny_patch4_window7_224", {}, "SwinTransformer.*nearest.*vit_tiny_patch16_224"),
        ("cait_s24_224", {}, "Cait.*nearest"),
        ("beit_base_patch16_224", {}, "Beit.*nearest.*deit"),
        ("resnet50", {}, "ResNet.*nearest"),
    ],
)
def test_what_cannot_be_tapped_names_what_can(name: str, changes: dict[str, Any], expected: str) -> None:
    model = settings(name, **changes) if name in VARIANTS else ModelSettings(name=name)
    with pytest.raises(UserError, match=expected) as caught:
        model_on_meta(model, RegularizerSettings())
    assert "\n" not in str(caught.value)


def test_what_could_not_be_resumed_is_refused_in_training() -> None:
    vit = build(settings("vit_base_patch16_sapiens2", options={**SMALL, "num_kv_heads": 1})).vit
    with pytest.raises(UserError, match=r"set model\.options\.rope_rescale_coords=1$"):
        family_of(vit.blocks[0]).check_training(vit)
    vit = build(settings("vit_base_patch16_sapiens2")).vit
    family_of(vit.blocks[0]).check_training(vit)


def test_another_attention_is_refused() -> None:
    class Other(EvaAttention):
        pass

    block = plain_model(settings("vit_small_patch16_dinov3")).blocks[0]
    block.attn.__class__ = Other
    with pytest.raises(UserError, match="not Other"):
        family_of(block).tap(block, num_prefix_tokens=1)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_base_patch14_224"])
@pytest.mark.parametrize("no_skip", [False, True])
def test_an_export_is_a_timm_model(name: str, no_skip: bool, tmp_path: Path) -> None:
    model = settings(name, no_skip_last_block=no_skip)
    trained = build(model).eval()
    export_run(write_run(tmp_path, model, {1: trained.vit}), tmp_path / "export")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert torch.equal(loaded(images(model)), trained(images(model))["logits"])
    assert type(loaded.blocks[-1]).__name__ == ("EvaTapBlock" if no_skip else "EvaBlock")
    backbone = Backbone.load(str(tmp_path / "export"), torch.device("cpu"))
    assert torch.equal(backbone.logits(images(model)), trained(images(model))["logits"])


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_medium_patch16_rope_reg1_gap_256"])
def test_features_and_maps_for_the_transfer_tasks(name: str, tmp_path: Path) -> None:
    model = settings(name, options={**SMALL, "num_reg_tokens": 0 if "gap" in name else 4})
    run = RunConfig(
        run=RunSettings(name="small"), model=model, regularizer={"query": VARIANTS[name].get("query", "cls")}
    )
    trained = build(model).eval()
    folder = write_run(tmp_path, model, {1: trained.vit})
    (folder / "config.json").write_text(run.model_dump_json())
    backbone = Backbone.load(str(folder), torch.device("cpu"))
    tokens, means = backbone.tokens(images(model), last_blocks=2)
    blocks = trained.vit.forward_intermediates(images(model), indices=[1, 2], norm=True, intermediates_only=True)
    torch.testing.assert_close(means, blocks[-1].mean((2, 3)))
    if backbone.has_class_token:
        torch.testing.assert_close(tokens[:, -1], trained.vit.forward_features(images(model))[:, 0])
    else:
        torch.testing.assert_close(tokens, torch.stack([block.mean((2, 3)) for block in blocks], dim=1))
    assert backbone.has_class_token is ("gap" not in name)
    assert backbone.similarity(images(model)).shape == (2, 3, 4, 4)
    wide = backbone.resized(32, 96)
    assert wide.similarity(torch.randn(1, 3, 32, 96)).shape == (1, 3, 2, 6)
    recipe = recipe_for(SegmentationSettings(crop=96, head="linear"), backbone)
    segmentation = SegmentationModel(backbone, recipe, classes=5, seed=0).eval()
    assert segmentation(torch.randn(2, 3, 96, 96))[0].shape == (2, 5, 96, 96)
