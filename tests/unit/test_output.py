"""The two channels to the user."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, program_environment

from sar_dist import output
from sar_dist.output import say, warn
from sar_dist.program import run_tool


def test_only_the_main_process_says_and_every_process_warns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "SLURM_PROCID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(output, "_alone", False)
    say("alone")
    monkeypatch.setenv("SLURM_PROCID", "1")
    say("with what another job left in the environment")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    say("second task of srun")
    warn("from the second task")
    monkeypatch.setenv("RANK", "0")
    say("first of torchrun")
    assert capsys.readouterr() == (
        "alone\nwith what another job left in the environment\nfirst of torchrun\n",
        "from the second task\n",
    )
    monkeypatch.setenv("RANK", "7")
    with pytest.raises(SystemExit):
        run_tool(lambda: say("a tool without ranks"), alone=True)
    assert capsys.readouterr().out == "a tool without ranks\n"


_PRINTS = """
import os, sys
from sar_dist.program import run_tool
def main():
    {body}
run_tool(main)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("body", "to", "status", "said"),
    [
        ("print('x')", "> /dev/full", 2, "error: what is printed cannot be written: No space left on device\n"),
        (
            "print('x', flush=True)",
            "> /dev/full",
            2,
            "error: what is printed cannot be written: No space left on device\n",
        ),
        ("print('x', flush=True)", "| true", 141, ""),
        ("print('x' * 99)", "| true", 141, ""),
        ("print(b'\\xff'.decode('utf-8', 'surrogateescape'), chr(228))", "> /dev/null", 0, ""),
        ("raise OSError(28, 'No space left on device', 'a file')", "> /dev/null", 1, None),
    ],
)
def test_a_program_whose_output_nobody_takes(
    body: str, to: str, status: int, said: str | None, unbuffered: str, tmp_path: Path
) -> None:
    """A tool that prints ends as others do where a pipe is closed, and says in a line that a disk is full."""
    program = tmp_path / "program.py"
    waits = "import time; time.sleep(0.3); " if "|" in to else ""
    program.write_text(_PRINTS.format(body=waits + body))
    environment = {**program_environment(), "PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} {program} {to}"],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said is None or done.stderr == said


def test_a_program_that_has_gone_on_without_its_output_keeps_its_status(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    body = "import contextlib\n    with contextlib.suppress(OSError):\n        print('x', flush=True)\n    return 7"
    program.write_text(_PRINTS.format(body=body))
    command = f"{sys.executable} {program} > /dev/full"
    environment = {**program_environment(), "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["bash", "-c", command], env=environment, timeout=60, check=False).returncode == 7
    program.write_text(_PRINTS.format(body=body.replace("7", "0")))
    assert subprocess.run(["bash", "-c", command], env=environment, timeout=60, check=False).returncode == 0


def test_closed_stderr_does_not_end_what_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        with pytest.raises(BrokenPipeError):
            print("x", file=sys.stderr, flush=True)
        warn("nobody hears this")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # so that closing the file can flush what it holds


_WITHOUT_STREAMS = """
import os, sys, time
from sar_dist.program import run_tool
from sar_dist.signals import install_handlers
install_handlers()
def main():
    os.write(1, b"\\n")  # as a library in C prints; ten is the number of SIGUSR1
    time.sleep(0.5)
    print("to nobody", file=sys.stdout)
    assert not sys.stdout.isatty()
    assert os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY) > 2
run_tool(main)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_streams_runs(tmp_path: Path, closed: str) -> None:
    """What is printed gets into no file, and into no pipe that tells of signals."""
    command = shlex.join([sys.executable, "-c", _WITHOUT_STREAMS, str(tmp_path / "file")])
    done = subprocess.run(["sh", "-c", f"exec {command} {closed}"], env=program_environment(), cwd=ROOT, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_a_folder_that_was_removed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: os.stat(tmp_path / "gone"))
    with pytest.raises(SystemExit) as ended:
        run_tool(lambda: None)
    assert ended.value.code == 2
    assert "error: the current folder cannot be used: No such file or directory" in capsys.readouterr().err


def test_a_tool_without_memory_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        bytearray(1 << 60)

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert (end.value.code, line.startswith("error: no memory left in this process; allow it more")) == (2, True)
