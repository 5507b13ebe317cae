"""How a command-line tool runs and ends: errors as one line and a status, and no end that waits for ever."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn
from weakref import WeakSet

from sar_dist.errors import EXIT_BAD_INPUT, UserError, killed_worker, shortened, text_of
from sar_dist.output import (
    WatchedStream,
    give_up_stdout,
    is_main_process,
    open_missing_streams,
    warn,
    watch_stdout,
    work_alone,
)

# With those of ``errors``, what scripts may rely on: docs/clusters.md, "What an exit status means".
EXIT_CRASH = 1
EXIT_INTERRUPTED = 130

_speaks: Callable[[], bool] = is_main_process


class _Stopped(KeyboardInterrupt):
    """A signal that asks a tool to end, which does so in the way of Ctrl-C: what is temporary is removed."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)


def let_speak(decide: Callable[[], bool]) -> None:
    """From now on ask ``decide`` whether this process prints an error's line, once for all processes of a run."""
    global _speaks
    _speaks = decide


_WRONG_PATH = {getattr(errno, name) for name in "ENOENT ENOTDIR EISDIR ELOOP ENAMETOOLONG EACCES EPERM ENXIO".split()}
# What gloo and NCCL say of a process that ended in the middle of a collective.
_LOST_PROCESS = re.compile(r"(\[\S+\]:\d+: )?Connection (?:reset|closed) by peer|ncclRemoteError")
_LIBRARY_VARIABLE = re.compile(r"\b(?:PY)?TORCH_[A-Z_]+\b")
# Of the dynamic loader. Room for thread-local variables ("static TLS block") is another thing.
_NOT_LOADED = re.compile(r"failed to map segment|cannot allocate memory(?! in static TLS)|cannot map zero-fill pages")
# PyTorch's C++ code ends the process at a wrong form of these when it is imported: KEY:VALUE,KEY:[VALUE,...]
_ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_ALLOCATOR_OPTIONS = re.compile(r"\s*(?:\w+\s*:\s*(?:\[[^\]]*\]|[^,:\[\]\s]+)\s*(?:,\s*|$))*")
_in_tool = False
_at_once = False
_last_work: WeakSet[threading.Thread] = WeakSet()
_LAST_WORK_SECONDS = 20.0


def leave_at_once() -> None:
    """From now on a tool ends without Python's clean-up: that of NCCL can wait for ever for processes that have gone."""
    global _at_once
    _at_once = True


def leaves_at_once() -> bool:
    """Whether this is a tool that will end so: what it holds then needs no clean-up."""
    return _in_tool and _at_once


def finish_before_end(thread: threading.Thread) -> None:
    """Let a tool that leaves at once wait for this daemon thread, for up to 20 s, as it does for others than daemons."""
    _last_work.add(thread)


def run_tool(main: Callable[[], int | None], *, alone: bool = False) -> None:
    """Run a command-line tool: ``UserError`` becomes one line on stderr and its exit status.

    So does an error of the operating system that is about a path: too long, a loop of links, a folder in the place of a
    file, a permission that is missing. Others, such as a disk that fails, are crashes, after which trying again may help.
    That another process of the run has gone is one line too, so that it does not bury what that process said.

    Under a launcher one process prints the line: the one with RANK 0 or, once the processes have met
    (``sar_dist.meeting``), whichever knows of the error. A tool that works ``alone``, without ranks, always prints it.
    """
    global _in_tool
    _in_tool = True
    work_alone(alone)
    if alone:
        _stop_in_order()
    # Pictures go to files; that of a notebook, which its shell commands inherit, need not exist here.
    os.environ["MPLBACKEND"] = "agg"
    open_missing_streams()
    stdout = watch_stdout()
    try:
        _check_current_folder()
        _check_allocator_options()
        status = main() or 0
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        found = _status_without_stdout(stdout) if _is_of(error, stdout) else _status_after(error)
        if found is None:
            raise
        status = found
    if not _is_flushed(stdout) and status == 0:
        status = _status_without_stdout(stdout)
    if _at_once:
        _end(status)
    sys.exit(status)


def _stop_in_order() -> None:
    """Let SIGTERM, and a terminal that closes, unwind the program as Ctrl-C does; a second one ends it at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Stopped(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup a terminal may close
            signal.signal(number, stop)


def _status_after(error: BaseException) -> int | None:
    """Say what ended a program, and give its status; None: it is for the interpreter to show."""
    if isinstance(error, SystemExit):  # argparse's
        return error.code or 0 if error.code is None or isinstance(error.code, int) else None
    if isinstance(error, UserError):
        if error.for_every_process or _speaks():
            warn(f"error: {text_of(error)}")
        return error.exit_status
    if _lacks_memory(error):
        # Not in the way of a UserError: whichever process has no memory left says so itself.
        warn(
            "error: no memory left in this process; allow it more (ulimit -v, the container's limit), or use fewer "
            "data.workers or a smaller batch"
        )
        return EXIT_BAD_INPUT
    if isinstance(error, _Stopped):
        warn(f"stopped by {error.number.name}")
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        warn("interrupted")
        return EXIT_INTERRUPTED
    if (known := _line_and_status(error)) is not None:
        line, status = known
        if _speaks():
            warn(f"error: {line}")
        return status
    if _at_once:
        traceback.print_exception(error)
        return EXIT_CRASH
    return None


def _line_and_status(error: BaseException) -> tuple[str, int] | None:
    """What to say instead of a traceback, and the exit status; None: a crash of this process itself."""
    if isinstance(error, OSError) and error.filename is not None and error.errno in _WRONG_PATH:
        return f"{shortened(str(error.filename))}: {error.strerror}", EXIT_BAD_INPUT
    if (refused := _limit_or_variable(error)) is not None:
        return refused, EXIT_BAD_INPUT
    if not isinstance(error, RuntimeError):
        return None
    if (line := killed_worker(error)) is not None:  # torch says so wherever the main thread is
        return line, EXIT_BAD_INPUT
    text = text_of(error)
    if text.startswith("Symlink loop"):  # what Path.resolve raises
        return shortened(text), EXIT_BAD_INPUT
    if (lost := _LOST_PROCESS.search(text)) is not None:
        return (
            f"another process of this run has gone ({lost[0]}): its lines say why or, if it has none, the system killed it, "
            "mostly for want of memory (see dmesg); the same command goes on from what is saved"
        ), EXIT_CRASH
    return None


def _lacks_memory(error: BaseException) -> bool:
    """Whether the system gave no memory: to Python, to a fork, or to a library that was being loaded."""
    if isinstance(error, ImportError | OSError) and _NOT_LOADED.search(text_of(error)):
        return True
    if isinstance(error, ImportError) and error.__cause__ is not None:  # NumPy's own words for it
        return _lacks_memory(error.__cause__)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _limit_or_variable(error: BaseException) -> str | None:
    """What to say where the system allows this process too little, or a library does not take a variable of the environment."""
    text, number = text_of(error), getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or (isinstance(error, ImportError) and "Too many open files" in text):
        return "too few files may be open at once; allow more (ulimit -n), or use fewer processes"
    if isinstance(error, BlockingIOError) or (isinstance(error, RuntimeError) and "can't start new thread" in text):
        return "too few processes or threads may run; allow more (ulimit -u, the container's limit), or use fewer"
    name = next((found for found in _LIBRARY_VARIABLE.findall(text) if found in os.environ), None)
    if name is None or not isinstance(error, ValueError):
        return None
    return (
        f"{name}={shortened(os.environ[name])} is not taken: {shortened(' '.join(text.split()))}; correct or unset it"
    )


def _is_of(error: BaseException, stdout: WatchedStream) -> bool:
    """Whether a program ends because stdout cannot be written."""
    return stdout.problem is not None and stdout.problem in (error, error.__context__)


def _is_flushed(stdout: WatchedStream) -> bool:
    """Whether all output is out, as far as it matters: a program that has gone on without it, as training does, has done so knowingly."""
    known = stdout.problem is not None
    try:
        stdout.flush()
    except OSError:
        give_up_stdout()
        return known
    except ValueError:  # closed
        return True
    return True


def _status_without_stdout(stdout: WatchedStream) -> int:
    """The status of a program that could not write its output: of a pipe that nobody reads that of any other tool."""
    give_up_stdout()
    assert stdout.problem is not None
    if isinstance(stdout.problem, BrokenPipeError):
        return 128 + signal.SIGPIPE
    warn(f"error: what is printed cannot be written: {stdout.problem.strerror}")
    return EXIT_BAD_INPUT


def _check_current_folder() -> None:
    """Raises UserError if the current folder was removed: relative paths, and libraries that ask for it, fail there."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder cannot be used: {error.strerror}; change to one that exists") from None


def _check_allocator_options() -> None:
    """Raises UserError for options of PyTorch's allocator that would end the process without a word that helps."""
    for name in _ALLOCATORS:
        if not _ALLOCATOR_OPTIONS.fullmatch(value := os.environ.get(name, "")):
            raise UserError(
                f"{name}={shortened(value)} is not taken: options are written KEY:VALUE,KEY:VALUE, such as "
                "expandable_segments:True; correct or unset it"
            )


def _end(status: int) -> NoReturn:
    deadline = time.monotonic() + _LAST_WORK_SECONDS
    ordinary = {thread for thread in threading.enumerate() if not thread.daemon}
    for thread in (ordinary | set(_last_work)) - {threading.current_thread()}:
        thread.join(max(0.0, deadline - time.monotonic()))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            continue
    os._exit(status)
