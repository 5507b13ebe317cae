import copy

import pytest
import timm
import torch
from segmentation_factory import small_backbone
from torch import nn

from sar_dist.errors import UserError
from sar_dist.transfer.tasks.segmentation.heads import LinearHead, UPerNetHead
from sar_dist.transfer.tasks.segmentation.layers import DropKeys, GlobalBatchNorm2d, SampleDrop
from sar_dist.transfer.tasks.segmentation.model import SegmentationModel, recipe_for
from sar_dist.transfer.tasks.segmentation.settings import SegmentationSettings, neck_blocks, resolve_recipe
from sar_dist.transfer.tasks.segmentation.training import global_loss, zero_padding


def recipe_of(depth=4, width=24, **settings):
    defaults = {"crop": 32, "channels": 16, "global_batch": 2, "iterations": 100}
    return resolve_recipe(SegmentationSettings.model_validate({**defaults, **settings}), depth=depth, width=width)


def model_of(head, **settings):
    return SegmentationModel(small_backbone(), recipe_of(head=head, **settings), 5, seed=0)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("crop", [32, 48])
@pytest.mark.parametrize(("head", "outputs"), [("linear", 1), ("upernet", 2), ("dpt", 1)])
def test_logits_have_the_size_of_the_images(head, outputs, crop):
    model = model_of(head, crop=crop)
    images = torch.randn(2, 3, crop, crop)
    logits = model.train()(images, torch.tensor([3, 4]))
    assert [tuple(part.shape) for part in logits] == [(2, 5, crop, crop)] * outputs
    assert [tuple(part.shape) for part in model.eval()(images)] == [(2, 5, crop, crop)]


@pytest.mark.parametrize("head", ["linear", "upernet", "dpt"])
def test_a_model_without_a_class_token_has_heads_too(head):
    backbone = small_backbone()
    backbone.vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=2, class_token=False,
        global_pool="avg",
    )  # fmt: skip
    backbone.model.vit = backbone.vit
    model = SegmentationModel(backbone, recipe_of(head=head), 5, seed=0).eval()
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 5, 32, 32)


def test_upernet_on_vit_b_has_as_many_parameters_as_published():
    """BEiT's UPerNet on ViT-B has 163 M, the auxiliary head included."""
    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224", img_size=512, num_classes=0)
        head = UPerNetHead(768, 150, 768, DropKeys(0))
    assert (parameters(vit) + parameters(head)) / 1e6 == pytest.approx(163, abs=2)


def test_the_linear_head_is_a_norm_and_a_classifier():
    torch.manual_seed(0)
    head = LinearHead(768, 150, DropKeys(0))
    assert parameters(head) == 2 * 768 + 768 * 150 + 150
    weight = head.classifier[-1].weight
    assert float(weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not head.classifier[-1].bias.any()


def test_new_heads_depend_on_the_seed_alone():
    states = [
        SegmentationModel(small_backbone(), recipe_of(head="upernet"), 5, seed).state_dict() for seed in (0, 0, 1)
    ]
    name = "head.classifier.1.weight"
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0][name], states[2][name])


def test_the_linear_head_sees_a_normed_map():
    backbone = small_backbone()
    images = torch.randn(2, 3, 32, 32)
    for block in (2, 3):
        model = SegmentationModel(backbone, recipe_of(head="linear", block=block), 5, seed=0)
        expected = backbone.vit.forward_intermediates(images, indices=[block], norm=True, intermediates_only=True)
        torch.testing.assert_close(model._tokens(images)[0], expected)


def test_the_linear_heads_block_is_the_last_one_with_a_skip_connection():
    """Without one, a token forgets where it is: only what attention brings it from elsewhere is left."""
    assert recipe_for(SegmentationSettings(), small_backbone(no_skip=False)).blocks == (3,)
    assert recipe_for(SegmentationSettings(), small_backbone(no_skip=True)).blocks == (2,)
    assert recipe_for(SegmentationSettings(block=3), small_backbone(no_skip=True)).blocks == (3,)
    assert recipe_for(SegmentationSettings(head="upernet"), small_backbone(no_skip=True)).blocks == (0, 1, 2, 3)
    with pytest.raises(UserError, match="block=4: the backbone has blocks 0 to 3"):
        recipe_for(SegmentationSettings(block=4), small_backbone())


