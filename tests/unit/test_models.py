"""The tapped model is timm's model, bit for bit, and its taps are the attention's own similarities."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import timm
import torch
from torch import nn

from sar_dist.config import ModelSettings, RegularizerSettings
from sar_dist.errors import UserError
from sar_dist.models import TappedVisionTransformer, build_model, model_on_meta, parameter_groups, project_linearly
from sar_dist.regularizer import class_similarity

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit_tiny_patch16_224", "options": SMALL},
    "deit_distilled": {"name": "deit_tiny_distilled_patch16_224", "options": SMALL},
    "registers": {"name": "vit_tiny_patch16_224", "options": {**SMALL, "reg_tokens": 4}},
    "layer_scale_and_qk_norm": {
        "name": "vit_tiny_patch16_224",
        "options": {**SMALL, "init_values": 0.1, "qk_norm": True},
    },
    "deit3": {"name": "deit3_small_patch16_224", "options": SMALL},
}


def settings(name: str = "vit", **changes: Any) -> ModelSettings:
    return ModelSettings(**{"image_size": 48, "num_classes": 7, "drop_path": 0.1, **VARIANTS[name], **changes})


def build(model: ModelSettings, seed: int = 0, **regularizer: Any) -> TappedVisionTransformer:
    torch.manual_seed(seed)
    return build_model(model, RegularizerSettings(**regularizer))


def images(count: int = 2, size: int = 48) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_path_is_bit_identical_to_timm(variant: str, training: bool) -> None:
    model = build(settings(variant, drop_path=0.0)).train(training)
    torch.manual_seed(0)
    plain = timm.create_model(
        VARIANTS[variant]["name"], img_size=48, num_classes=7, **VARIANTS[variant]["options"]
    ).train(training)
    assert model.vit.state_dict().keys() == plain.state_dict().keys()
    torch.manual_seed(5)
    tapped = model(images())["logits"]
    for same in (plain, model.vit):
        torch.manual_seed(5)
        assert torch.equal(tapped, same(images()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_tap_is_the_attention_of_the_block(variant: str) -> None:
    """Softmax over [CLS] . all keys, renormalised to the patches, equals softmax of the tapped similarity."""
    model = build(settings(variant)).eval()
    attention: list[torch.Tensor] = []
    attn = model.vit.blocks[-1].attn

    def dense(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0]
        q, k, _ = attn.qkv(x).reshape(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = attn.q_norm(q), attn.k_norm(k)
        attention.append((q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1))

    model.vit.blocks[-1].norm1.register_forward_hook(lambda module, inputs, output: dense(module, (output,)))
    output = model(images())
    prefix = model.vit.num_prefix_tokens
    expected = attention[0][:, :, 0, prefix:]
    expected = expected / expected.sum(-1, keepdim=True)
    similarity = class_similarity(output["queries"][0], output["keys"][0], model.grid)
    torch.testing.assert_close(similarity.flatten(2).softmax(-1), expected)


def test_no_skip_last_block_is_the_function_of_the_paper() -> None:
    model = build(settings(no_skip_last_block=True)).eval()
    block = model.vit.blocks[-1]
    x = torch.randn(2, 10, 32)
    attended = block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), attended + block.mlp(attended), rtol=0, atol=1e-6)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=7, **SMALL)
    assert plain.state_dict().keys() - model.vit.state_dict().keys() == {"blocks.2.norm2.weight", "blocks.2.norm2.bias"}
    with pytest.raises(RuntimeError, match=r"blocks\.2\.norm2"):
        plain.load_state_dict(model.vit.state_dict())


def test_attention_is_never_materialised() -> None:
    """No tensor of the tokens-by-tokens size appears in forward or backward; the similarity map is one row of it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    model = build(ModelSettings(name="vit_tiny_patch16_224", image_size=160, num_classes=7, options=SMALL))
    tokens, shapes = 101, set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            shapes.update(tuple(t.shape) for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t))
            return out

    with Watch():
        output = model(images(size=160))
        similarity = class_similarity(output["queries"][0], output["keys"][0], model.grid)
        (output["logits"].sum() + similarity.var()).backward()
    assert not [shape for shape in shapes if sum(size in (tokens, tokens - 1) for size in shape) > 1]


