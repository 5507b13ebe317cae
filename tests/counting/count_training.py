"""Run on every rank: train a few real steps under each setting and write down what was waited for, sent and computed.

python count_training.py CONFIG OUT.json OVERRIDES [OVERRIDES ...]     one run for each space-separated OVERRIDES
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from counted_device import CountedAccelerator, install
from host_traffic import HostTraffic
from torch import Tensor

from sar_dist import distributed
from sar_dist.config import RunConfig, load_config
from sar_dist.models import TappedVisionTransformer
from sar_dist.training import setup
from sar_dist.training.evaluation import evaluate
from sar_dist.training.trainer import Trainer

WARM_UP = 2  # optimizer steps before the counted one: ZeRO-3 learns the order of its gathers in the first
COLLECTIVES = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "all_gather_coalesced": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
}


class Wire:
    """Counts the numbers that go through DeepSpeed's collectives by type, and the gathers that race the optimizer."""

    def __init__(self, accelerator: CountedAccelerator) -> None:
        self.accelerator = accelerator
        self.numbers: Counter[str] = Counter()
        self.gathers = self.unordered = 0
        self.last_write: tuple[int, int] | None = None

    def wrap_backend(self) -> None:
        """See every collective of this process from now on."""
        from deepspeed.comm import comm

        for name in COLLECTIVES:
            setattr(comm.cdb, name, self._counting(COLLECTIVES[name], getattr(comm.cdb, name)))

    def wrap_optimizer(self, optimizer: Any) -> None:
        """See when ZeRO-3's optimizer writes the weights that are gathered later."""
        publish = getattr(optimizer, "_reassign_or_swap_out_partitioned_parameters", None)
        self.last_write = None
        if publish is not None:

            def published(*arguments: Any) -> None:
                publish(*arguments)
                self.last_write = self.accelerator.timeline.current.queue()

            optimizer._reassign_or_swap_out_partitioned_parameters = published

    def start(self) -> None:
        """Count from zero."""
        self.numbers.clear()
        self.gathers = self.unordered = 0

    def _counting(self, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            largest = max(map(total, [*arguments, *options.values()]), key=lambda found: found[0])
            self.numbers[f"{kind} {largest[1]}"] += largest[0]
            stream = self.accelerator.timeline.current
            if kind == "all_gather" and self.last_write is not None:
                self.gathers += 1
                self.unordered += not stream.comes_after(self.last_write)
            stream.queue()
            return original(*arguments, **options)

        return counted


def total(argument: Any) -> tuple[int, str]:
    """How many numbers a tensor, or the tensors in a list, have, and their type."""
    if isinstance(argument, Tensor):
        return argument.numel(), str(argument.dtype).removeprefix("torch.")
    parts = list(map(total, argument)) if isinstance(argument, list | tuple) else []
    return sum(count for count, _ in parts), parts[0][1] if parts else ""


def uneven_model(build: Callable[[RunConfig], TappedVisionTransformer]) -> Callable[..., TappedVisionTransformer]:
    """The run's model with weights none of which is exact in bfloat16, as after some training."""

    def built(config: RunConfig) -> TappedVisionTransformer:
        model = build(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    return built


def mark_phases(trainer: Trainer, traffic: HostTraffic) -> None:
    """Tell the counter where in a step it is: in a micro-batch, in the last one, in the update that ends it."""
    seed, step = trainer._seed, trainer.engine.step

    def seeded(micro_step: int) -> None:
        traffic.phase = "last_micro_batch" if micro_step == trainer.accumulation - 1 else "micro_batch"
        seed(micro_step)

    def stepped() -> None:
        if traffic.phase == "last_micro_batch":
            traffic.phase = "update"
        step()

    trainer._seed = seeded  # type: ignore[method-assign]
    trainer.engine.step = stepped  # type: ignore[method-assign]


def forget_autocast() -> None:
    """DeepSpeed remembers for the whole process that some engine used torch_autocast, and treats later ones alike."""
    from deepspeed.runtime import torch_autocast

    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False


def measure(config: RunConfig, traffic: HostTraffic, wire: Wire) -> dict[str, Any]:
    """Validate, train, and count one optimizer step and one logging interval."""
    forget_autocast()
    trainer = setup.build_trainer(config)
    wire.wrap_optimizer(trainer.engine.optimizer)
    validation = evaluate(trainer.engine.module, trainer.task, trainer.val_loader)
    batches = trainer.batches
    # Read ahead, as workers do: what happens while a batch is decoded is not the training process's.
    trainer.batches = iter([next(batches) for _ in range((WARM_UP + 1) * trainer.accumulation)])
    for _ in range(WARM_UP):
        trainer.train_step()
    trainer.log_metrics()
    traffic.counts, traffic.places = {}, {}
    wire.start()
    mark_phases(trainer, traffic)
    with traffic.watching():
        trainer.train_step()
        with traffic.counted_as("logging"):
            trainer.log_metrics()
        traffic.phase = None
    numbers = dict(wire.numbers)
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.engine.module.parameters())
    trainer.watchdog.stop()
    trainer.logger.close()
    trainer.directory.close()
    trainer.engine.destroy()
    return {
        "counts": traffic.counts,
        "places": traffic.places,
        "parameters": parameters,
        "wire": numbers,
        "gathers": wire.gathers,
        "unordered": wire.unordered,
        "validation": validation,
        "skipped": trainer.engine.skipped_steps,
    }


def main() -> None:
    config_file, out, *variants = sys.argv[1:]
    torch.set_num_threads(1)
    traffic = HostTraffic()
    accelerator = install(traffic.saw)
    rank, _, _ = distributed.read_environment()
    distributed.initialize(torch.device("cpu"))
    wire = Wire(accelerator)
    wire.wrap_backend()
    setup.build_run_model = uneven_model(setup.build_run_model)
    gc.freeze()  # DeepSpeed collects garbage at each start, which takes a second for all that was imported
    results = []
    for number, variant in enumerate(variants):
        config = load_config(config_file, [*variant.split(), f"run.name=counted{number}"])
        results.append(measure(config, traffic, wire))
    if rank == 0:
        Path(out).write_text(json.dumps(results, indent=1))
    distributed.shutdown()


if __name__ == "__main__":
    main()
