"""How a tool ends, also where NCCL's clean-up would wait for ever: with its status, and with everything written."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import ROOT, Finished, run_processes, tool

from sar_dist import distributed, errors, meeting, program

PROGRAM = """
import atexit, sys, threading, time
from sar_dist.errors import UserError
from sar_dist.program import finish_before_end, leave_at_once, run_tool

class HangingCommunicator:  # as NCCL's, whose destructor waits for processes that have gone
    def __del__(self):
        time.sleep(1000)

held = HangingCommunicator()
atexit.register(time.sleep, 1000)

def slowly(path):
    time.sleep(0.5)
    open(path, "w").write("whole")

def main():
    leave_at_once()
    saving = threading.Thread(target=slowly, args=(sys.argv[1] + "/checkpoint",), daemon=True)
    saving.start()
    finish_before_end(saving)
    threading.Thread(target=slowly, args=(sys.argv[1] + "/metrics",)).start()
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    sys.stdout.write("a line without an end")
    {last}

run_tool(main)
"""


def end_with(last: str, folder: Path, timeout: float = 60) -> Finished:
    file = folder / "program.py"
    file.write_text(textwrap.dedent(PROGRAM).format(last=last))
    return tool(str(file), str(folder), timeout=timeout)


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        ("return 0", 0, ""),
        ("return 7", 7, ""),
        ("raise UserError('bad\\ninput')", 2, "error: bad input\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise ValueError('a bug')", 1, "ValueError: a bug\n"),
        ("raise OSError(40, 'a loop', '/data')", 2, "error: /data: a loop\n"),
        (
            "raise RuntimeError('[pair.cc:5] Read error [::1]:42: Connection reset by peer. GLHF')",
            1,
            "error: another process of this run has gone ([::1]:42: Connection reset by peer): its lines say why or, if it has none, the system killed it, "
            "mostly for want of memory (see dmesg); the same command goes on from what is saved\n",
        ),
        ("raise OSError(5, 'Input/output error', '/data')", 1, "Input/output error: '/data'\n"),
        ("raise ConnectionResetError(104, 'reset')", 1, "ConnectionResetError: [Errno 104] reset\n"),
    ],
)
def test_a_tool_with_nccl_ends_at_once_with_everything_written(
    last: str, status: int, said: str, tmp_path: Path
) -> None:
    done = end_with(last, tmp_path)
    assert (done.status, done.stdout) == (status, "a line without an end")
    assert done.stderr.endswith(said)
    assert (tmp_path / "checkpoint").read_text() == (tmp_path / "metrics").read_text() == "whole"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(24, "Too many open files", "/data"), "too few files may be open at once; allow more (ulimit -n)"),
        (ImportError("x.so: cannot open shared object file: Too many open files"), "too few files may be open at once"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "too few processes or threads may run"),
        (RuntimeError("can't start new thread"), "too few processes or threads may run; allow more (ulimit -u"),
        (ValueError("The value of TORCH_SETTING must be OFF"), "TORCH_SETTING=zz is not taken: The value of TORCH_SET"),
    ],
)
def test_what_the_system_or_a_variable_forbids_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_SETTING", "zz")

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        program.run_tool(main, alone=True)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    monkeypatch.delenv("TORCH_SETTING")
    if isinstance(error, ValueError):  # names no variable that is set: a bug
        with pytest.raises(ValueError, match="TORCH_SETTING"):
            program.run_tool(main, alone=True)


def test_a_save_that_waits_for_a_process_that_has_gone_delays_the_end_only_so_long(tmp_path: Path) -> None:
    last = "stuck = threading.Thread(target=time.sleep, args=(1000,), daemon=True); stuck.start(); finish_before_end(stuck)"
    patience = "import sar_dist.program as program; program._LAST_WORK_SECONDS = 1.0; "
    began = time.monotonic()
    assert end_with(patience + last, tmp_path).status == 0
    assert time.monotonic() - began < 30


def test_a_nccl_group_is_left_to_the_end_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(program, "_at_once", False)
    monkeypatch.setattr(program, "_in_tool", False)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroyed"))
    monkeypatch.setattr(distributed, "part", lambda: done.append("parted"))
    distributed.shutdown()
    program.leave_at_once()
    distributed.shutdown()  # not in a tool: what started it will end in its own way
    monkeypatch.setattr(program, "_in_tool", True)
    distributed.shutdown()
    assert done == ["destroyed", "destroyed", "parted"]


def test_making_a_nccl_group_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is made: one that failed hangs at the end too."""
    import deepspeed

    def fail(**options: object) -> None:
        assert options["dist_backend"] == "nccl"
        raise RuntimeError("no network")

    monkeypatch.setattr(program, "_at_once", False)
    monkeypatch.setattr(program, "_in_tool", True)
    monkeypatch.setattr(meeting, "_meeting", None)
    monkeypatch.setenv("LOCAL_RANK", "0")  # so that what is set is undone
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *arguments, **options: None)
    monkeypatch.setattr(deepspeed, "init_distributed", fail)
    with pytest.raises(errors.CannotMeet, match="no network"):
        distributed.initialize(torch.device("cuda", 0))
    assert program.leaves_at_once()


