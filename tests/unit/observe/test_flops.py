import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sar_dist.config import ModelSettings, RegularizerSettings, RunConfig, load_config
from sar_dist.models.build import model_on_meta
from sar_dist.observe.flop_table import flop_table
from sar_dist.observe.flops import count_flops, count_regularized_flops, vit_forward_macs
from sar_dist.terms import build_terms


def configured_models():
    """One configuration for each model that the project's configurations use."""
    configs = [load_config(path) for path in sorted(CONFIGS.glob("[!_]*.py"))]
    return {config.model.model_dump_json(): pytest.param(config, id=config.model.name) for config in configs}.values()


CONFIGS = Path(__file__).parents[3] / "configs"
VIT_B = {"image_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12}
VIT_L = {"image_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24}


def build(name="vit_tiny_patch16_224", image_size=224, no_skip=False, **options):
    settings = ModelSettings(name=name, image_size=image_size, no_skip_last_block=no_skip, options=options)
    return model_on_meta(settings, RegularizerSettings())


def meta_images(size, batch=1):
    return torch.empty(batch, 3, size, size, device="meta")


def torch_flops(model, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(("sizes", "gigamacs"), [(VIT_B, 17.56), (VIT_L, 61.55)])
def test_closed_form_gives_the_published_figures(sizes, gigamacs):
    assert vit_forward_macs(**sizes) / 1e9 == pytest.approx(gigamacs, abs=0.006)


@pytest.mark.parametrize("config", configured_models())
def test_closed_form_fvcore_and_pytorch_agree_on_every_configured_model(config):
    model = model_on_meta(config.model, config.regularizer)
    images = meta_images(config.model.image_size)
    report = count_flops(model, (images,))
    assert report.forward_flops == torch_flops(model, images)
    expected = vit_forward_macs(
        image_size=config.model.image_size,
        patch_size=model.vit.patch_embed.patch_size[0],
        embed_dim=model.vit.embed_dim,
        depth=len(model.vit.blocks),
        num_classes=config.model.num_classes,
        prefix_tokens=model.vit.num_prefix_tokens,
    )
    assert report.macs == pytest.approx(expected, rel=1e-3)


def test_registers_and_other_sizes_agree_with_the_closed_form():
    options = {"embed_dim": 96, "depth": 3, "num_heads": 4, "mlp_ratio": 3.0}
    model = build(image_size=96, reg_tokens=4, **options)
    del options["num_heads"]
    expected = vit_forward_macs(image_size=96, patch_size=16, prefix_tokens=5, **options)
    assert count_flops(model, (meta_images(96),)).macs == expected


@pytest.mark.parametrize("no_skip", [False, True])
def test_the_last_block_without_skip_takes_as_much(no_skip):
    options = {"embed_dim": 96, "depth": 2}
    report = count_flops(build(image_size=64, no_skip=no_skip, num_heads=4, **options), (meta_images(64),))
    assert report.macs == vit_forward_macs(image_size=64, patch_size=16, **options)


def terms_of(model, *further):
    """The spatial entropy and further terms, for the model's grid."""
    config = RunConfig(run={"name": "x"}, terms=further)
    return build_terms(config, model.grid, torch.device("cpu"))


def test_every_term_has_its_own_share():
    model = build(image_size=64, embed_dim=48, depth=2, num_heads=3)
    terms = terms_of(model, {"name": "total_variation", "weight": 0.1})
    report = count_regularized_flops(model, meta_images(64), terms)
    assert report.macs_by_module["regularizer.total_variation"] == 3 * 16 * 16  # heads x patches x head dimension
    assert report.macs_by_module["regularizer"] == sum(
        report.macs_by_module[f"regularizer.{name}"] for name in ("entropy", "total_variation")
    )


def test_the_regularizer_has_its_own_share():
    model = build(image_size=64, embed_dim=48, depth=2, num_heads=3).to_empty(device="cpu")
    report = count_regularized_flops(model, torch.zeros(2, 3, 64, 64), terms_of(model))
    products = 2 * 3 * 16 * 16  # (similarity, query gradient) x heads x patches x head dimension
    elementwise = 3 * 16 * 12 / 2  # heads x patches x 12 FLOPs
    assert report.macs_by_module["regularizer"] == products + elementwise
    assert report.macs == report.macs_by_module["model"] + products + elementwise
    assert report.share("regularizer") == pytest.approx((products + elementwise) / report.macs)
    assert report.macs_by_operator["spatial_entropy_from_query_key"] == products + elementwise


def test_counts_are_per_image():
    model = build(image_size=32, embed_dim=24, depth=1, num_heads=2)
    assert count_flops(model, (meta_images(32, 4),)).macs == count_flops(model, (meta_images(32),)).macs


def test_counting_leaves_the_model_as_it_was():
    model = build(image_size=32, embed_dim=24, depth=1, num_heads=2).train()
    model.vit.head.eval()
    count_flops(model, (meta_images(32),))
    assert model.training
    assert not model.vit.head.training
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not model._forward_hooks


class CrossAttention(nn.Module):
    def forward(self, query, key, value):
        return {"out": [functional.scaled_dot_product_attention(query, key, value)], "loss": (query.sum(),)}


def test_attention_with_unequal_lengths_and_widths():
    report = count_flops(CrossAttention(), (torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, 4)))
    assert report.macs == 3 * 5 * 7 * (8 + 4)
    assert report.uncounted_operators == {"aten::sum": 1}


def test_the_report_is_json():
    report = count_flops(build(image_size=32, embed_dim=24, depth=1, num_heads=2), (meta_images(32),))
    values = json.loads(json.dumps(report.as_dict()))
    assert values["training_flops"] == 3 * values["forward_flops"] == 6 * values["macs"]
    assert values["parameters_by_module"][""] == report.parameters


def render(table):
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue()


def test_children_add_up_to_their_parent_in_the_table():
    model = build(image_size=64, embed_dim=48, depth=3, num_heads=3)
    report = count_regularized_flops(model, meta_images(64), terms_of(model))
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in render(flop_table(report)).splitlines()
        if line.startswith("│")
    ]
    labels = [row[0] for row in rows]
    assert {"model", "vit", "patch_embed", "blocks x3", "attn x3", "qkv x3", "regularizer"} <= set(labels)
    columns = {row[0]: (int(row[1].replace(",", "")), float(row[2])) for row in rows if row[0] != "(own)"}
    own = [(int(row[1].replace(",", "")), float(row[2])) for row in rows if row[0] == "(own)"]
    attention, block, vit = own  # in the order of the tree
    parts = ["patch_embed", "blocks x3", "norm", "head"]
    assert columns["total"][0] == sum(columns[part][0] for part in parts) + vit[0] == report.parameters
    parts = ["norm1 x3", "attn x3", "norm2 x3", "mlp x3"]
    assert columns["blocks x3"][0] == sum(columns[part][0] for part in parts)
    assert attention[0] == block[0] == 0


def test_the_depth_of_the_table():
    model = build(image_size=32, embed_dim=24, depth=1, num_heads=2)
    report = count_regularized_flops(model, meta_images(32), terms_of(model))
    text = render(flop_table(report, depth=3))
    assert "blocks" in text
    assert "mlp" not in text
