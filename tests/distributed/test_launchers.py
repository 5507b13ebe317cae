"""A launcher that dies leaves nobody behind: its ranks save together, end within seconds, and the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, free_port, program_environment, tool
from test_resume import wait_for_step

from sar_dist.checkpoint import CheckpointReader, complete_checkpoints
from sar_dist.processes import ProcessIdentity, identify

DEEPSPEED = ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
SECONDS_TO_END = 30


def children(parent: int) -> list[int]:
    """Process ids of the direct children."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def descendants(parent: int) -> Iterator[int]:
    """A process, its children, theirs, and so on."""
    yield parent
    for child in children(parent):
        yield from descendants(child)


def wait_for_end(processes: list[ProcessIdentity]) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    while (alive := [process for process in processes if process.is_alive()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in alive:
        os.kill(process.pid, signal.SIGKILL)
    assert not alive


def start(launcher: list[str], training: list[str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as stream:
        return subprocess.Popen(
            [sys.executable, *launcher, str(free_port()), *training],
            cwd=ROOT,
            env=program_environment(),
            stdout=stream,
            stderr=stream,
            text=True,
            start_new_session=True,
        )


@pytest.mark.parametrize(
    ("launcher", "depth", "number"),
    [
        (DEEPSPEED, 0, signal.SIGKILL),
        pytest.param(DEEPSPEED, 0, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(DEEPSPEED, 1, signal.SIGKILL, marks=pytest.mark.long),  # the node's deepspeed.launcher.launch
        pytest.param(DEEPSPEED, 1, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(TORCHRUN, 0, signal.SIGKILL, marks=pytest.mark.long),
        pytest.param(TORCHRUN, 0, signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_end_of_a_launcher(
    launcher: list[str], depth: int, number: signal.Signals, small_config: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "runs" / "small", tmp_path / "log"
    training = ["tools/train.py", "--config", str(small_config), "optim.epochs=4000"]
    process = start(launcher, training, log)
    try:
        wait_for_step(run, 2, [process])
        family = [found for pid in descendants(process.pid) if (found := identify(pid)) is not None]
        ranks = [member.pid for member in family if not children(member.pid)]
        second = tool(*training)
        assert (second.status, second.stdout) == (2, "")
        assert second.stderr.startswith(f"error: {run} is in use by process ")
        assert len(ranks) == 2
        victim = process.pid if depth == 0 else children(process.pid)[0]
        os.kill(victim, number)
        process.wait(timeout=SECONDS_TO_END)
        wait_for_end(family)
    finally:
        process.kill()
        process.wait()
    output = log.read_text()
    step = CheckpointReader(complete_checkpoints(run / "checkpoints")[0]).step
    assert f"stopped after step {step} (" in output
    third = tool(*training, f"run.max_steps={step + 1}")
    assert third.status == 0, third.stderr
    assert f"resumed after step {step}" in third.stdout


@pytest.mark.long
@pytest.mark.parametrize("stopped", [1, 0])
def test_end_of_a_launcher_of_which_one_rank_stands_still(stopped: int, small_config: Path, tmp_path: Path) -> None:
    """It cannot save together with the others: they do not wait for it for ever, and it is not left behind."""
    run, log = tmp_path / "runs" / "small", tmp_path / "log"
    training = ["tools/train.py", "--config", str(small_config), "optim.epochs=4000", "checkpoint.every=1"]
    process = start(TORCHRUN, training, log)
    try:
        wait_for_step(run, 2, [process])
        family = [found for pid in descendants(process.pid) if (found := identify(pid)) is not None]
        ranks = children(process.pid)
        os.kill(ranks[stopped], signal.SIGSTOP)
        process.kill()
        process.wait()
        wait_for_end(family)
    finally:
        process.kill()
        process.wait()
    said = f"rank {stopped} (process {ranks[stopped]}) stood still, stopped, for 20 s"
    assert log.read_text().count(said) == 1
    step = CheckpointReader(complete_checkpoints(run / "checkpoints")[0]).step
    again = tool(*training, f"run.max_steps={step + 1}")
    assert again.status == 0, again.stderr
    assert f"resumed after step {step}" in again.stdout


def test_an_error_is_the_only_line_of_a_documented_start(small_config: Path) -> None:
    quiet = [*DEEPSPEED[:2], "--log_level", "critical", *DEEPSPEED[2:], str(free_port())]
    done = subprocess.run(
        [sys.executable, *quiet, "tools/train.py", "--config", str(small_config), "optim.lr=-1"],
        cwd=ROOT,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: optim.lr=-1: Input should be greater than 0\n"
