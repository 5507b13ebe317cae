"""Starts Python programs by a fork of a process that has the libraries loaded (``tests/fork_server.py``).

What this does not show, tests with processes of their own do: that what needs no PyTorch is answered without it
(test_fast_answers.py), signals during the imports (test_signals.py), and real launchers (test_launchers.py, test_make_demo.py,
tests/cluster).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import IO

# What may differ between the server and a program: libraries do not read it when they are imported.
_READ_LATER = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SAR_",
    "PYTEST_",
    "PWD",
    "OLDPWD",
    "HOME",
)
_SERVERS = 2

_lock = threading.Lock()
_started = 0
_environment: dict[str, str] = {}  # of the servers


def can_fork(arguments: tuple[str, ...], environment: dict[str, str], plain: dict[str, str]) -> bool:
    """Whether a program can start from loaded libraries: a script, and nothing in its environment that these read before.

    Args:
        arguments: as for ``python``.
        environment: the program's.
        plain: that of a program of which a test asks nothing special; the servers get it at the first call.
    """
    if not _environment:
        _environment.update(plain)
    names = environment.keys() | _environment.keys()
    differing = {name for name in names if environment.get(name) != _environment.get(name)}
    return arguments[0].endswith(".py") and all(name.startswith(_READ_LATER) for name in differing)


class ForkedProcess:
    """A program that was started by a fork; as ``subprocess.Popen`` with text pipes.

    Args:
        arguments: as for ``python``; the first is a script.
        stderr: a stream of its own, instead of going to stdout.
    """

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], folder: Path, *, stderr: bool) -> None:
        out, out_end = os.pipe()
        err, err_end = os.pipe() if stderr else (None, out_end)
        status, status_end = os.pipe()
        request = {"arguments": list(arguments), "environment": environment, "folder": str(folder)}
        with _lock:
            socket.send_fds(_next_server(), [json.dumps(request).encode()], [out_end, err_end, status_end])
        for end in {out_end, err_end, status_end}:
            os.close(end)
        self.args = arguments
        self.stdout: IO[str] = os.fdopen(out)
        self.stderr: IO[str] | None = None if err is None else os.fdopen(err)
        self.returncode: int | None = None
        self._status = os.fdopen(status)
        self.pid = int(self._status.readline())
        self._watch = threading.Thread(target=self._wait_for_status, daemon=True)
        self._watch.start()

    def _wait_for_status(self) -> None:
        with self._status:
            self.returncode = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when there is one."""
        self._watch.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to both streams, when it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        texts = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            texts[number] = stream.read()

        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None and not stream.closed]
        readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate(streams)]
        for reader in readers:
            reader.start()
        for reader in [*readers, self._watch]:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        for stream in streams:
            stream.close()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # its status is on the way
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(9)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(15)


def _next_server() -> socket.socket:
    """The servers take turns: the hashes of strings, so the order of sets, differ between ranks and between starts."""
    global _started
    _started += 1
    servers = [_server(number) for number in range(_SERVERS)]  # they load side by side
    return servers[_started % _SERVERS]


@cache
def _server(number: int) -> socket.socket:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "fork_server.py"), str(theirs.fileno())],
            env={**_environment, "PYTHONHASHSEED": str(number)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    atexit.register(_end, mine, server)
    return mine


def _end(control: socket.socket, server: subprocess.Popen[bytes]) -> None:
    control.close()
    server.wait()