@pytest.mark.parametrize("head", ["linear", "upernet", "dpt"])
def test_the_jobs_backbone_is_never_changed(head):
    backbone = small_backbone()
    before = copy.deepcopy(backbone.model.state_dict())
    model = SegmentationModel(backbone, recipe_of(head=head, drop_path=0.5), 5, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameter_groups())
    global_loss(model(torch.randn(2, 3, 32, 32), torch.arange(2)), torch.zeros(2, 32, 32).long())[0].backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    moved = any(not torch.equal(value, before[f"vit.{name}"]) for name, value in model.vit.state_dict().items())
    assert moved == (head != "linear")
    assert model.vit.training == (head != "linear")
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("head", ["upernet", "dpt"])
def test_every_trained_parameter_gets_a_gradient(head):
    """A parameter without one would stop a training of several processes."""
    model = model_of(head, drop_path=0.0).train()
    global_loss(model(torch.randn(2, 3, 32, 32), torch.arange(2)), torch.zeros(2, 32, 32).long())[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_learning_rates_decay_from_block_to_block():
    model = model_of("upernet", layer_decay=0.5, lr=1.0, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates, decays = {}, {}
    for group in model.parameter_groups():
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = 4
    for name, rate in rates.items():
        number = layers + 1
        if name.startswith("vit."):
            number = int(name.split(".")[2]) + 1 if name.startswith("vit.blocks") else 0
        assert rate == pytest.approx(0.5 ** (layers + 1 - number)), name
    for name, decay in decays.items():
        plain = dict(model.named_parameters())[name].ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        assert decay == (0.1 if plain else 0.0), name


def test_recipes_are_those_of_the_protocol():
    recipes = {
        "linear": resolve_recipe(SegmentationSettings(head="linear"), depth=12, width=768),
        "base": resolve_recipe(SegmentationSettings(head="upernet"), depth=12, width=768),
        "large": resolve_recipe(SegmentationSettings(head="upernet"), depth=24, width=1024),
        "beit": resolve_recipe(SegmentationSettings(head="dpt", recipe="beit_base"), depth=12, width=768),
    }
    values = {
        name: (p.iterations, p.lr, p.weight_decay, p.layer_decay, p.drop_path, p.schedule, p.stride, p.blocks)
        for name, p in recipes.items()
    }
    assert values == {
        "linear": (40_000, 1e-3, 1e-3, 1.0, 0.0, "cosine", 341, (11,)),
        "base": (160_000, 1e-4, 0.05, 0.65, 0.1, "poly", 256, (3, 5, 7, 11)),
        "large": (160_000, 2e-5, 0.05, 0.95, 0.2, "poly", 341, (7, 11, 15, 23)),
        "beit": (160_000, 7e-4, 0.05, 0.65, 0.1, "poly", 341, (3, 5, 7, 11)),
    }
    assert {(p.crop, p.short_side, p.long_side, p.warmup, p.global_batch) for p in recipes.values()} == {
        (512, 512, 2048, 1500, 16)
    }
    assert [recipe.random_baseline for recipe in recipes.values()] == [True, False, False, False]
    assert [recipe.channels for recipe in recipes.values()] == [256, 768, 1024, 256]
    assert [recipe.departures() for recipe in recipes.values()] == [[]] * 4
    assert recipe_of(head="linear", iterations=20_000, crop=512, global_batch=16, short_side=448).departures() == [
        "iterations 20000 instead of 40000",
        "short_side 448 instead of 512",
    ]
    assert neck_blocks(6) == (1, 2, 4, 5)
    assert neck_blocks(2) == (0, 0, 1, 1)


def test_schedules_warm_up_and_end_at_zero():
    for head in ("linear", "upernet"):
        recipe = recipe_of(head=head, iterations=1000, warmup=100)
        factors = [recipe.learning_rate_factor(iteration) for iteration in range(1001)]
        assert factors[:100] == sorted(factors[:100])
        assert 0 < factors[0] < 0.02
        assert factors[100] == 1
        assert factors[100:] == sorted(factors[100:], reverse=True)
        assert factors[1000] == pytest.approx(0)
        assert factors[550] == pytest.approx(0.5)


def test_what_is_dropped_depends_on_seed_layer_and_position_alone():
    keys = DropKeys(7)
    drop = SampleDrop(0.3, 5, keys, channels=64).train()
    ones = torch.ones(6, 64, 2, 2)
    keys.positions = torch.arange(6)
    whole = drop(ones)
    keys.positions = torch.tensor([1, 3, 5])
    assert torch.equal(drop(ones[:3]), whole[1::2])
    assert whole.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert torch.equal(whole, whole[:, :, :1, :1].expand_as(whole))
    keys.positions = torch.arange(500)
    assert float(SampleDrop(0.3, 5, keys, 8)(torch.ones(500, 8, 1, 1)).mean()) == pytest.approx(1, abs=0.1)
    assert drop.eval()(ones) is ones


def test_global_batch_norm_of_one_process_is_batch_norm():
    torch.manual_seed(0)
    plain, ours = nn.BatchNorm2d(6), GlobalBatchNorm2d(6)
    nn.init.uniform_(plain.weight)
    ours.load_state_dict(plain.state_dict())
    results = []
    for norm in (plain, ours):
        images = (torch.linspace(-2, 3, 4 * 6 * 25).view(4, 6, 5, 5).sin() + 4).requires_grad_()
        output = norm(images)
        (output**3).sum().backward()
        results.append([output, images.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    images = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(plain.eval()(images), ours.eval()(images))


def test_the_loss_is_a_mean_over_labelled_pixels():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 5, 8, 8), torch.randint(0, 5, (2, 8, 8))
    label[0] = 255
    loss, shown = global_loss([logits], label)
    expected = nn.functional.cross_entropy(logits, label, ignore_index=255)
    torch.testing.assert_close(loss, expected)
    assert float(shown) == pytest.approx(float(expected), rel=1e-5)
    with_auxiliary = global_loss([logits, 2 * logits], label)[0]
    torch.testing.assert_close(
        with_auxiliary, expected + 0.4 * nn.functional.cross_entropy(2 * logits, label, ignore_index=255)
    )
    assert float(global_loss([logits], torch.full_like(label, 255))[0]) == 0


def test_padding_is_zero_after_normalisation():
    images = zero_padding(torch.ones(2, 3, 4, 4), torch.tensor([4, 2]), torch.tensor([1, 3]))
    assert images[:, 0].tolist() == [
        [[1, 0, 0, 0]] * 4,
        [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]


def test_a_crop_that_does_not_fit_the_patches_is_a_user_error(tmp_path):
    from segmentation_factory import small_task

    for settings, message in (
        ({"crop": 36}, r"crop=36 is not divisible by 8, the patch size; use 32"),
        ({"crop": 40, "head": "dpt"}, r"crop=40 is not divisible by 16, twice the patch size .*; use 32"),
        ({"crop": 32, "stride": 40}, "stride=40 leaves pixels out"),
    ):
        with pytest.raises(UserError, match=message):
            small_task(tmp_path, tmp_path, **settings).prepare()
