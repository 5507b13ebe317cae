"""Linear heads: LARS and SGD against formulas, a sweep against separate runs, schedules, batches, checkpoints."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sar_dist import distributed
from sar_dist.config import apply_overrides
from sar_dist.errors import UserError
from sar_dist.transfer import Features, train_resumably
from sar_dist.transfer.tasks.probes.linear.batches import AugmentedBatches, CachedBatches, SampleOrder
from sar_dist.transfer.tasks.probes.linear.heads import FeatureKind, HeadSpec, HeadSweep, Lars
from sar_dist.transfer.tasks.probes.linear.recipes import RECIPES, LinearProbeSettings, resolve_recipe
from sar_dist.transfer.tasks.probes.linear.task import CHECKPOINT_FILE
from sar_dist.transfer.tasks.probes.linear.training import HeadTraining

CPU = torch.device("cpu")
KINDS = (FeatureKind(1, False), FeatureKind(2, False), FeatureKind(2, True))
SPECS = [HeadSpec(kind, rate) for kind in KINDS for rate in (1e-3, 1e-1, 3e38)]
CHANNELS, CLASSES = 6, 3


def make_sweep(specs=SPECS, optimizer="sgd", batch_norm=False) -> HeadSweep:
    return HeadSweep(
        specs, CHANNELS, CLASSES, optimizer=optimizer, batch_norm=batch_norm, rate_scale=0.5, seed=0, device=CPU
    )


def features(count: int = 40, seed: int = 0) -> Features:
    generator = np.random.default_rng(seed)
    values = {
        "tokens": generator.normal(size=(count, 2, CHANNELS)).astype(np.float32),
        "patch_mean": generator.normal(size=(count, CHANNELS)).astype(np.float32),
    }
    return Features(values, generator.integers(0, CLASSES, count), np.zeros(count, dtype=bool))


def backbone_of(width: int = 384, depth: int = 12):
    return SimpleNamespace(width=width, depth=depth, spec="some model")


def recipe_of(overrides: list[str], samples: int = 40, **backbone):
    return resolve_recipe(apply_overrides(LinearProbeSettings, overrides), backbone_of(**backbone), samples)


def state_of(sweep: HeadSweep, number: int) -> list[torch.Tensor]:
    return [tensor for name, tensor in sweep.tensors().items() if name.split(".")[1] == str(number)]


@pytest.mark.parametrize(("optimizer", "batch_norm"), [("sgd", False), ("lars", True)])
def test_a_sweep_is_its_heads_trained_separately(optimizer, batch_norm):
    stream = CachedBatches(features(), 16, seed=0, device=CPU)
    joint = make_sweep(SPECS, optimizer, batch_norm)
    alone = [make_sweep([spec], optimizer, batch_norm) for spec in SPECS]
    for step, batch in enumerate(stream.batches(0, 8)):
        factor = 1 - step / 8
        losses, hits = joint.step(*batch, factor)
        for number, sweep in enumerate(alone):
            loss, hit = sweep.step(*batch, factor)
            # The highest rate diverges, on purpose: the others must not notice.
            torch.testing.assert_close(losses[number], loss[0], rtol=0, atol=0, equal_nan=True)
            assert hits[number] == hit[0]
    for number, sweep in enumerate(alone):
        for one, other in zip(state_of(joint, number), state_of(sweep, 0), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert not torch.isfinite(losses[2])
    assert torch.isfinite(losses[0])


def test_sgd_is_the_formula_on_the_features_of_a_kind():
    kind = FeatureKind(2, True)
    sweep = make_sweep([HeadSpec(kind, 0.2)])
    stream = CachedBatches(features(), 10, seed=0, device=CPU)
    tensors = sweep.tensors()
    weight, bias = tensors["heads.0.weight"].double(), tensors["heads.0.bias"].double()
    assert weight.std() == pytest.approx(0.01, rel=0.3)
    assert not bias.any()
    momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, (tokens, patch_mean, labels) in enumerate(stream.batches(0, 5)):
        inputs = torch.cat([tokens[:, 0], tokens[:, 1], patch_mean], dim=1).double()
        errors = (F.softmax(inputs @ weight.T + bias, dim=1) - F.one_hot(labels, CLASSES)) / 10
        momenta = [0.9 * momenta[0] + errors.T @ inputs, 0.9 * momenta[1] + errors.sum(0)]
        rate = 0.2 * 0.5 * (1 - step / 5)
        weight, bias = weight - rate * momenta[0], bias - rate * momenta[1]
        sweep.step(tokens, patch_mean, labels, 1 - step / 5)
    torch.testing.assert_close(sweep.tensors()["heads.0.weight"].double(), weight, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(sweep.tensors()["heads.0.bias"].double(), bias, rtol=1e-4, atol=1e-7)


def test_lars_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    weight, bias, zero = torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator), torch.zeros(2, 2)
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in (weight, bias, zero)]
    optimizer = Lars(parameters, lr=0.3)
    expected = [tensor.double().numpy() for tensor in (weight, bias, zero)]
    momenta = [np.zeros_like(tensor) for tensor in expected]
    for step in range(4):
        gradients = [torch.randn(tensor.shape, generator=generator) * (step != 2) for tensor in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for number, gradient in enumerate(gradients):
            update, value = gradient.double().numpy(), expected[number]
            norm, size = np.sqrt((update**2).sum()), np.sqrt((value**2).sum())
            if value.ndim == 2 and norm > 0 and size > 0:
                update = 0.001 * size / norm * update
            momenta[number] = 0.9 * momenta[number] + update
            expected[number] = value - 0.3 * momenta[number]
    for parameter, value in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-5, atol=1e-6)


def test_batch_norm_has_maes_settings():
    sweep = make_sweep([HeadSpec(FeatureKind(1, False), 0.1)], "lars", batch_norm=True)
    assert {name for name in sweep.tensors() if "heads" in name} == {
        "heads.0.0.running_mean",
        "heads.0.0.running_var",
        "heads.0.0.num_batches_tracked",
        "heads.0.1.weight",
        "heads.0.1.bias",
    }
    assert "eps=1e-06" in repr(sweep._heads)
    assert "affine=False" in repr(sweep._heads)


@pytest.mark.parametrize("name", RECIPES)
def test_presets_are_the_published_recipes(name):
    recipe = recipe_of([f"preset={name}"], samples=1_281_167)
    expected = {"dinov2": (52, 1024, 12500), "dino": (1, 1024, 125114), "mae": (1, 16384, 7038)}[name]
    assert (len(recipe.specs), recipe.global_batch, recipe.iterations) == expected
    rates = [spec.learning_rate * recipe.rate_scale for spec in recipe.specs]
    assert (min(rates), max(rates)) == pytest.approx(
        {"dinov2": (4e-5, 0.4), "dino": (4e-3, 4e-3), "mae": (6.4, 6.4)}[name]
    )


def test_recipes_depend_on_the_model_as_published():
    assert recipe_of(["preset=dino"]).kinds == (FeatureKind(4, False),)
    assert recipe_of(["preset=dino"], width=768).kinds == (FeatureKind(1, True),)
    assert recipe_of(["preset=mae"], width=1024, samples=16384 * 10).epochs == 50
    assert recipe_of([], depth=3).last_blocks == 3
    assert [str(kind) for kind in recipe_of([]).kinds] == [
        "CLS of last 1",
        "CLS of last 1 + patch mean",
        "CLS of last 4",
        "CLS of last 4 + patch mean",
    ]


def test_schedules():
    recipe = recipe_of(["iterations=100"])
    assert [recipe.rate_factor(step) for step in (0, 50, 99)] == pytest.approx(
        [1, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))]
    )
    mae = recipe_of(["preset=mae", "iterations=90"])
    assert [mae.rate_factor(step) for step in (0, 5, 10, 50)] == pytest.approx([0, 0.5, 1, 0.5])
    dino = recipe_of(["preset=dino", "epochs=4", "global_batch=10"])
    assert dino.iterations == 16
    per_epoch = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert [dino.rate_factor(step) for step in range(16)] == pytest.approx([per_epoch[step // 4] for step in range(16)])


def test_small_sets_and_settings_shorten_a_recipe():
    assert recipe_of([], samples=300).global_batch == 300
    assert recipe_of(["epochs=2", "global_batch=30"], samples=300).iterations == 20
    assert recipe_of(["learning_rates=[0.1,0.01]", "patch_mean=[false]", "last_blocks=[2]"]).specs == [
        HeadSpec(FeatureKind(2, False), 0.01),
        HeadSpec(FeatureKind(2, False), 0.1),
    ]
    for overrides, message in (
        (["epochs=1", "iterations=5"], "give one of them"),
        (["last_blocks=[13]"], "has 12 blocks"),
        (["learning_rates=[0]"], "above 0"),
    ):
        with pytest.raises(UserError, match=message):
            recipe_of(overrides)


def test_every_epoch_is_a_permutation_of_its_own():
    order = SampleOrder(11, seed=3)
    epochs = [[order.at(position) for position in range(11 * epoch, 11 * (epoch + 1))] for epoch in range(3)]
    for epoch, found in enumerate(epochs):
        assert {number for _, number in found} == set(range(11))
        assert {place for place, _ in found} == {epoch}
    assert len({tuple(number for _, number in found) for found in epochs}) == 3


class FakeSamples:
    """Samples whose label is their number; number 5 cannot be read."""

    classes = None
    fingerprint = "fake"

    def __len__(self) -> int:
        return 9

    def sample(self, number):
        return str(number), {"cls": b"%d" % number} | ({} if number == 5 else {"jpg": b"%d" % number})


class FakeBackbone:
    """Tokens and mean that say which image they are of, and what the draw of its augmentation was."""

    device, width, image_size = CPU, 1, 2

    def normalise(self, images):
        return images.float()

    def tokens(self, images, last_blocks):
        return images[:, :1, 0, :last_blocks].transpose(1, 2), images[:, 1, 0, :1]


def fake_transform(data: bytes) -> torch.Tensor:
    image = torch.full((3, 2, 2), int(data), dtype=torch.uint8)
    image[1] = int(torch.randint(0, 256, (1,)))
    return image


def augmented(sub_batch: int, classes: int = 9, global_batch: int = 7) -> AugmentedBatches:
    return AugmentedBatches(
        FakeBackbone(),
        FakeSamples(),
        fake_transform,
        last_blocks=2,
        classes=classes,
        global_batch=global_batch,
        sub_batch=sub_batch,
        seed=0,
        workers=0,
    )


def batches_of_world(world: int, sub_batch: int, monkeypatch) -> list[list[torch.Tensor]]:
    """What every rank would gather, with the ranks computed one after the other."""
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    sent: list[list[torch.Tensor]] = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        sent.append([])

        def send(tensor):
            sent[-1].append(tensor)
            return torch.stack([tensor] * world)

        monkeypatch.setattr(distributed, "all_gather", send)
        list(augmented(sub_batch).batches(0, 3))
    replies = [torch.stack(parts) for parts in zip(*sent, strict=True)]
    monkeypatch.setattr(distributed, "all_gather", lambda _tensor: replies.pop(0))
    return [list(batch) for batch in augmented(sub_batch).batches(0, 3)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("sub_batch", [2, 3, 16])
def test_batches_are_the_same_for_any_number_of_processes(world, sub_batch, monkeypatch):
    with monkeypatch.context() as patch:
        found = batches_of_world(world, sub_batch, patch)
    expected = [list(batch) for batch in augmented(16).batches(0, 3)]
    order = SampleOrder(9, 0)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        for tensor, wanted in zip(one, other, strict=True):
            assert torch.equal(tensor, wanted)
        numbers = [order.at(position)[1] for position in range(7 * step, 7 * (step + 1))]
        assert one[2].tolist() == [number for number in numbers if number != 5]
        assert one[0][:, 0, 0].tolist() == one[2].tolist()


def test_augmentation_depends_on_the_epoch_and_not_on_where_training_was_resumed():
    draws: dict[int, set[float]] = {}
    for _tokens, mean, labels in augmented(4).batches(0, 9):
        for number, draw in zip(labels.tolist(), mean[:, 0].tolist(), strict=True):
            draws.setdefault(number, set()).add(draw)
    assert all(len(found) >= 5 for found in draws.values()), "7 epochs, a draw of 0..255 in each"
    whole = list(augmented(4).batches(0, 6))[4:]
    resumed = list(augmented(4).batches(4, 6))
    for one, other in zip(whole, resumed, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_a_label_beyond_the_classes_is_an_error():
    with pytest.raises(UserError, match="label 8, and the data set names 8 classes"):
        list(augmented(4, classes=8).batches(0, 2))


def train(sweep: HeadSweep, folder: Path, iterations: int, every: int = 3, stop: int | None = None) -> list[str]:
    said: list[str] = []
    recipe = replace(recipe_of([f"iterations={iterations}", "global_batch=8"]), iterations=iterations)
    stream = CachedBatches(features(), 8, seed=0, device=CPU)

    class Stopping:
        def batches(self, start, end):
            for step, batch in enumerate(stream.batches(start, end), start):
                if step == stop:
                    raise KeyboardInterrupt
                yield batch

    train_resumably(HeadTraining(sweep, Stopping(), recipe), folder / CHECKPOINT_FILE, every, said.append)
    return said


@pytest.mark.parametrize(("optimizer", "batch_norm"), [("sgd", False), ("lars", True)])
def test_interrupted_training_goes_on_with_the_same_bits(tmp_path, optimizer, batch_norm):
    specs = SPECS[:2]
    whole = make_sweep(specs, optimizer, batch_norm)
    train(whole, tmp_path / "whole", 10)
    with pytest.raises(KeyboardInterrupt):
        train(make_sweep(specs, optimizer, batch_norm), tmp_path / "cut", 10, stop=8)
    resumed = make_sweep(specs, optimizer, batch_norm)
    said = train(resumed, tmp_path / "cut", 10)
    assert said[0] == "going on after step 6 of 10"
    assert re.match(r"training: 10 of 10 steps, .* a second, 0s left, loss \d", said[-1])
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    assert train(make_sweep(specs, optimizer, batch_norm), tmp_path / "cut", 10) == ["going on after step 10 of 10"]


def test_a_damaged_or_foreign_checkpoint_is_an_error(tmp_path):
    train(make_sweep(), tmp_path, 2)
    with pytest.raises(UserError, match=r"of another training \(something else was trained\); remove it"):
        train(make_sweep(SPECS[:1]), tmp_path, 2)
    file = tmp_path / CHECKPOINT_FILE
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        train(make_sweep(), tmp_path, 2)
