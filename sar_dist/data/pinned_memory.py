"""Memory of the data workers that is registered with the GPU's driver once, so that batches are copied from where they are.

Otherwise each batch is copied into pinned memory first, by a thread of the training process. Registered memory is not
the caching allocator's: whoever copies from it without waiting has to keep the batch until the copy is done.
"""

from __future__ import annotations

import functools
import mmap
import os
import weakref

import numpy as np
import torch

from sar_dist.output import warn


class RegisteredMapping:
    """A mapping that is registered as long as this object exists; or, where that fails, is none, which is said once.

    Call it on a thread whose current device is the one that trains, and that starts no kernels: CUDA keeps a refusal as the
    thread's last error.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        cudart = torch.cuda.cudart()
        address = np.frombuffer(memory, np.uint8).ctypes.data
        problem = cudart.cudaHostRegister(address, len(memory), 0)
        if int(problem) != 0:
            _say_once(str(cudart.cudaGetErrorString(problem)))
            return
        # The finalizer holds the memory, so that it is still mapped when it is unregistered.
        weakref.finalize(self, _unregister, os.getpid(), address, memory).atexit = False


def _unregister(owner: int, address: int, _memory: mmap.mmap) -> None:
    # In a process that is forked meanwhile there is no GPU to tell.
    if os.getpid() == owner:
        torch.cuda.cudart().cudaHostUnregister(address)


@functools.cache
def _say_once(problem: str) -> None:
    warn(
        f"warning: the memory of the data workers cannot be registered with the GPU ({problem}); "
        "each batch is copied into pinned memory first"
    )
