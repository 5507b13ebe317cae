"""The training loader alone on this machine: what it delivers, what one GPU would take, and how many cores that needs."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from sar_dist import distributed, signals
from sar_dist.config import RunConfig, size_text
from sar_dist.data import TrainLoader, device_batches, with_workers
from sar_dist.data.shards import check_stage
from sar_dist.devices import select_device
from sar_dist.errors import UserError
from sar_dist.observe import PEAK_TFLOPS, peak_flops
from sar_dist.training.checks import check_decoder, check_training_data
from sar_dist.training.loader_stages import IMAGES, Remedy, StageCosts, measure_stages
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.setup import at_each_size, build_train_loader, count_flops_of, mean_flops

SECONDS = 20.0
UTILISATION = (0.4, 0.6)  # model FLOPs utilisation of a training step: usual, and very good


@dataclass(frozen=True)
class LoaderSpeed:
    """What was measured: images in how many seconds, and seconds of CPU time of this process and its workers."""

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def images_per_core(self) -> float:
        """Images per second of CPU time: what one core delivers that does nothing else."""
        return self.images / self.cpu_seconds


def benchmark_loader(config: RunConfig) -> str:
    """Run the training loader for 20 seconds or an epoch, whichever is shorter, and report. Leaves nothing behind.

    Every process runs its own part of the loader, so that those of a node share its cores as in training.

    Raises:
        UserError: the training data or the settings of the loader are wrong.
    """
    rank, local_rank, world_size = distributed.read_environment()
    device = select_device(local_rank)
    data = with_workers(config.data)
    config = RunDirectory(config).settled(config, device).model_copy(update={"data": data})
    check_decoder(config, device)
    check_stage(data)
    loader = build_train_loader(config, data, check_training_data(config), rank, world_size)
    speed = measure(loader, data.workers or 0, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    stages = measure_stages(config, loader, device, total=1e3 / speed.images_per_core)
    by_side = {side: count_flops_of(variant).training_flops for side, variant in at_each_size(config).items()}
    flops = mean_flops(config, by_side)
    return report(config, speed, flops, stages, device_name=name, world_size=world_size)


def measure(loader: TrainLoader, workers: int, device: torch.device, seconds: float = SECONDS) -> LoaderSpeed:
    """Take the loader's batches for ``seconds`` or an epoch; the start of the workers is not counted if there is time.

    Where decoding is left to the device, it is part of it.

    Raises:
        UserError: the epoch is a single micro-batch, or too many samples are bad.
    """
    available = loader.steps_per_epoch * loader.accumulation
    if available < 2:
        raise UserError("an epoch is a single batch; lower engine.micro_batch or use more data")
    # The first batches of the workers arrive together, after they were started.
    warm_up = max(1, workers) if available > 3 * max(1, workers) else 1
    images = 0
    clock = _CpuClock()
    if loader.leaves_decoding:
        batches = device_batches(loader, 0, loader.steps_per_epoch, device)
    else:
        batches = loader.iterate(0, loader.steps_per_epoch)
    for _ in itertools.islice(batches, warm_up):
        pass
    begin, begin_cpu = time.perf_counter(), clock.seconds()
    for batch in batches:
        images += len(batch["label"])
        now, cpu = time.perf_counter(), clock.seconds()
        if now - begin >= seconds or signals.received() is not None:
            break
    # CPU time is counted in hundredths of a second.
    return LoaderSpeed(images, now - begin, max(cpu - begin_cpu, 0.01))


def report(
    config: RunConfig,
    speed: LoaderSpeed,
    training_flops: float,
    stages: StageCosts,
    *,
    device_name: str | None,
    world_size: int,
) -> str:
    """The measurement, where the time goes, what would help, and the demand of one GPU of each known kind, as text.

    ``training_flops`` is what training the model needs for an image, on average over ``model.train_sizes``.
    """
    data, cores = config.data, len(os.sched_getaffinity(0))
    sides = ", ".join(map(size_text, config.model.train_sizes or (config.model.image_size,)))
    shards = " and ".join(each.shards for each in data.training_sets)
    per_worker = f", {speed.images_per_second / data.workers:.0f} img/s per worker" if data.workers else ""
    others = f"; {world_size} processes measured at the same time, this is the first" if world_size > 1 else ""
    lines = [
        f"loader alone: {speed.images} images of {shards} in {speed.seconds:.1f} s, data.workers={data.workers}, "
        f"{cores} core{'s' if cores > 1 else ''}{others}",
        f"  {speed.images_per_second:.0f} img/s{per_worker}; {1e3 / speed.images_per_core:.2f} ms of CPU time an image, "
        f"that is {speed.images_per_core:.0f} img/s per core",
        f"  of it, ms of {IMAGES} images on one thread: {stages}",
        *(f"  {_saving(remedy, speed)}" for remedy in stages.remedies),
        f"{config.model.name} at {sides} px: {training_flops / 1e9:.1f} GFLOPs per image in training",
        f"one GPU takes at most, and needs for it in loader cores (this process may use {cores}):",
    ]
    lines += [_demand_line(name, peak * 1e12, training_flops, speed) for name, peak in PEAK_TFLOPS]
    peak = None if device_name is None else peak_flops(device_name)
    if peak is not None:
        usual = UTILISATION[0] * peak / training_flops
        verdict = "keeps up with" if speed.images_per_second >= usual else "is too slow for"
        lines.append(f"this loader {verdict} this machine's {device_name} at {UTILISATION[0]:.0%} of its peak")
    lines.append("Regularizer and activation checkpointing make steps longer and the demand smaller.")
    return "\n".join(lines)


def _saving(remedy: Remedy, speed: LoaderSpeed) -> str:
    return f"{1e3 / remedy.milliseconds:.0f} img/s per core, {1e3 / remedy.milliseconds / speed.images_per_core:.1f}x: {remedy.what}"


def _demand_line(name: str, peak: float, training_flops: float, speed: LoaderSpeed) -> str:
    """Images per second and cores for each utilisation of a GPU of ``peak`` FLOP/s."""
    parts = []
    for utilisation in UTILISATION:
        rate = utilisation * peak / training_flops
        parts.append(f"{rate:8.0f} img/s = {rate / speed.images_per_core:6.1f} cores at {utilisation:.0%} of peak")
    return f"  {name:<10} {', '.join(parts)}"


class _CpuClock:
    """CPU time of this process and its data workers; of a worker that has ended, what it had when it was last looked at."""

    def __init__(self) -> None:
        self._workers: dict[int, float] = {}

    def seconds(self) -> float:
        """CPU seconds so far."""
        for child in multiprocessing.active_children():
            try:
                fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            ticks = int(fields[11]) + int(fields[12])
            self._workers[child.pid or 0] = ticks / os.sysconf("SC_CLK_TCK")
        return time.process_time() + sum(self._workers.values())
