"""Any number of processes trains the same: order, pixels, mixing and stochastic depth are functions of the sample."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import SMALL_CONFIG, read_metrics, run_processes

STEPS = 10
COMMON = (
    f"run.max_steps={STEPS}",
    "model.drop_path=0.2",
    "model.train_sizes=[24,32,40]",
    "augment.mixup=0.8",
    "augment.cutmix=1.0",
    "augment.random_erasing=0.25",
    "augment.where=device",
    "augment.rand_augment=rand-m9-mstd0.5-inc1",
    "engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0",
)


def losses_of(folder: Path, shards: Path, world_size: int, stage: int, *overrides: str) -> list[float]:
    """Loss of each step of a run in ``folder`` whose global batch of 16 is split over ``world_size`` processes."""
    config = folder / "small.py"
    config.write_text(SMALL_CONFIG.format(runs=str(folder), data=str(shards)))
    run_processes(world_size, "tools/train.py", f"--config={config}", f"engine.zero_stage={stage}", *COMMON, *overrides)
    metrics = read_metrics(folder / "small")
    return [metrics[step]["loss"] for step in range(1, STEPS + 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, small_shards: Path) -> list[float]:
    """The losses of a single process that takes the global batch at once."""
    return losses_of(tmp_path_factory.mktemp("one"), small_shards, 1, 1, "engine.micro_batch=16")


CASES = [
    (2, 1, "engine.micro_batch=8"),
    (4, 3, "engine.micro_batch=2"),
    pytest.param((1, 3, "engine.micro_batch=2", "engine.activation_checkpointing=true"), marks=pytest.mark.long),
    pytest.param((1, 1, "engine.micro_batch=4", "engine.compile=true"), marks=pytest.mark.long),
    pytest.param((2, 2, "engine.micro_batch=4", "engine.activation_checkpointing=true"), marks=pytest.mark.long),
    pytest.param((4, 2, "engine.micro_batch=4"), marks=pytest.mark.long),
    pytest.param((8, 1, "engine.micro_batch=2"), marks=pytest.mark.long),
    pytest.param((8, 2, "engine.micro_batch=2"), marks=pytest.mark.long),
    pytest.param((8, 3, "engine.micro_batch=2"), marks=pytest.mark.long),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_do_not_depend_on_the_processes(
    case: tuple[int, int, str], one: list[float], small_shards: Path, tmp_path: Path
) -> None:
    world_size, stage, *overrides = case
    assert len(set(one)) == STEPS
    assert losses_of(tmp_path, small_shards, world_size, stage, *overrides) == pytest.approx(one, rel=1e-5)
