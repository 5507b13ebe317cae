"""Stochastic depth: a function of (seed, sample, branch), whoever computes it and however."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from sar_dist.config import ModelSettings, RegularizerSettings
from sar_dist.models import DropPaths, TappedVisionTransformer, build_model
from sar_dist.randomness import counter_uniform

RATE = 0.5


def build(
    depth: int = 4, seed: int = 3, rate: float = RATE, skip_dropped: bool = False, **switches: Any
) -> TappedVisionTransformer:
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depth": depth, "num_heads": 2}
    model = ModelSettings(
        image_size=32, patch_size=16, num_classes=5, drop_path=rate, skip_dropped=skip_dropped, options=options
    )
    return build_model(model, RegularizerSettings(), seed=seed, **switches).train()


def batch(samples: int = 12) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    images = torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return images, (torch.full((samples,), 2), torch.arange(100, 100 + samples))


def test_a_sample_is_dropped_alike_in_any_micro_batch() -> None:
    model, (images, (epoch, sample)) = build(), batch()
    whole = model(images, (epoch, sample))["logits"]
    parts = [model(images[i::3], (epoch[i::3], sample[i::3]))["logits"] for i in range(3)]
    for i, part in enumerate(parts):
        torch.testing.assert_close(part, whole[i::3])
    assert not torch.allclose(whole, model.eval()(images)["logits"])


@pytest.mark.parametrize("other", ["epoch", "sample", "seed"])
def test_other_keys_drop_other_branches(other: str) -> None:
    model, (images, (epoch, sample)) = build(), batch()
    expected = model(images, (epoch, sample))["logits"]
    if other == "seed":
        found = build(seed=4)(images, (epoch, sample))["logits"]
    else:
        found = model(images, (epoch + (other == "epoch"), sample + 1000 * (other == "sample")))["logits"]
    assert not torch.allclose(found, expected)


def test_branches_are_dropped_at_their_rate_and_scaled() -> None:
    blocks = nn.Sequential(*timm.create_model("vit_tiny_patch16_224", depth=3).blocks)
    paths = DropPaths(blocks, 0.4, seed=7)
    paths.draw(torch.arange(4000))
    assert paths.scales.current is not None
    for index, rate in enumerate((0.0, 0.0, 0.2, 0.2, 0.4, 0.4)):
        scales = paths.scales.current[index]
        assert set(scales.tolist()) <= {0.0, torch.tensor(1 / (1 - rate)).item()}
        assert float((scales == 0).float().mean()) == pytest.approx(rate, abs=0.03)
    both = (paths.scales.current[4:] == 0).all(dim=0).float().mean()
    assert float(both) == pytest.approx(0.4**2, abs=0.03)  # the two branches of a block are independent


def test_a_cast_of_the_model_leaves_the_rates_alone() -> None:
    model, (images, keys) = build(rate=0.1), batch()
    model(images, keys)
    expected = model.drop_paths.scales.current  # type: ignore[union-attr]
    model.bfloat16()(images.bfloat16(), keys)
    assert torch.equal(model.drop_paths.scales.current, expected)  # type: ignore[union-attr, arg-type]


def test_names_of_the_weights_are_timms() -> None:
    plain = timm.create_model("vit_small_patch16_224", img_size=32, num_classes=5, embed_dim=16, depth=4, num_heads=2)
    assert build().vit.state_dict().keys() == plain.state_dict().keys()


def test_recomputed_activations_are_dropped_alike() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, (images, keys) = build(activation_checkpointing=checkpointing), batch()
        model(images, keys)["logits"].square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_without_keys_the_global_generator_decides() -> None:
    model, (images, _) = build(), batch()
    torch.manual_seed(1)
    first, second = model(images)["logits"], model(images)["logits"]
    torch.manual_seed(1)
    assert torch.equal(model(images)["logits"], first)
    assert not torch.allclose(first, second)


def test_all_blocks_share_one_compiled_graph_and_compute_the_same() -> None:
    model, (images, keys) = build(depth=24, rate=0.2), batch(4)
    expected = model(images, keys)["logits"]
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in model.vit.blocks:
        block.forward = torch.compile(block.forward, backend=counting)
    assert torch.equal(model(images, keys)["logits"], expected)
    assert torch.equal(model(*batch(4))["logits"], expected)
    assert len(graphs) <= 2  # the plain block's and the tapped one's
    torch._dynamo.reset()


def test_what_is_dropped_is_not_computed() -> None:
    """Against the plain definition: B / kept times the residual of the samples with the highest draws."""
    model, (images, keys) = build(skip_dropped=True), batch()
    assert model.computed_shares(12) == [1.0, 10 / 12, 8 / 12, 1.0]  # the last block is tapped, and masks instead
    inputs: list[Tensor] = []
    for block in model.vit.blocks:
        block.register_forward_hook(lambda _, arguments, output: inputs.append(arguments[0]))
    logits = model(images, keys)["logits"]
    assert [len(x) for x in inputs] == [12, 10, 8, 12]
    paths, vit = model.drop_paths, model.vit
    assert paths is not None
    of_each = [*(key.repeat_interleave(8) for key in keys), torch.arange(8).repeat(12)]
    draws = counter_uniform(paths.seed, of_each, 1).view(12, 4, 2)[..., 0]
    x = vit._pos_embed(vit.patch_embed(images))
    for index, (block, kept) in enumerate(zip(vit.blocks[:-1], (12, 10, 8), strict=True)):
        chosen = (draws[:, index] >= draws[:, index].sort(descending=True).values[kept - 1]).nonzero()[:, 0]
        x = x.index_add(0, chosen, 12 / kept * (block(x[chosen]) - x[chosen]))
    torch.testing.assert_close(vit.forward_head(vit.norm(vit.blocks[-1](x))), logits)


def test_every_sample_is_dropped_as_often_as_the_others() -> None:
    blocks = nn.Sequential(*timm.create_model("vit_tiny_patch16_224", depth=2).blocks)
    paths, count = DropPaths(blocks, 0.25, seed=7, partial=[1]), torch.zeros(8)
    for epoch in range(2000):
        paths.draw(torch.full((8,), epoch), torch.arange(8))
        count += paths.compute(1, lambda x: x + 1, torch.zeros(8, 1))[:, 0] > 0
    assert (count / 2000).tolist() == pytest.approx([0.75] * 8, abs=0.04)


def test_skipped_samples_are_recomputed_alike_and_leave_evaluation_alone() -> None:
    gradients, (images, keys) = [], batch()
    for checkpointing in (False, True):
        model = build(skip_dropped=True, activation_checkpointing=checkpointing)
        model(images, keys)["logits"].square().sum().backward()
        gradients.append(model.vit.patch_embed.proj.weight.grad)
    assert torch.equal(*gradients)
    assert torch.equal(model.eval()(images)["logits"], build().eval()(images)["logits"])
    assert model.train()(images[:1], tuple(key[:1] for key in keys))["logits"].isfinite().all()  # one is always kept
