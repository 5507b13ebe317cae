"""The two channels to the user."""

from __future__ import annotations

import os
import sys

import pytest

from sar_dist.output import say, warn
from sar_dist.program import run_tool


def test_only_the_main_process_says_and_every_process_warns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    say("alone")
    monkeypatch.setenv("SLURM_PROCID", "1")
    say("second task of srun")
    warn("from the second task")
    monkeypatch.setenv("RANK", "0")
    say("first of torchrun")
    assert capsys.readouterr() == ("alone\nfirst of torchrun\n", "from the second task\n")


def test_closed_stderr_does_not_end_what_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        with pytest.raises(BrokenPipeError):
            print("x", file=sys.stderr, flush=True)
        warn("nobody hears this")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # so that closing the file can flush what it holds


def test_a_tool_without_memory_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        bytearray(1 << 60)

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert (end.value.code, line.startswith("error: no memory left in this process; allow it more")) == (2, True)
