"""A run directory has one holder: whoever else starts in it is told who, and a dead holder blocks nobody."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support import program_environment

from sar_dist import lease as lease_module
from sar_dist.errors import UserError
from sar_dist.lease import FOLDER, acquire
from sar_dist.processes import this_process

# A holder that is told when to begin. The module alone is loaded, because its package needs seconds.
HOLD = """
import importlib.util, sys, time
from pathlib import Path
from sar_dist.errors import UserError
spec = importlib.util.spec_from_file_location("lease", sys.argv[2])
lease = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lease)
print("ready", flush=True)
sys.stdin.readline()
try:
    held = lease.acquire(Path(sys.argv[1]), renew_every=0.1, patience=5)
except UserError as error:
    sys.exit(str(error))
print("held", flush=True)
time.sleep(60)
"""


def start(run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run), str(lease_module.__file__)],
        env=program_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def hold(run: Path) -> subprocess.Popen[str]:
    process = start(run)
    go(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def pretend(run: Path, **changes: Any) -> Path:
    """Let the holder's file say something else, such as another machine."""
    (file,) = (run / FOLDER).iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return file


def test_live_holder_is_named_and_a_killed_one_is_replaced_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"is in use by process {process.pid} on .*choose another folder"):
            acquire(tmp_path)
    finally:
        end(process)
    before = time.monotonic()
    acquire(tmp_path, patience=60).release()
    assert time.monotonic() - before < 5
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


@pytest.mark.parametrize("pid", [10**30, 2**31, 0, -1, float("inf")])
def test_a_number_that_is_no_process_s_is_damage(tmp_path: Path, pid: float) -> None:
    (tmp_path / FOLDER / ".x.part").mkdir(parents=True)  # nobody's either
    holder = {**asdict(this_process()), "pid": pid}
    (tmp_path / FOLDER / "00000002").write_text(json.dumps(holder))
    acquire(tmp_path, patience=0.1).release()


