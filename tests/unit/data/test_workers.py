"""The data-loader processes: what signals, failures and the end of the training process do to them."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children, get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import cv2
import numpy as np
import pytest
import torch
import webdataset as wds
from shard_factory import make_shards, train_loader

from sar_dist.data import workers as data_workers
from sar_dist.data.workers import KeptPipeline, default_workers
from sar_dist.errors import UserError


def run_and(action: Callable[[int], object], data: Path) -> tuple[ForkProcess, TextIO]:
    """A training process in a process group of its own that does ``action(number)`` after each micro-batch.

    Returns the process and its output, a line with the sample ids for each micro-batch.
    """
    reading, writing = os.pipe()

    def train() -> None:
        os.setsid()
        os.close(reading)
        loader = train_loader(data, global_batch=8, micro_batch=4, workers=2)
        for number, batch in enumerate(loader.iterate(0, 10**6)):
            os.write(writing, json.dumps(batch["sample"].tolist()).encode() + b"\n")
            action(number)

    process = get_context("fork").Process(target=train)
    process.start()
    os.close(writing)
    return process, os.fdopen(reading)


def group_members(group: int) -> list[int]:
    """Ids of the living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_until_gone(process: ForkProcess, seconds: float = 20) -> None:
    assert process.pid is not None
    process.join(seconds)
    end = time.monotonic() + seconds
    while group_members(process.pid):
        assert time.monotonic() < end, "data workers outlive the training process"
        time.sleep(0.05)


def test_killed_run_leaves_no_workers_and_resumes_with_exactly_the_rest(tmp_path: Path) -> None:
    data = make_shards(tmp_path / "data", [20, 21])
    process, output = run_and(lambda number: number == 6 and os.kill(os.getpid(), signal.SIGKILL), data)
    with output:
        seen = [json.loads(line) for line in output]
    wait_until_gone(process)
    assert process.exitcode == -signal.SIGKILL
    assert len(seen) == 7
    rest = list(train_loader(data, global_batch=8, micro_batch=2, rank=0, world_size=1).iterate(3, 5))
    epoch = [
        *itertools.chain.from_iterable(seen[:6]),
        *(sample for batch in rest for sample in batch["sample"].tolist()),
    ]
    assert sorted(epoch) == sorted(set(epoch))
    assert len(epoch) == 40


def test_workers_leave_signals_to_the_training_process(tmp_path: Path) -> None:
    """Signals sent to the whole group, as schedulers do, do not end the workers; the end of the parent does."""
    signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def ignore(number: int) -> None:
        if number == 0:
            for each in signals:
                signal.signal(each, signal.SIG_IGN)
        time.sleep(0.02)

    process, output = run_and(ignore, make_shards(tmp_path / "data", [40]))
    assert process.pid is not None
    with output:
        for _ in range(5):
            output.readline()
        for each in signals:
            os.killpg(process.pid, each)
        for _ in range(40):
            assert output.readline()
        assert len(group_members(process.pid)) == 3
        process.kill()
    wait_until_gone(process)


def test_failure_in_training_ends_the_program(tmp_path: Path) -> None:
    """An exception in the loop, whose traceback keeps the loader alive, must not leave the process waiting for workers."""

    def fail(_number: int) -> None:
        raise ValueError("in the step")

    process, output = run_and(fail, make_shards(tmp_path / "data", [40]))
    with output:
        assert len(output.readlines()) == 1
    wait_until_gone(process)
    assert process.exitcode == 1


def test_the_number_of_workers_changes_no_sample(tmp_path: Path) -> None:
    data = make_shards(tmp_path / "data", [20, 21])

    def seen(**options: int | None) -> list[tuple[list[int], int]]:
        loader = train_loader(data, global_batch=8, micro_batch=4, **options)
        return [(batch["sample"].tolist(), int(batch["image"].long().sum())) for batch in loader.iterate(0, 4)]

    assert seen(workers=0) == seen(workers=2) == seen(workers=None)


