"""The data-loader processes: how they start, what they ignore, and that they never outlive the training process."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial

import cv2
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from sar_dist import distributed
from sar_dist.config import DataSettings
from sar_dist.cores import own_use, share_of_cores
from sar_dist.data.batch_memory import BatchMemory, as_message, use_slots
from sar_dist.data.batching import ERROR, MORE_MEMORY, Batch
from sar_dist.devices import uses_cuda
from sar_dist.errors import UserError, killed_worker, text_of
from sar_dist.signals import STOP_SIGNALS

# Only the training process decides what a signal means; a launcher sends it to the whole process group.
# SIGTERM is treated apart, because the data loader's own clean-up uses it.
IGNORED_SIGNALS = tuple(number for number in STOP_SIGNALS if number != signal.SIGTERM)
_OPEN_FILES = 8192
# Each holds data.prefetch batches in shared memory; a rank that could use more cores than these is rare.
_MOST_WORKERS = 64
_PARENT_CHECK_SECONDS = 1.0
_SHARED_MEMORY = "/dev/shm"
_LEAST_SHARED_MEMORY = 1 << 20
# Batches that the training process may hold besides those on their way: the one it works on, and the one before it.
_BATCHES_IN_USE = 2
# Files that a batch holds open if there is no slot for it (images, operations), and that a worker's queues and memory do.
_FILES_PER_BATCH = 2
_FILES_PER_WORKER = 6
_FILES_LEFT_OVER = 24


def with_workers(settings: DataSettings) -> DataSettings:
    """The settings with a number of workers: the given one, or what this process's cores allow. Call on every process."""
    if settings.workers is not None:
        return settings
    return settings.model_copy(update={"workers": default_workers(distributed.own_cores())})


def default_workers(cores: int) -> int:
    """One of the cores is for the training process itself."""
    return min(cores - 1, _MOST_WORKERS)


def iterate_pipeline(
    pipeline: wds.DataPipeline, workers: int | None, prefetch: int, *, registered: bool = False
) -> Iterator[Batch]:
    """The pipeline's batches in order, made by ``workers`` processes that prepare ``prefetch`` batches each ahead.

    The processes start at once, not at the first batch: what this process allocates later is not shared with them.
    Without a number of workers this process is taken to be the only one on its cores. ``registered`` as of ``BatchMemory``,
    where there is a GPU.
    Raises UserError for what a stage reported, and with advice where a worker was killed because memory ran out.
    """
    loader = _Loader(pipeline, workers, prefetch, kept=False, registered=registered and uses_cuda())
    with _explained_failures(), _single_threaded_opencv():
        return _checked(loader.batches())


class KeptPipeline:
    """A pipeline that is run again and again, by processes that start once, now, and wait in between.

    Started before the model takes memory, they share none of it, and none is forked beside a running network.
    """

    def __init__(self, pipeline: wds.DataPipeline, workers: int | None, prefetch: int) -> None:
        self._loader = _Loader(pipeline, workers, prefetch, kept=True)
        self._started: Iterator[Batch] | None = None
        if self._loader.workers:
            with _explained_failures(), _single_threaded_opencv():
                self._started = self._loader.batches()

    def iterate(self) -> Iterator[Batch]:
        """The batches in order, from the first; an earlier iterator ends. Errors as of ``iterate_pipeline``."""
        started, self._started = self._started, None
        if started is None:
            with _explained_failures():
                started = self._loader.batches()
        return _checked(started)


