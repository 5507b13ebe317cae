"""Forks programs from a process whose libraries are loaded: ``python tests/fork_server.py CONTROL_FD``.

Importing PyTorch, torchvision, timm, DeepSpeed and matplotlib takes a process 4 s of processor time, which is most of what a
test of a tool takes. Only these are loaded here: every program still imports all of *this* project by itself, runs as
`__main__` in its own process and ends as the interpreter does. ``tests/forked.py`` says when a test uses it.

A message on the control socket is JSON (arguments, environment, folder) and three file descriptors: the program's stdout,
its stderr, and a pipe on which the process id and later the exit status are written. The server ends with its client.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import runpy
import selectors
import socket
import sys
from pathlib import Path

LIBRARIES = ("torch._dynamo", "torchvision", "timm", "deepspeed", "matplotlib.pyplot", "torch.utils.tensorboard", "cv2")


def serve(control: socket.socket) -> tuple[list[str], dict[str, str], str]:
    """Fork a process for each message until the client ends; returns only in such a process, with what it has to run."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    running: dict[int, tuple[int, int]] = {}  # by the descriptor that tells of the end: process id, status pipe
    while True:
        for key, _ in selector.select():
            if key.fd in running:
                pid, status = running.pop(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # the test has not waited for it
                    os.write(status, b"%d\n" % code)
                selector.unregister(key.fd)
                os.close(key.fd)
                os.close(status)
                continue
            message, descriptors, *_ = socket.recv_fds(control, 1 << 20, 3)
            if not message:
                sys.exit(0)
            out, err, status = descriptors
            pid = os.fork()
            if pid == 0:
                os.dup2(out, 1)
                os.dup2(err, 2)
                ours = {out, err, status, *running, *(pipe for _, pipe in running.values())}
                for descriptor in ours:
                    os.close(descriptor)
                selector.close()
                control.close()
                request = json.loads(message)
                return request["arguments"], request["environment"], request["folder"]
            os.write(status, b"%d\n" % pid)
            os.close(out)
            os.close(err)
            told = os.pidfd_open(pid)
            running[told] = (pid, status)
            selector.register(told, selectors.EVENT_READ)


def become(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Make this process what ``python ARGUMENTS`` is when its first line runs, and run it."""
    import numpy

    numpy.random.seed()  # noqa: NPY002 - that of whoever uses the old one; Python's own is seeded again by the fork
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    faulthandler.enable()  # a test that waited in vain aborts the program, which then says where its threads are
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # a collection in a forked process would write to, and so copy, all that is loaded
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
