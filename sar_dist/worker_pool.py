"""Pools of forked processes that never outlive the program that made them, however it ends.

A fork has its parent's signal handlers, which may mean nothing in it, and its stdout, so that one that stays behind
keeps ``| tee`` waiting. Only the parent decides what a signal means, as a terminal sends it to the whole group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from sar_dist.errors import UserError
from sar_dist.signals import STOP_SIGNALS

_PARENT_CHECK_SECONDS = 0.5


@contextlib.contextmanager
def forked_pool(
    workers: int, initializer: Callable[..., None] | None = None, *arguments: object
) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``workers`` forks of this process, which inherit what it holds without a copy.

    Where the block is left early, nothing more is begun, and what is at work comes to its end: no file is left half written.

    Args:
        workers: how many.
        initializer: called in each of them first, with ``arguments``.
        arguments: see there; they are inherited too.

    Raises:
        UserError: one of the processes was killed.
    """
    prepare = (os.getpid(), initializer, arguments)
    pool = ProcessPoolExecutor(workers, get_context("fork"), _prepare, prepare)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a process that was working was killed, most likely because the system ran out of memory; give the same command "
            "again, with fewer processes if it has an option for that"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(parent: int, initializer: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), name="watch of the parent", daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with(parent: int) -> None:
    """End this process when the one that forked it is gone, also if that was before this thread began.

    PR_SET_PDEATHSIG would not do: it follows the thread that forked, which may end while the parent lives on.
    """
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(0)