def test_one_core_is_left_to_the_training_process() -> None:
    assert [default_workers(cores) for cores in (1, 2, 12, 1000)] == [0, 1, 11, 64]


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_workers_give_the_same_batches_again_also_after_an_early_end(workers: int) -> None:
    """And they are the same processes every time, which began before the first batch was asked for."""
    before = children()
    kept = KeptPipeline(wds.DataPipeline(worker_and_number), workers, prefetch=2)
    started = children() - before
    assert len(started) == workers
    first = list(kept.iterate())
    assert sorted(number for number, _ in first) == sorted(list(range(6)) * max(1, workers))
    assert len(list(itertools.islice(kept.iterate(), 3))) == 3
    assert list(kept.iterate()) == first
    assert children() - before == started
    assert {process for _, process in first} == (started or {os.getpid()})


def worker_and_number() -> Iterator[tuple[int, int]]:
    return ((number, os.getpid()) for number in range(6))


def children() -> set[int]:
    return {child.pid or 0 for child in active_children()}


def _kill_worker(_data: bytes) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def test_killed_worker_is_explained(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [20])
    loader = train_loader(shards, global_batch=14, micro_batch=7, workers=1, transform=_kill_worker)
    with pytest.raises(UserError, match="a data worker was killed, most likely because the system ran out of memory"):
        next(loader.iterate(0, 1))


def opencv_threads(data: bytes) -> torch.Tensor:
    """uint8 (3, 2, 2): the number of OpenCV's threads, and proof that it works."""
    blurred = cv2.GaussianBlur(np.full((600, 600, 3), 7, np.uint8), (31, 31), 5)
    return torch.tensor([cv2.getNumThreads(), int(blurred.max()), 0], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)


def test_workers_of_a_process_that_used_threads_of_opencv(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        opencv_threads(b"")
        data = make_shards(tmp_path / "data", [8])
        loader = train_loader(data, global_batch=4, micro_batch=4, workers=2, transform=opencv_threads)
        for batch in loader.iterate(0, 4):
            assert batch["image"][:, :, 0, 0].tolist() == [[1, 7, 0]] * 4
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("allocate", [bytearray, lambda size: torch.zeros(size, dtype=torch.uint8)])
@pytest.mark.parametrize("workers", [0, 1])
def test_no_memory_is_one_line(tmp_path: Path, allocate: Callable[[int], object], workers: int) -> None:
    def transform(_data: bytes) -> torch.Tensor:
        allocate(1 << 60)
        raise AssertionError("unreachable")

    loader = train_loader(
        make_shards(tmp_path, [8]), global_batch=4, micro_batch=4, workers=workers, transform=transform
    )
    with pytest.raises(UserError, match=r"memory.*lower data.workers or data.prefetch") as error:
        next(loader.iterate(0, 1))
    assert "\n" not in str(error.value)


def test_few_open_files(tmp_path: Path) -> None:
    """A few more are enough for any number of shards in the training process; for many workers it is said."""
    data = make_shards(tmp_path / "data", [1] * 80)
    limit = len(os.listdir("/proc/self/fd")) + 50

    def read(workers: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        try:
            loader = train_loader(data, global_batch=4, micro_batch=4, workers=workers)
            print("read", sum(len(batch["label"]) for batch in loader.iterate(0, 20)), file=output, flush=True)
        except UserError as error:
            print(error, file=output, flush=True)

    for workers, expected in (
        (0, r"read 80"),
        (8, rf"only {limit} files may be open, and data\.workers=8 .* need about \d+;"),
    ):
        with (tmp_path / "output").open("w+") as output:
            process = get_context("fork").Process(target=read, args=(workers,))
            process.start()
            process.join(60)
            output.seek(0)
            assert re.match(expected, output.read())


def test_full_shared_memory_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_shards(tmp_path, [8])
    monkeypatch.setattr(data_workers.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    loader = train_loader(data, global_batch=4, micro_batch=4, workers=1)
    with pytest.raises(
        UserError, match=r"/dev/shm has 0 MiB free\); remove what others left there, give the container more"
    ):
        loader.iterate(0, 1)
    assert len(list(train_loader(data, global_batch=4, micro_batch=4, workers=0).iterate(0, 2))) == 2
