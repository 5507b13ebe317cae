"""Run on every rank: train two steps under each ZeRO stage and write down what the process held and sent.

python held_by_engines.py CONFIG OUT.json OVERRIDES [OVERRIDES ...]     one engine for each space-separated OVERRIDES
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sar_dist import distributed
from sar_dist.config import RunConfig, load_config
from sar_dist.devices import select_device
from sar_dist.engine import ExponentialMovingAverage, build_engine, input_dtype
from sar_dist.models import build_model

KINDS = {
    "all_reduce": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "all_gather": "all_gather",
    "all_gather_coalesced": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter": "reduce_scatter",
}


def held_bytes() -> int:
    """Bytes of all distinct tensor storages that this process can reach."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if isinstance(item, Tensor):
            for tensor in (item, item.grad if item.is_leaf else None):
                if tensor is not None:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def payload_bytes(argument: Any) -> int:
    """Bytes of a tensor, or of the tensors in a list."""
    if isinstance(argument, Tensor):
        return argument.nbytes
    return sum(map(payload_bytes, argument)) if isinstance(argument, list | tuple) else 0


def count_collectives(counts: Counter[str]) -> Callable[[], None]:
    """Count the bytes that go through DeepSpeed's collectives; returns what undoes it."""
    import deepspeed.comm.comm as communication

    backend = communication.cdb
    for name in KINDS:
        original = getattr(backend, name)

        def counted(*arguments: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            values = [*arguments, *options.values()]
            counts[KINDS[_name]] += max((payload_bytes(value) for value in values), default=0)
            return _original(*arguments, **options)

        setattr(backend, name, counted)
    all_to_all = torch.distributed.all_to_all_single  # of Muon, which does not go through DeepSpeed

    def counted_all_to_all(arrived: Tensor, sent: Tensor, *sizes: Any) -> Any:
        counts["all_to_all"] += sent.nbytes
        return all_to_all(arrived, sent, *sizes)

    torch.distributed.all_to_all_single = counted_all_to_all

    def undo() -> None:
        torch.distributed.all_to_all_single = all_to_all
        for name in KINDS:
            delattr(backend, name)

    return undo


def measure(config: RunConfig, world_size: int) -> dict[str, float]:
    """Bytes held between steps, at the peak of the second step, and sent in it."""
    before = held_bytes()
    model = build_model(config.model, config.regularizer)
    engine = build_engine(config, model, world_size=world_size, steps_per_epoch=10)
    assert "torch._inductor.compile_fx" not in sys.modules, "the start pays for a compiler that is not used"
    average = ExponentialMovingAverage(engine, config.optim.ema) if config.optim.ema else None
    size, micro = config.model.image_size, config.engine.micro_batch
    images, labels = torch.randn(micro, 3, size, size, dtype=input_dtype(config)), torch.zeros(micro, dtype=torch.long)

    def step() -> None:
        for _ in range(engine.gradient_accumulation_steps()):
            loss = torch.nn.functional.cross_entropy(engine(images)["logits"].float(), labels)
            engine.backward(loss)
            engine.step()
        if average is not None:
            average.update()

    step()
    rest = held_bytes() - before - images.nbytes - labels.nbytes
    counts: Counter[str] = Counter()
    undo = count_collectives(counts)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profile:
        start = time.time_ns()
        step()
    undo()
    engine.destroy()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.start_ns() >= start)
    level = highest = 0
    for _, change in changes:
        level += change
        highest = max(highest, level)
    return {"rest": rest, "peak": rest + highest, **counts}


def main() -> None:
    config_file, out, *variants = sys.argv[1:]
    torch.set_num_threads(1)
    rank, local_rank, world_size = distributed.read_environment()
    distributed.initialize(select_device(local_rank))
    results = [measure(load_config(config_file, variant.split()), world_size) for variant in variants]
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    distributed.shutdown()


if __name__ == "__main__":
    main()
