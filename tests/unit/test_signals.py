"""A start ends at once at a signal or when its launcher has gone; a shell's end is nobody's business."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import program_environment

from sar_dist import launchers
from sar_dist.launchers import find_launchers, is_launcher
from sar_dist.processes import ancestors, identify, this_process
from sar_dist.training.preemption import request_requeue

# The main thread is inside a library, where no handler of Python's can run.
PROGRAM = """
import ctypes, os, signal, sys, time
from sar_dist import signals
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)  # whatever the tests run under
signals.end_with_launcher() if "tool" in sys.argv else signals.install_handlers()
if "training" in sys.argv:
    signals.begin_training()
print("ready", os.getpid(), flush=True)
if "training" in sys.argv:
    while not (signals.launcher_is_gone() or signals.received()):
        time.sleep(0.1)
    print("told", signals.received(), flush=True)
else:
    while True:  # a signal ends one sleep
        ctypes.CDLL(None).sleep(60)
"""
# Starts the program above, as a launcher does, and does not survive: LAUNCH SHELL|LAUNCHER ARGUMENT
LAUNCH = """
import os, subprocess, sys
extra = {"RANK": "0", "WORLD_SIZE": "1"} if sys.argv[1] == "launcher" else {}
subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[2]], env={**os.environ, **extra}, start_new_session=True)
import time
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2])
def test_signal_ends_a_start_at_once(number: signal.Signals, tmp_path: Path) -> None:
    marker = tmp_path / "requeue"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=program_environment(SAR_REQUEUE_FILE=str(marker)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert stderr == f"stopped by {number.name} before training began; nothing is lost\n"
    assert marker.exists() == (number not in (signal.SIGINT, signal.SIGQUIT))


def test_second_signal_ends_a_process_whose_main_thread_waits() -> None:
    """As in a collective for a process that stands still."""
    waiting = PROGRAM.replace("while not (", "while True: ctypes.CDLL(None).sleep(60)\n    while not (")
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, "training"], env=program_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as stream:
        assert stream.readline().startswith("ready")
        process.send_signal(signal.SIGHUP)  # a terminal that closes
        time.sleep(2.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 128 + signal.SIGTERM


def test_quit_stops_a_run_as_an_interrupt_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "training"], env=program_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as stream:
        assert stream.readline().startswith("ready")
        process.send_signal(signal.SIGQUIT)
        assert stream.read() == f"told {int(signal.SIGQUIT)}\n"
    process.wait(timeout=5)
    monkeypatch.setenv("SAR_REQUEUE_FILE", str(tmp_path / "requeue"))
    request_requeue(3, "SIGQUIT")
    assert not (tmp_path / "requeue").exists()
    request_requeue(3, "SIGTERM")
    assert (tmp_path / "requeue").read_text() == "step 3: SIGTERM\n"


@pytest.mark.parametrize("ignored", [False, True])
def test_hangup_stops_a_run_unless_it_is_ignored(ignored: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "training", *(["nohup"] if ignored else [])],
        env=program_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as stream:
        assert stream.readline().startswith("ready")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert stream.read() == f"told {int(signal.SIGTERM if ignored else signal.SIGHUP)}\n"
    process.wait(timeout=5)


@pytest.mark.parametrize(("state", "line"), [("start", ""), ("training", "told None\n"), ("tool", "")])
def test_end_of_the_launcher_is_noticed(state: str, line: str) -> None:
    environment = {key: value for key, value in program_environment().items() if key != "RANK"}
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, "launcher", state, PROGRAM], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline().split()[1])
    launcher.kill()
    launcher.wait()
    with launcher.stdout as stream:
        assert stream.read() == line  # ends when the orphan has closed its end
    deadline = time.monotonic() + 5
    while identify(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    identity = identify(pid)
    assert identity is None or not identity.is_alive()


def test_end_of_a_parent_that_is_no_launcher_changes_nothing() -> None:
    """As under nohup: the shell ends with its terminal, and the run goes on."""
    parent = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, "shell", "training", PROGRAM],
        env=program_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.wait()
    time.sleep(2.5)
    child = identify(pid)
    assert child is not None
    assert child.is_alive()
    os.kill(pid, signal.SIGTERM)
    with parent.stdout as stream:
        assert stream.read() == f"told {int(signal.SIGTERM)}\n"


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("python", ["/v/bin/python", "/v/bin/deepspeed", "tools/train.py"], True),
        ("python", ["python", "-u", "-m", "deepspeed.launcher.launch", "--world_info=x"], True),
        ("python", ["python3", "-m", "torch.distributed.run", "tools/train.py"], True),
        ("torchrun", ["/v/bin/python", "/v/bin/torchrun", "--nproc-per-node=2"], True),
        ("slurmstepd", ["slurmstepd: [12.0]"], True),
        ("orted", ["orted"], True),
        ("bash", ["bash", "-c", "deepspeed tools/train.py"], False),
        ("python", ["python", "tools/experiment.py", "run", "x", "deepspeed"], False),
        ("python", ["python", "-m", "pytest"], False),
        ("systemd", ["/sbin/init"], False),
        ("python", [], False),
    ],
)
def test_launchers_are_recognised(name: str, command: list[str], expected: bool) -> None:
    assert is_launcher(name, command) == expected


def test_rank_given_by_a_shell_or_exported_makes_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = next(ancestors(), None)
    if parent is None:
        pytest.skip("this process is the first one's child")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(launchers, "is_launcher", lambda name, command: False)
    for variables, name, watched in (({"A"}, "starter", True), ({"RANK"}, "starter", False), ({"A"}, "bash", False)):
        monkeypatch.setattr(launchers, "variables_of", lambda pid, variables=variables: variables)
        monkeypatch.setattr(launchers, "name_of", lambda pid, name=name: name)
        assert [found.pid for found in find_launchers()] == [parent] * watched
    monkeypatch.setattr(launchers, "variables_of", lambda pid: None)
    assert find_launchers() == []
    monkeypatch.setenv(launchers.STARTER_VARIABLE, str(parent))  # tools/experiment.py
    assert [found.pid for found in find_launchers()] == [parent]


def test_process_is_told_from_a_later_one_with_its_id() -> None:
    this = this_process()
    assert this.can_be_judged()
    assert this.is_alive()
    assert not type(this)(this.pid, this.started - 1, this.boot, this.namespace).is_alive()
    assert not type(this)(this.pid, this.started, "another boot", this.namespace).can_be_judged()
