"""tools/benchmark_loader.py as a user types it: the loader is measured, nothing is trained or left behind."""

from __future__ import annotations

import re
import shutil
import time
from multiprocessing import Event, get_context
from pathlib import Path

import pytest
from support import tool

from sar_dist.config import load_config
from sar_dist.observe.device_peak import PEAK_TFLOPS
from sar_dist.training.loader_benchmark import LoaderSpeed, _CpuClock, report
from sar_dist.training.loader_stages import Remedy, StageCosts
from sar_dist.training.setup import count_flops_of


@pytest.mark.parametrize("workers", [0, 1])
def test_it_reports_and_leaves_nothing(small_config: Path, small_shards: Path, tmp_path: Path, workers: int) -> None:
    shards = small_shards
    if workers:
        shards = shutil.copytree(small_shards, tmp_path / "copy")
    train = f"[{{shards: {small_shards}, weight: 3}}, {{shards: {shards}, weight: 1}}]" if workers else str(shards)
    done = tool(
        "tools/benchmark_loader.py", f"--config={small_config}", f"data.workers={workers}", f"data.train={train}"
    )
    assert done.status == 0, done.stderr
    assert f"images of {f'{small_shards} and {shards}' if workers else shards} in" in done.stdout
    measured = re.search(r"(\d+) img/s(, \d+ img/s per worker)?; ([\d.]+) ms of CPU time an image", done.stdout)
    assert measured is not None, done.stdout
    assert int(measured.group(1)) > 0
    assert (measured.group(2) is not None) == (workers > 0)
    assert "GFLOPs per image in training" in done.stdout
    assert all(f"  {name} " in done.stdout for name, _ in PEAK_TFLOPS)
    assert not (tmp_path / "runs").exists()


def test_other_ranks_measure_and_say_nothing(small_config: Path) -> None:
    ranks = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    done = tool("tools/benchmark_loader.py", f"--config={small_config}", **ranks)
    assert (done.status, done.stdout) == (0, ""), done.stderr


def test_the_time_of_a_worker_that_has_ended_counts() -> None:
    """The first workers end before the last batch has arrived."""
    clock, ready, leave = _CpuClock(), Event(), Event()

    def work() -> None:
        while time.process_time() < 0.5:
            pass
        ready.set()
        leave.wait()

    worker = get_context("fork").Process(target=work)
    begin = clock.seconds()
    worker.start()
    ready.wait()
    running = clock.seconds()
    leave.set()
    worker.join()
    assert clock.seconds() >= running >= begin + 0.4


def test_bad_input_is_one_line(small_config: Path, tmp_path: Path) -> None:
    done = tool("tools/benchmark_loader.py", f"--config={small_config}", "data.train=nowhere")
    assert done.status == 2
    assert done.stderr.startswith("error: data.train: there is no")
    assert done.stderr.count("\n") == 1


def test_cores_are_the_demand_over_what_a_core_delivers(small_config: Path) -> None:
    config = load_config(small_config)
    flops = count_flops_of(config).training_flops
    speed = LoaderSpeed(images=3000, seconds=10.0, cpu_seconds=15.0)
    stages = StageCosts(0.1, 3.0, 1.0, 0.5, 0.4, (Remedy("train on smaller images", 2.0),))
    text = report(config, speed, flops, stages, device_name="NVIDIA H100 80GB HBM3", world_size=2)
    assert "read 0.10, decode 3.00, crop and resize 1.00, operations 0.50, batch and the rest 0.40" in text
    assert "500 img/s per core, 2.5x: train on smaller images" in text
    assert "300 img/s; 5.00 ms of CPU time an image, that is 200 img/s per core" in text
    assert "2 processes measured at the same time" in text
    rate = 0.6 * 989e12 / flops
    (line,) = [line for line in text.splitlines() if line.startswith("  H100  ")]
    assert f"{rate:.0f} img/s = {rate / 200:.1f} cores at 60% of peak" in re.sub(r"= +", "= ", line)
    assert "is too slow for this machine's NVIDIA H100 80GB HBM3" in text
