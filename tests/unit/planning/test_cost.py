"""Time, price, loader and communication against numbers worked out by hand."""

from __future__ import annotations

import pytest
from support import ROOT

from sar_dist.config import RunConfig, load_config
from sar_dist.errors import UserError
from sar_dist.planning import Machine, ModelShape, make_plan, plan_communication, plan_cost, plan_loader

IMAGENET = 1_281_167


def vit_base(**changes: object) -> RunConfig:
    config = RunConfig(
        run={"name": "x"},
        model={"name": "vit_base_patch16_224"},
        optim={"global_batch": 1024, "epochs": 300},
        engine={"micro_batch": 64, "precision": "fp32"},
    )
    return config.vary(changes)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.of(vit_base())


def test_time_and_price(shape: ModelShape) -> None:
    cost = plan_cost(shape, vit_base(), 8, peak_tflops=1000, mfu=0.5, train_images=IMAGENET, price_per_gpu_hour=2.0)
    images_per_second = 8 * 0.5 * 1000e12 / (6 * 17.5638e9)
    assert cost.images_per_second == pytest.approx(images_per_second, rel=1e-3)
    assert (cost.steps_per_epoch, cost.total_steps) == (1251, 375_300)
    assert cost.hours == pytest.approx(375_300 * 1024 / images_per_second / 3600, rel=1e-3)
    assert cost.price == pytest.approx(2 * 8 * cost.hours)


def test_max_steps_shortens_the_run(shape: ModelShape) -> None:
    config = vit_base(**{"run.max_steps": 100})
    assert plan_cost(shape, config, 8, peak_tflops=1, mfu=1, train_images=IMAGENET).total_steps == 100


@pytest.mark.parametrize(
    ("changes", "name", "rate"),
    [
        ({}, "crop and flip, fast, on the GPU", 857),
        ({"augment.rand_augment": "rand-m9"}, "RandAugment, fast, on the GPU", 857),
        ({"augment.rand_augment": "rand-m9", "augment.where": "worker"}, "RandAugment, fast", 674),
        ({"augment.three_augment": True, "augment.backend": "pil"}, "3-Augment, pil", 303),
    ],
)
def test_loader_cores(changes: dict[str, object], name: str, rate: float) -> None:
    demand = plan_loader(vit_base(**changes), images_per_second=16_000, nodes=2, gpus_per_node=8)
    assert (demand.augmentation, demand.images_per_core) == (name, rate)
    assert demand.images_per_second_per_gpu == 1000
    assert demand.cores_per_gpu == 1000 / rate
    assert demand.cores_per_node == 8000 / rate
    assert demand.cores_per_node_resized < 0.75 * demand.cores_per_node


@pytest.mark.parametrize(
    ("stage", "gradients", "weights"),
    [(1, 2 * 4, 4), (2, 2 * 4 * 2, 4), (3, 4 * 2, 4 * 2)],  # two accumulated micro-batches, bytes a parameter
)
def test_bytes_sent(shape: ModelShape, stage: int, gradients: int, weights: int) -> None:
    keep_gathered = {"zero_optimization": {"stage3_max_live_parameters": 1_000_000_000}}
    config = vit_base(**{"engine.zero_stage": stage, "engine.deepspeed": keep_gathered})
    sent = plan_communication(shape, config, 1, 8, link_gbps=800, node_link_gbps=1)
    ring = 7 / 8 * shape.parameters
    assert sent.gradients == pytest.approx(ring * gradients)
    assert sent.weights == pytest.approx(ring * weights)
    assert sent.seconds == pytest.approx(sent.total / 100e9)  # the network between nodes is not used


def test_released_parameters_are_gathered_again(shape: ModelShape) -> None:
    release = {"zero_optimization": {"stage3_max_live_parameters": shape.parameters // 2}}
    config = vit_base(**{"engine.zero_stage": 3, "engine.deepspeed": release})
    sent = plan_communication(shape, config, 1, 8, link_gbps=800, node_link_gbps=1)
    assert sent.weights == pytest.approx(1.5 * 2 * 7 / 8 * 4 * shape.parameters)


def test_the_slower_link_decides(shape: ModelShape) -> None:
    slow = plan_communication(shape, vit_base(), 2, 4, link_gbps=3600, node_link_gbps=100)
    fast = plan_communication(shape, vit_base(), 2, 4, link_gbps=3600, node_link_gbps=200)
    assert slow.seconds == pytest.approx(2 * fast.seconds)


def test_one_process_sends_nothing(shape: ModelShape) -> None:
    sent = plan_communication(shape, vit_base(), 1, 1, link_gbps=1, node_link_gbps=1)
    assert (sent.total, sent.seconds) == (0, 0)


def test_plan_knows_the_configured_setting_and_what_fits() -> None:
    config = vit_base(**{"engine.zero_stage": 1, "engine.micro_batch": 128})
    plan = make_plan(config, Machine(1, 8, gpu_memory=12), IMAGENET)
    assert (plan.chosen.zero_stage, plan.chosen.checkpointing) == (1, False)
    assert not plan.chosen.fits
    checkpointed = next(setting for setting in plan.settings if setting.checkpointing)
    assert checkpointed.fits
    assert checkpointed.slowdown == pytest.approx(4 / 3)
    assert all(setting.fits == (setting.memory.peak <= plan.machine.usable_memory) for setting in plan.settings)
    assert plan.fastest is not None
    assert (plan.fastest.zero_stage, plan.fastest.offload) == (1, "none")
    assert plan.fastest.checkpointing
    largest = plan.largest_micro_batch
    assert largest is not None
    for size, fits in ((largest, True), (2 * largest, False)):
        assert make_plan(config.vary({"engine.micro_batch": size}), plan.machine, IMAGENET).chosen.fits == fits


@pytest.mark.parametrize(
    ("name", "nodes"), [("vit_s_in100", 1), ("vit_b_in1k", 2), ("vit_l_in1k", 2), ("vit_b_in1k_deit3", 1)]
)
def test_the_configurations_are_the_fastest_that_fit(name: str, nodes: int) -> None:
    plan = make_plan(load_config(ROOT / "configs" / f"{name}.py"), Machine(nodes, 8), IMAGENET)
    assert plan.fastest is plan.chosen
    assert plan.largest_micro_batch == plan.config.engine.micro_batch
    assert plan.config.engine.precision == "bf16_parameters"
    assert plan.config.engine.compile


@pytest.mark.parametrize(
    ("machine", "message"),
    [({"mfu": 1.5}, "0 to 1"), ({"nodes": 0}, "--nodes must be positive"), ({"link_gbps": -1.0}, "--link-gbps")],
)
def test_an_impossible_machine(machine: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Machine(**{"nodes": 1, "gpus_per_node": 1, **machine})  # type: ignore[arg-type]


def test_a_training_set_smaller_than_a_batch() -> None:
    with pytest.raises(UserError, match="less than one global batch"):
        make_plan(vit_base(), Machine(1, 8), 100)
