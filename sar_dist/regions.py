"""Named regions of a training step, such as "forward": what the step timer and the profiler's trace tell apart.

Like ``torch.profiler.record_function``, whose idea this is, ``region`` can be written anywhere, and costs next to
nothing unless somebody observes the step. Standard library only, so that every package may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Observer = Callable[[str], AbstractContextManager[object]]

_UNOBSERVED: AbstractContextManager[object] = nullcontext()
_observer: Observer | None = None


def region(name: str) -> AbstractContextManager[object]:
    """What happens inside belongs to ``name``. Regions may be nested: the inner name counts."""
    return _UNOBSERVED if _observer is None else _observer(name)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let ``observer`` make the context manager of every region that is entered inside, on any thread."""
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous
