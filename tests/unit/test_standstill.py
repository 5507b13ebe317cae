"""What counts as movement of a run whose launcher has gone, and what is done when there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sar_dist import standstill
from sar_dist.processes import ProcessIdentity, descendants, identify, processor_seconds, this_process
from sar_dist.standstill import Standstill


@pytest.fixture
def other() -> Iterator[ProcessIdentity]:
    """Another process of the run, which waits."""
    process = subprocess.Popen(["sleep", "60"])
    identity = identify(process.pid)
    assert identity is not None
    yield identity
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, other: ProcessIdentity) -> list[float]:
    """A clock that goes on by a second at each look, and a run of two processes of which none computes or writes."""
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(standstill.time, "monotonic", tick)
    monkeypatch.setattr(standstill, "_members", (this_process(), other))
    monkeypatch.setattr(standstill, "_writing", set)
    monkeypatch.setattr(standstill, "processor_seconds", lambda pid: 7.0)
    return now


def stop(process: ProcessIdentity) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    while not process.is_stopped():
        pass


def looks_until_still(watch: Standstill, limit: int = 50) -> int:
    return next((number for number in range(limit) if watch.look()), limit)


def test_a_run_that_waits_stands_still() -> None:
    watch = Standstill(20)
    assert looks_until_still(watch) == 20
    assert (watch.speaks, watch.describe()) == (True, "nothing has moved for 20 s")


def test_steps_are_movement() -> None:
    watch = Standstill(3)
    for _ in range(10):
        standstill.moved()
        assert not watch.look()
    assert looks_until_still(watch) == 2


def test_computing_is_movement_unless_a_process_is_stopped(
    monkeypatch: pytest.MonkeyPatch, other: ProcessIdentity
) -> None:
    """A long step does not end sooner because nobody sees its parts; what NCCL does while it waits is no step."""
    used = iter(range(1000))
    monkeypatch.setattr(standstill, "processor_seconds", lambda pid: 0.2 * next(used))
    watch = Standstill(3)
    assert looks_until_still(watch) == 50
    stop(other)
    assert looks_until_still(watch) == 2
    assert f"rank 1 (process {other.pid}) stood still, stopped" in watch.describe()


def test_a_save_is_waited_for_unless_only_a_stopped_process_is_at_it(
    monkeypatch: pytest.MonkeyPatch, other: ProcessIdentity
) -> None:
    writing = {0, 1}
    monkeypatch.setattr(standstill, "_writing", lambda: writing)
    watch = Standstill(3)
    stop(other)
    assert looks_until_still(watch) == 50
    writing.remove(0)
    assert looks_until_still(watch) == 2


def test_a_disk_that_fails_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> set[int]:
        raise OSError

    monkeypatch.setattr(standstill, "_writing", fail)
    assert looks_until_still(Standstill(3)) == 50


def test_what_other_machines_do_is_not_known(monkeypatch: pytest.MonkeyPatch, other: ProcessIdentity) -> None:
    elsewhere = ProcessIdentity(1, 1, "another boot", "")
    monkeypatch.setattr(standstill, "_members", (elsewhere, this_process(), other))
    watch = Standstill(3)
    assert looks_until_still(watch) == 50
    stop(other)
    assert looks_until_still(watch) == 2
    assert watch.speaks


def test_time_in_which_this_process_stood_still_does_not_count(clock: list[float]) -> None:
    watch = Standstill(20)
    assert not watch.look()
    clock[0] += 3600
    assert not watch.look()


def test_only_stopped_processes_of_the_run_are_killed(monkeypatch: pytest.MonkeyPatch, other: ProcessIdentity) -> None:
    watch = Standstill(1)
    assert looks_until_still(watch) == 1
    watch.end_stopped()
    assert other.is_alive()
    stop(other)
    watch.look()
    later = ProcessIdentity(other.pid, other.started - 1, other.boot, other.namespace)  # had this one's id before it
    later.kill()
    assert other.is_alive()
    watch.end_stopped()
    while other.is_alive():
        time.sleep(0.01)


def test_processor_time_is_that_of_the_children_too() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        while not list(descendants(process.pid)) or processor_seconds(process.pid) < 0.5:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