def test_rank_0_stays_until_the_others_need_its_store_no_more(tmp_path: Path) -> None:
    file = tmp_path / "leave.py"
    file.write_text(
        "import os, time\n"
        "from sar_dist import distributed\n"
        "from sar_dist.meeting import part\n"
        "distributed.meet()\n"
        "distributed.exchange('')\n"
        "time.sleep(1.5 * int(os.environ['RANK']))\n"
        "began = time.monotonic()\n"
        "part()\n"
        "print(f'waited {time.monotonic() - began > 1}', flush=True)\n"
        "os._exit(0)\n"
    )
    output = run_processes(2, str(file))
    assert output.split("\n---\n")[0].split() == ["waited", "True", "waited", "False"]


class Mute(errors.UserError):
    def __str__(self) -> str:
        raise ValueError("no text")


class MuteFailure(ValueError, OSError):
    def __str__(self) -> str:
        raise SystemExit(0)


def numpys() -> ImportError:
    error = ImportError("IMPORTANT: PLEASE READ THIS")
    error.__cause__ = ImportError("_x.so: cannot allocate memory")
    return error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (MemoryError(), 2, "no memory left in this process"),
        (ImportError("_x.so: failed to map segment from shared object"), 2, "no memory left in this process"),
        (OSError("libx.so: cannot map zero-fill pages"), 2, "no memory left in this process"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "no memory left in this process"),
        (numpys(), 2, "no memory left in this process"),
        (ImportError("_x.so: cannot allocate memory in static TLS block"), None, ""),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 2, "error: a data worker was killed"),
        (Mute(), 2, "error: Mute: its text cannot be shown"),
        (MuteFailure(), None, ""),
    ],
)
def test_what_ends_a_tool_is_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, status: int | None, line: str
) -> None:
    assert program._status_after(error) == status
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ("", True),
        ("max_split_size_mb:64", True),
        ("expandable_segments:True, garbage_collection_threshold:0.6", True),
        ("roundup_power2_divisions:[256:1,512:2,>:4],max_split_size_mb:64", True),
        ("zz", False),
        ("a:1,zz", False),
        ("a=1", False),
        ("a:", False),
    ],
)
def test_options_of_the_allocator_are_looked_at_before_they_end_the_process(
    monkeypatch: pytest.MonkeyPatch, options: str, taken: bool
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", options)
    with contextlib.nullcontext() if taken else pytest.raises(errors.UserError, match="is not taken: options are"):
        program._check_allocator_options()


def test_make_shards_without_memory_for_its_libraries_is_one_line() -> None:
    command = f"ulimit -v 150000; exec {sys.executable} {ROOT}/tools/make_shards.py --help"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no memory left in this process")
    assert "Traceback" not in done.stderr
