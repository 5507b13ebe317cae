"""Pools of forked processes: none outlives the program that made it, whatever signal reaches whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from support import ROOT, program_environment

from sar_dist.errors import UserError
from sar_dist.worker_pool import forked_pool


def _work(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _program(pipe: Connection) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: None)  # as training's, which means nothing in a worker
    with forked_pool(2) as pool:
        pipe.send(set(pool.map(_work, [0.2, 0.2])))
        list(pool.map(_work, [60.0, 60.0]))


@pytest.mark.parametrize("ends", [True, False])
def test_workers_end_with_the_program_and_leave_signals_to_it(ends: bool) -> None:
    mine, theirs = get_context("fork").Pipe(duplex=False)
    program = get_context("fork").Process(target=_program, args=(theirs,))
    program.start()
    theirs.close()
    assert mine.poll(30)
    mine.recv()
    assert program.pid is not None
    try:
        if ends:
            program.kill()
            assert mine.poll(5), "a worker is left, and holds the pipe"
            with pytest.raises(EOFError):
                mine.recv()
        else:
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1):
                for worker in _children(program.pid):
                    os.kill(worker, number)
            time.sleep(0.1)
            assert len(_children(program.pid)) == 2
    finally:
        program.kill()
        program.join(10)


def _children(pid: int) -> list[int]:
    """Children of every thread: the pool may fork from one of its own."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _end_here(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_line() -> None:
    with pytest.raises(UserError, match="a process that was working was killed"), forked_pool(2) as pool:
        list(pool.map(_end_here, [1, 2]))


def test_every_pool_of_the_package_is_made_here() -> None:
    using = [path.name for path in (ROOT / "sar_dist").rglob("*.py") if "ProcessPoolExecutor" in path.read_text()]
    assert using == ["worker_pool.py"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_tool_that_is_asked_to_end_tidies_up(number: signal.Signals, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import signal, time, sys
        from pathlib import Path
        from sar_dist.files import atomic_write
        from sar_dist.program import run_tool

        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests run under

        def main():
            with atomic_write(Path(sys.argv[1], "shard.tar")):
                print("writing", flush=True)
                time.sleep(60)

        run_tool(main, alone=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env=program_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        assert process.stderr.read() == f"stopped by {number.name}\n"
        assert process.wait(20) == 128 + number
    assert not list(tmp_path.iterdir())
