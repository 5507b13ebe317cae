"""Run alone: a rollback in fp16, under each ZeRO stage, puts back the loss scale of the checkpoint, and the steps after it repeat.

loss_scale_after_rollback.py CONFIG FOLDER
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch.nn import functional

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointStore
from sar_dist.config import RunConfig, load_config
from sar_dist.engine import Engine, build_engine
from sar_dist.models import build_model
from sar_dist.training.averages import RunningAverages
from sar_dist.training.checkpointing import Checkpointing
from sar_dist.training.state import TrainState

CPU = torch.device("cpu")
BATCH, WINDOW = 4, 3
MORE_THAN_HALVINGS = 14  # the scale stays at 1 then, and the guard counts on


def settings(stage: int) -> RunConfig:
    scaling = f"initial_scale_power: 8, loss_scale_window: {WINDOW}, hysteresis: 1"
    return load_config(
        sys.argv[1],
        [
            "engine.precision=fp16",
            f"engine.zero_stage={stage}",
            f"optim.global_batch={BATCH}",
            f"engine.micro_batch={BATCH}",
            f"engine.deepspeed={{fp16: {{{scaling}}}}}",
        ],
    )


def train(engine: Engine, steps: range, overflow: bool = False) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 3, 32, 32, generator=generator).half()
        loss = functional.cross_entropy(engine(images)["logits"].float(), torch.arange(BATCH) % 4)
        engine.backward(loss * float("inf") if overflow else loss)
        engine.step()
        losses.append(loss.item())
    return losses


def scaling_of(engine: Engine) -> dict[str, Any]:
    scaler = engine.optimizer.loss_scaler
    return {name: getattr(scaler, name) for name in ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")}


def check(stage: int, folder: Path) -> None:
    torch.manual_seed(0)
    config = settings(stage)
    model = build_model(config.model, config.regularizer)
    engine = build_engine(config, model, world_size=1, steps_per_epoch=6)
    store = CheckpointStore(folder, keep_last=1, keep_every=None)
    store.prepare()
    loader: Any = SimpleNamespace(
        state_dict=lambda step: {"next_batch": step, "shift": 0, "fingerprint": {}},
        bad_samples=SimpleNamespace(state_dict=lambda: {"seen": 0, "bad": 0}),
    )
    checkpointing = Checkpointing(store, engine, None, loader, RunningAverages(CPU), lambda line: None, {})
    train(engine, range(4))
    saved = scaling_of(engine)
    assert saved["cur_scale"] == 2**9, saved  # it has grown once
    checkpointing.save_now(TrainState(step=4))
    expected, grown = train(engine, range(4, 12)), scaling_of(engine)
    for overflows in (0, 3, MORE_THAN_HALVINGS):
        train(engine, range(overflows), overflow=True)
        skipped = engine.skipped_steps
        assert skipped >= overflows
        assert scaling_of(engine) != saved
        checkpointing.roll_back()
        assert scaling_of(engine) == saved
        assert engine.optimizer.cur_scale == saved["cur_scale"]
        assert engine.skipped_steps == skipped
        assert train(engine, range(4, 12)) == expected
        assert scaling_of(engine) == grown
    engine.destroy()


def main() -> None:
    get_accelerator().is_fp16_supported = lambda: True  # what PyTorch has on CPUs is slow, and enough
    torch.set_num_threads(1)
    distributed.initialize(CPU)
    for stage in (1, 2, 3):
        check(stage, Path(sys.argv[2]) / str(stage))
        print("equal", flush=True)
    distributed.shutdown()


main()