def test_zombie_and_reused_process_id_count_as_dead(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    time.sleep(0.3)  # dead, and not yet waited for
    acquire(tmp_path, patience=60).release()
    process.communicate()
    pretend(tmp_path, pid=os.getpid(), started=1, released=False)
    acquire(tmp_path, patience=60).release()


def test_released_directory_is_free_also_for_another_machine(tmp_path: Path) -> None:
    acquire(tmp_path).release()
    pretend(tmp_path, boot="another machine's")
    before = time.monotonic()
    acquire(tmp_path, patience=60).release()
    assert time.monotonic() - before < 5


def test_holder_on_another_machine_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alive as long as its file changes, whatever the clocks say; dead once it has not changed for long enough."""
    first = acquire(tmp_path, renew_every=0.1)
    first._record |= {"boot": "another machine's", "host": "far", "job": "77"}
    first._write()
    with pytest.raises(UserError, match=r"in use by process \d+ on far \(job 77\)"):
        acquire(tmp_path, patience=5)
    first._ended.set()
    first._thread.join()
    os.utime(first.path, (2e9, 2e9))  # a file server's clock that is ahead
    second = acquire(tmp_path, patience=0.5)
    assert "watching for 0.5 s whether it lives" in capsys.readouterr().out
    with pytest.raises(UserError, match="was taken over by another start"):
        first.check()
    second.check()
    first.release()  # which must not touch what is another's now
    second.check()
    second.release()


def test_holder_notices_by_itself_that_it_was_replaced(tmp_path: Path) -> None:
    first = acquire(tmp_path, renew_every=0.05)
    (tmp_path / FOLDER / "00000002").write_text("{}")
    wait_for(lambda: first.lost)


def test_file_cut_short_or_of_nonsense_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for number, content in enumerate((b"", b'{"pid": ', b"[1]", b'{"pid": "x"}', b"\xff" * 10), start=1):
        (tmp_path / FOLDER / f"{number * 10:08d}").write_bytes(content)
        acquire(tmp_path, patience=0.2).release()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("place", ["", "00000007"])
def test_something_else_in_the_place_of_a_holder_is_said(
    tmp_path: Path, make: Callable[[Path], None], place: str
) -> None:
    taken = tmp_path / FOLDER / place
    if place:
        taken.parent.mkdir()
    elif make is os.mkdir:
        make = Path.touch
    make(taken)
    with pytest.raises(UserError, match=rf"{taken} is no (file|folder); remove it: it has the place of what says who"):
        acquire(tmp_path, patience=0.1)


@pytest.mark.parametrize("links", [True, False])
def test_holder_s_file_is_whole_as_soon_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """A start that is killed while it writes blocks nobody, where there are hard links; without them it works too."""
    seen: list[bytes] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.extend(path.read_bytes() for path in (tmp_path / FOLDER).iterdir() if path.name.isdigit())
        fsync(descriptor)

    def no_link(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", look)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / ".00000001.00000000.part").write_bytes(b"{")
    acquire(tmp_path).release()
    assert bool(seen) is not links
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000001"]


def test_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest_link = os.link

    def link(source: Path, target: Path) -> None:
        honest_link(source, target)
        honest_link(source, target)  # as NFS asks again

    monkeypatch.setattr(os, "link", link)
    acquire(tmp_path).release()
    assert [path.name for path in (tmp_path / ".holder").iterdir()] == ["00000001"]


@pytest.mark.parametrize("dead_holder", [False, True])
def test_of_many_starts_at_once_exactly_one_wins(tmp_path: Path, dead_holder: bool) -> None:
    if dead_holder:
        end(hold(tmp_path))
    processes = [start(tmp_path) for _ in range(6)]
    try:
        for process in processes:
            go(process)
        deadline = time.monotonic() + 20
        while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (winner,) = [process for process in processes if process.poll() is None]
        for process in processes:
            if process is not winner:
                assert f"is in use by process {winner.pid}" in process.communicate()[1]
    finally:
        for process in processes:
            end(process)


def test_start_that_slept_after_its_look_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw number 0; in the meantime others took 1 to 3, and its own file, number 1, can be made again."""
    numbers = lease_module._numbers
    others: list[Any] = []

    def late(folder: Path) -> list[int]:
        found = numbers(folder)
        if not others:
            monkeypatch.setattr(lease_module, "_numbers", numbers)
            others.append(acquire(tmp_path))
            others[0].release()
            others.append(acquire(tmp_path))
        return found

    monkeypatch.setattr(lease_module, "_numbers", late)
    with pytest.raises(UserError, match="is in use"):
        acquire(tmp_path)
    others[1].check()
    others[1].release()


def test_full_disk_does_not_end_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = acquire(tmp_path, renew_every=0.05)

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", full)
        time.sleep(0.3)
    assert held._thread.is_alive()
    before = held.path.read_bytes()
    time.sleep(0.5)
    assert held.path.read_bytes() != before
    held.check()
    held.release()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_holder_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    held = acquire(tmp_path, renew_every=0.05)
    shutil.rmtree(tmp_path / FOLDER)
    wait_for(held.path.exists)
    held.check()
    with pytest.raises(UserError, match="is in use by process"):
        acquire(tmp_path)
    held.release()
    acquire(tmp_path).release()


@pytest.mark.parametrize("earlier_starts", [0, 2])
def test_of_two_holders_after_a_deletion_the_first_gives_way(tmp_path: Path, earlier_starts: int) -> None:
    """Also where the number of the second is the same, or lower."""
    for _ in range(earlier_starts):
        acquire(tmp_path).release()
    first = acquire(tmp_path, renew_every=60)
    shutil.rmtree(tmp_path / FOLDER)
    second = acquire(tmp_path, renew_every=60)
    with pytest.raises(UserError, match="was taken over by another start"):
        first.check()
    first.release()
    second.check()
    assert [file.name for file in (tmp_path / FOLDER).iterdir()] == [second.path.name]
    second.release()


def test_holder_notices_that_its_folder_was_moved(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    run.mkdir()
    held = acquire(run, renew_every=0.05)
    run.rename(moved)
    wait_for(lambda: held.lost)
    assert not run.exists()
    with pytest.raises(UserError, match=rf"{run} was moved to {moved} while it was in use"):
        held.check()
    held.release()


def test_holder_notices_that_its_folder_was_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    held = acquire(run, renew_every=60)
    shutil.rmtree(run)
    (run / "checkpoints").mkdir(parents=True)  # by a part of training that did not know
    with pytest.raises(UserError, match="run was removed while it was in use"):
        held.check()
    held.release()
    assert not (run / FOLDER).exists()


def test_folder_that_was_moved_and_linked_back_is_still_held(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    run.mkdir()
    held = acquire(run, renew_every=60)
    run.rename(moved)
    run.symlink_to(moved)
    held.check()
    held.release()


def test_copy_of_a_held_folder_is_told_how_to_be_free(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    held = acquire(tmp_path / "run")
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with pytest.raises(UserError, match=rf"if this is a copy of {tmp_path}/run, remove {copy}/{FOLDER}"):
        acquire(copy)
    shutil.rmtree(copy / FOLDER)
    acquire(copy).release()
    held.check()
    held.release()