@pytest.mark.parametrize("no_skip", [False, True])
def test_activation_checkpointing_keeps_every_gradient(no_skip: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build_model(
            settings(no_skip_last_block=no_skip), RegularizerSettings(), activation_checkpointing=checkpointing
        )
        torch.manual_seed(1)
        output = model(images())
        similarity = class_similarity(output["queries"][0], output["keys"][0], model.grid)
        (output["logits"].var() + 10 * similarity.var()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_mean_query_and_several_blocks() -> None:
    model = build(settings(), blocks=(0, -1), query="mean").eval()
    output = model(images())
    assert model.tapped == [0, 2]
    assert [tuple(query.shape) for query in output["queries"]] == [(2, 2, 16)] * 2
    assert [tuple(key.shape) for key in output["keys"]] == [(2, 2, 9, 16)] * 2
    x = model.vit._pos_embed(model.vit.patch_embed(images()))
    block = model.vit.blocks[0]
    q = block.attn.qkv(block.norm1(x)).reshape(2, 10, 3, 2, 16)[:, 1:, 0].mean(1)
    torch.testing.assert_close(output["queries"][0], q)


@pytest.mark.parametrize(
    ("changes", "regularizer", "expected"),
    [
        ({"name": "vit_tinny_patch16_224"}, {}, "did you mean vit_tiny_patch16_224"),
        ({"name": "resnet50"}, {}, "resnet50"),
        ({"image_size": 50}, {}, "not divisible by the patch size 16; use 48 or 64"),
        ({"image_size": 8}, {}, "not divisible by the patch size 16; use 16"),
        ({"options": {"num_heads": 5}}, {}, "cannot build"),
        ({"options": {"nonsense": 5}}, {}, "nonsense"),
        ({}, {"blocks": (3,)}, "the model has blocks 0 to 2"),
        ({"name": "vit_medium_patch16_gap_240", "image_size": 240}, {}, "regularizer.query=mean"),
    ],
)
def test_bad_models_give_one_line(changes: dict[str, Any], regularizer: dict[str, Any], expected: str) -> None:
    base = {} if "name" in changes and "options" not in changes else VARIANTS["vit"]
    model = ModelSettings(**{"image_size": 48, "num_classes": 7, **base, **changes})
    with pytest.raises(UserError) as caught:
        model_on_meta(model, RegularizerSettings(**regularizer))
    assert expected in str(caught.value)


def test_parameter_groups_decay_matrices_only_and_by_depth() -> None:
    model = build(settings())
    names = {id(parameter): name for name, parameter in model.vit.named_parameters()}
    groups = parameter_groups(model.vit, lr=1.0, weight_decay=0.3, layer_decay=0.5)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    for name, (lr, decay) in found.items():
        is_matrix = model.vit.get_parameter(name).ndim > 1 and name not in ("cls_token", "pos_embed")
        assert decay == (0.3 if is_matrix else 0.0), name
        if name.startswith("blocks"):
            layer = int(name.split(".")[1]) + 1
        else:
            layer = 4 if name.startswith("head") else 3 if name.startswith("norm") else 0
        assert lr == 0.5 ** (4 - layer), name
    flat = parameter_groups(model.vit, lr=1.0, weight_decay=0.3)
    assert {group["lr"] for group in flat} == {1.0}
    assert sum(len(group["params"]) for group in flat) == len(names)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"norm_layer": "typo"}, "KeyError: 'typo'"),
        ({"act_layer": "typo"}, "KeyError: 'typo'"),
        ({"norm_layer": "batchnorm2d"}, "cannot classify colour images"),
        ({"global_pool": ""}, "leave out model.options.global_pool"),
        ({"in_chans": 1}, "cannot classify colour images"),
        ({"num_heads": 0}, "model.options.num_heads=0: should be a whole number from 1 to"),
        ({"depth": 0}, "model.options.depth=0: should be a whole number from 1 to"),
        ({"depth": True}, "model.options.depth=True: should be a whole number"),
        ({"depth": 10**6}, "should be a whole number from 1 to 1000"),
        ({"checkpoint_path": "weights.pth"}, "is no argument of an architecture; .*model.init_from"),
        ({"scriptable": True}, "is no argument of an architecture"),
        ({"patch_drop_rate": 0.5}, "drops patches, without which there is no map"),
        ({"img_size": 64}, "img_size"),
    ],
)
def test_wrong_options_are_one_line_before_anything_starts(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        model_on_meta(settings(options={**SMALL, **options}), RegularizerSettings())
    assert re.search(expected, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_patch_projection_is_the_convolution(bias: bool) -> None:
    """Value and gradients, in float64, for patches that are not square."""
    torch.manual_seed(0)
    plain = timm.layers.PatchEmbed((24, 40), (6, 10), 3, 16, bias=bias).double()
    linear = copy.deepcopy(plain)
    project_linearly(linear)
    pixels = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    for module in (plain, linear):
        module(pixels).square().sum().backward()
    torch.testing.assert_close(linear(pixels), plain(pixels))
    assert [name for name, _ in linear.named_parameters()] == [name for name, _ in plain.named_parameters()]
    for one, other in zip(linear.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_patch_projection_is_chosen_by_its_key() -> None:
    plain, linear = (build(settings(patch_projection=kind)).eval() for kind in ("convolution", "linear"))
    assert plain.vit.state_dict().keys() == linear.vit.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), linear.parameters(), strict=True))
    assert type(linear.vit.patch_embed.proj).__name__ == "LinearPatchProjection"
    torch.testing.assert_close(linear(images())["logits"], plain(images())["logits"])


def test_an_overlapping_patch_embedding_has_no_linear_form() -> None:
    embedding = nn.Module()
    embedding.proj = nn.Conv2d(3, 8, 7, stride=4)
    with pytest.raises(UserError, match="patch_projection=linear needs a patch embedding of one convolution"):
        project_linearly(embedding)
