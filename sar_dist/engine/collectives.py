"""DeepSpeed's collectives as a region of the step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sar_dist.regions import region

COMMUNICATION = "communication"
_NAMES = (
    "all_gather all_gather_coalesced all_gather_into_tensor all_reduce all_reduce_coalesced all_to_all "
    "all_to_all_single barrier broadcast gather reduce reduce_scatter reduce_scatter_tensor scatter"
).split()


@contextmanager
def collectives_as_regions() -> Iterator[None]:
    """Put every collective that DeepSpeed calls inside into the region "communication".

    One that is started asynchronously is in it while it is started and while it is waited for, not in between.
    All of DeepSpeed's collectives are methods of one backend object, which is given others for the time being: its own
    log of collectives synchronises with the device at every call.
    """
    from deepspeed.comm import comm  # slow to import, and it initialises the accelerator

    backend: Any = comm.cdb
    names = [name for name in _NAMES if hasattr(backend, name)]
    for name in names:
        setattr(backend, name, _as_region(getattr(backend, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(backend, name)


class _Work:
    """A collective under way, whose waiting is communication too; otherwise the handle that it wraps."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self, *arguments: Any, **options: Any) -> Any:
        with region(COMMUNICATION):
            return self._work.wait(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _as_region(collective: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective)
    def inside(*arguments: Any, **options: Any) -> Any:
        with region(COMMUNICATION):
            work = collective(*arguments, **options)
        return _Work(work) if hasattr(work, "wait") else work

    return inside