class _Loader:
    """torch's loader of a pipeline, with the memory in which its workers hand over their batches."""

    def __init__(
        self, pipeline: wds.DataPipeline, workers: int | None, prefetch: int, *, kept: bool, registered: bool = False
    ) -> None:
        if workers is None:
            workers = default_workers(share_of_cores(own_use(), [own_use()]))
        self.workers = workers
        self._memory: BatchMemory | None = None
        if workers:
            # The loader's own queues need some; torch cannot clean up after a loader that is only half there.
            if shutil.disk_usage(_SHARED_MEMORY).free < _LEAST_SHARED_MEMORY:
                raise UserError(_out_of_shared_memory())
            _allow_open_files(workers, prefetch)
            self._memory = BatchMemory(workers, prefetch + _BATCHES_IN_USE, registered=registered)
        self._loader = DataLoader(
            pipeline,
            batch_size=None,
            collate_fn=as_message,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=None if self._memory is None else partial(_prepare_loader_worker, self._memory),
            # forkserver and spawn would import the user's main module again; and the parent would not be the parent.
            multiprocessing_context="fork" if workers else None,
            # Copies what is not pinned yet: registered memory is.
            pin_memory=uses_cuda(),
            # The loader draws a seed for its workers, from the training process's generator unless it has its own.
            generator=torch.Generator(),
            persistent_workers=kept and workers > 0,
        )

    def batches(self) -> Iterator[Batch]:
        """The batches from the first. With workers, call it under ``_single_threaded_opencv``: it may fork them."""
        batches = iter(self._loader)
        if self._memory is not None:
            self._memory.keep_for(batches)
        return batches


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """What is forked meanwhile uses one thread of OpenCV. To say so in the worker hangs there if this process has used
    OpenCV's threads: the call waits for them, and threads are not forked."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _checked(batches: Iterator[Batch]) -> Iterator[Batch]:
    with _explained_failures():
        for batch in batches:
            if ERROR in batch:
                raise UserError(batch[ERROR])
            yield batch


def _allow_open_files(workers: int, prefetch: int) -> None:
    """Raise the limit of open files as far as it may be. Raises UserError if that is too few for the workers."""
    limit = _raise_open_files()
    needed = (
        len(os.listdir("/proc/self/fd"))
        + _FILES_LEFT_OVER
        + workers * (_FILES_PER_WORKER + prefetch * _FILES_PER_BATCH)
    )
    if needed > limit:
        raise UserError(
            f"only {limit} files may be open, and data.workers={workers} with data.prefetch={prefetch} need about {needed}; "
            f"allow more (ulimit -n {needed}, in a shell with a higher hard limit), or lower them"
        )


def _raise_open_files() -> int:
    """Set the limit of open files to what the hard limit allows, at most _OPEN_FILES, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _out_of_shared_memory() -> str:
    free = shutil.disk_usage(_SHARED_MEMORY).free >> 20
    return (
        f"the data workers ran out of shared memory ({_SHARED_MEMORY} has {free} MiB free); remove what others left there, "
        "give the container more (--shm-size, or an emptyDir of medium Memory), or lower data.workers, data.prefetch or "
        "engine.micro_batch"
    )


@contextlib.contextmanager
def _explained_failures() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise UserError(f"no memory for the data workers; {MORE_MEMORY}") from error
    except (RuntimeError, OSError) as error:
        text = text_of(error)
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or any(each in text.lower() for each in ("shared memory", "bus error", "no space left on device")):
            raise UserError(_out_of_shared_memory()) from error
        if "allocate memory" in text:  # of a fork, or of torch's allocator
            raise UserError(f"no memory for the data workers; {MORE_MEMORY}") from error
        if isinstance(error, RuntimeError) and (line := killed_worker(error)) is not None:
            raise UserError(line) from error
        raise


def _prepare_loader_worker(memory: BatchMemory, worker: int) -> None:
    prepare_worker(worker)
    use_slots(memory, worker)


def prepare_worker(_worker: int) -> None:
    """Set up a data-loader process: one thread, signals left to the parent, many open files, an end with the parent."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_only, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    _raise_open_files()
    # What was there before the fork stays, so the garbage collector need not look at it again and again.
    gc.freeze()


def _obey_only(parent: int) -> None:
    """End this process when the parent ends it or is gone; a SIGTERM from anyone else changes nothing.

    PR_SET_PDEATHSIG would not do: it follows the thread that forked, which may end while the parent lives on.
    """
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK_SECONDS)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
