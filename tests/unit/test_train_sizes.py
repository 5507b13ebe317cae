"""Training images of several sizes: which step has which, what the model and the regularizer make of them, what they cost."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo

from sar_dist.config import ModelSettings, RegularizerSettings, RunConfig, load_config
from sar_dist.data import TrainSizes, batch_memory
from sar_dist.engine import build as engine_build
from sar_dist.errors import UserError
from sar_dist.models import build_model, model_on_meta
from sar_dist.observe import DevicePeak, Throughput
from sar_dist.planning.shape import ModelShape
from sar_dist.regularizer import class_similarity, spatial_entropy
from sar_dist.terms import build_terms
from sar_dist.training.checks import check_training_data
from sar_dist.training.setup import build_train_loader, count_flops_of, flops_by_side, mean_flops

SIDES = (24, 32, 40)
ROPE = {"name": "vit_small_patch16_rope_224", "options": {"embed_dim": 32, "depth": 2, "num_heads": 2}}


def settings(**changes: Any) -> ModelSettings:
    values = {
        "name": "vit_tiny_patch16_224",
        "image_size": 32,
        "patch_size": 8,
        "num_classes": 4,
        "train_sizes": SIDES,
        "options": {"embed_dim": 32, "depth": 3, "num_heads": 2},
    }
    return ModelSettings.model_validate({**values, **changes})


def test_sizes_are_drawn_from_seed_and_step() -> None:
    sizes = TrainSizes((160, 224, 224), "random", 3, 10)
    drawn = [sizes.at(step) for step in range(3000)]
    assert drawn == [sizes.at(step) for step in range(3000)]
    assert 900 < Counter(drawn)[160] < 1100
    others = [TrainSizes((160, 224, 224), "random", 4, 10).at(step) for step in range(3000)]
    assert 0.4 < sum(a == b for a, b in zip(drawn, others, strict=True)) / 3000 < 0.7  # 5 / 9 if independent


def test_sizes_in_order_have_equal_parts_of_training() -> None:
    sizes = TrainSizes((128, 192, 160), "in_order", 0, 10)
    assert [sizes.at(step) for step in range(12)] == [128] * 4 + [192] * 3 + [160] * 5


@pytest.fixture
def config(small_config: Path) -> RunConfig:
    return load_config(small_config, ["model.train_sizes=[24,32,40]", "augment.rand_augment=rand-m9-mstd0.5-inc1"])


def batches(config: RunConfig, start: int, stop: int, world: int = 1) -> list[list[Any]]:
    """Sides and pixels of each global batch, as the ranks together see it."""
    sets = check_training_data(config)
    found: list[list[Any]] = [[] for _ in range(start, stop)]
    for rank in range(world):
        loader = build_train_loader(config, config.data, sets, rank, world)
        for number, batch in enumerate(loader.iterate(start, stop)):
            found[number // loader.accumulation] += batch["image"].tolist()
    return found


def test_a_step_has_one_size_for_any_ranks_workers_and_interruptions(config: RunConfig) -> None:
    unbroken = batches(config, 0, 8)
    sides = [{len(image[0]) for image in batch} for batch in unbroken]
    sizes = TrainSizes(SIDES, "random", config.run.seed, 24)
    assert sides == [{sizes.at(step)} for step in range(8)]
    assert len(set.union(*sides)) == 3
    assert batches(config.vary({"engine.micro_batch": 4}), 0, 8, world=2) == unbroken
    assert batches(config.vary({"data.workers": 2}), 0, 8) == unbroken
    assert batches(config, 5, 8, world=2) == unbroken[5:]
    on_device = config.vary({"augment.where": "device"})
    assert [len(batch[0][0]) for batch in batches(on_device, 0, 8)] == [sizes.at(step) for step in range(8)]


def test_workers_have_room_for_the_largest_size(config: RunConfig) -> None:
    """A batch that does not fit its slot would go through /dev/shm, in files of its own."""
    config = config.vary({"data.workers": 1, "model.train_sizes": (24, 40), "model.train_size_schedule": "in_order"})
    loader = build_train_loader(config, config.data, check_training_data(config), 0, 1)
    memory: set[int] = set()
    for batch in loader.iterate(10, 14):  # of 24 steps, 12 are small
        memory.add(batch["image"].shape[-1])
        held = [each for each in batch_memory._memories.values() if each._mapped]
        assert held, "the batch does not lie in a slot"
        size = next(iter(held[0]._mapped.values())).memory.size()
        assert size >= 8 * 3 * 40 * 40 * held[0].slots
    assert memory == {24, 40}


@pytest.mark.parametrize("changes", [{}, ROPE], ids=["position embedding", "rotation"])
def test_the_model_takes_every_size(changes: dict[str, Any]) -> None:
    """At its own size it is the model without sizes, bit for bit; at others its position embedding learns as well."""
    torch.manual_seed(0)
    model = build_model(settings(**changes), RegularizerSettings()).eval()
    plain = build_model(settings(train_sizes=None, **changes), RegularizerSettings()).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images)["logits"], plain(images)["logits"])
    for side in SIDES:
        images = torch.randn(2, 3, side, side)
        output = model(images)
        assert output["grid"] == (side // 8, side // 8)
        assert torch.equal(output["logits"], model.vit(images))
        assert output["keys"][0].shape[2] == (side // 8) ** 2
        output["logits"].sum().backward()
        if model.vit.pos_embed is not None:
            gradient = model.vit.pos_embed.grad
            assert gradient is not None
            assert gradient.abs().sum(dim=(0, 1)).min() > 0


@pytest.mark.parametrize("side", SIDES)
def test_terms_have_the_grid_of_the_images(config: RunConfig, side: int) -> None:
    terms = [{"name": "total_variation", "weight": 0.1}]
    config = config.vary({"terms": terms})
    torch.manual_seed(0)
    model = build_model(config.model, config.regularizer)
    output = model(torch.randn(2, 3, side, side))
    entropy, variation = build_terms(config, model.grid, torch.device("cpu"))
    similarity = class_similarity(output["queries"][0], output["keys"][0], (side // 8, side // 8))
    assert torch.allclose(entropy(output).loss, spatial_entropy(similarity).mean())
    across, down = similarity.diff(dim=3).flatten(2), similarity.diff(dim=2).flatten(2)
    expected = torch.cat([across, down], dim=2).square().mean() / 2
    assert torch.allclose(variation(output).loss, expected)


def test_each_size_is_one_graph_for_all_blocks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamo.reset()
    dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = build_model(settings(), RegularizerSettings())
    engine_build._compile_blocks(model, sharded=False)
    with dynamo.config.patch(recompile_limit=2):
        engine_build._allow_graphs(len(SIDES))
        for _ in range(2):
            for side in SIDES:
                model(torch.randn(2, 3, side, side))
    kinds = 2  # of blocks: tapped, and not
    assert dynamo.utils.counters["stats"]["unique_graphs"] == kinds * len(SIDES)
    dynamo.reset()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("model.train_sizes=[24,33]", "model.train_sizes: 33 is not divisible by the patch size 8; use 32 or 40"),
        ("model.train_sizes=[]", "model.train_sizes=[]: Tuple should have at least 1 item"),
        ("model.train_sizes=[0]", "model.train_sizes.0=0: Input should be greater than or equal to 1"),
        ("model.train_sizes=[4]", "model.train_sizes: 4 is not divisible by the patch size 8; use 8"),
        ("model.train_size_schedule=rising", "model.train_size_schedule='rising': Input should be 'random' or 'in_order'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(small_config: Path, typed: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        model_on_meta(load_config(small_config, [typed]).model, RegularizerSettings())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_operations_are_counted_by_size(config: RunConfig) -> None:
    """Every size costs what a run at that size alone does; a mean is over training, and the utilisation over the interval."""
    by_side = flops_by_side(config)
    assert by_side.keys() == set(SIDES)
    alone = config.vary({"model.train_sizes": None})
    assert by_side[32] == flops_by_side(alone)[32]
    assert by_side[24] < by_side[32] < by_side[40]
    assert count_flops_of(config).macs == count_flops_of(alone).macs
    twice = config.vary({"model.train_sizes": (24, 40, 40)})
    assert mean_flops(twice, by_side) == pytest.approx((by_side[24] + 2 * by_side[40]) / 3)

    shape = ModelShape.of(twice)
    largest, own = (ModelShape.of(alone.vary({"model.image_size": side})) for side in (40, 32))
    assert (shape.tokens, shape.image_values) == (largest.tokens, largest.image_values)
    assert shape.parameters == own.parameters
    assert shape.training_flops == pytest.approx(mean_flops(twice, by_side), rel=0.02)


def test_utilisation_of_steps_of_several_sizes() -> None:
    now = [0.0]
    peak = DevicePeak(1e12, False, "a device")
    throughput = Throughput(10, {24: 1e9, 40: 3e9}, torch.device("cpu"), peak=peak, clock=lambda: now[0])
    throughput.step_done(side=24)  # starts the clock
    for side in (24, 40, 40):
        now[0] += 1
        throughput.step_done(side=side)
    assert throughput.summary()["mfu"] == pytest.approx(10 * 7e9 / 3 / 1e12)
