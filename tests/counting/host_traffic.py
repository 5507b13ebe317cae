"""Counts what makes the host wait for a device, or sends it single numbers, in code that runs on the CPU for a test."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ("device", "stream", "event", "item", "shape", "device to host", "host to device")
"""What is counted: waits for the whole device, a stream, an event; reads of a number; operations whose result has a shape
that depends on numbers, so that the host must read them; copies to the host; numbers of the host made a device's tensor."""

_ITEM = {"_local_scalar_dense", "equal", "is_nonzero"}
_SHAPE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
_FACTORIES = {torch.tensor, torch.as_tensor, torch.asarray}
_HERE = Path(__file__).parent
_TORCH = Path(torch.__file__).parent


class HostTraffic:
    """Counts by phase and kind, with the places in the code where they come from."""

    def __init__(self) -> None:
        self.phase: str | None = None
        self.counts: dict[str, Counter[str]] = {}
        self.places: dict[str, Counter[str]] = {}

    def saw(self, kind: str) -> None:
        """Count one, in the current phase if there is one."""
        if self.phase is not None:
            self.counts.setdefault(self.phase, Counter())[kind] += 1
            if kind != "operation":
                self.places.setdefault(self.phase, Counter())[f"{kind}: {caller()}"] += 1

    @contextmanager
    def counted_as(self, phase: str | None) -> Iterator[None]:
        """Count what happens inside as ``phase``."""
        previous, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = previous

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See all operations of this thread."""
        with ExitStack() as stack:
            stack.enter_context(_Functions(self))
            stack.enter_context(_Operations(self))
            yield


class _Operations(TorchDispatchMode):
    """Sees every operation that a device would compute, also those of the autograd engine and inside of others."""

    def __init__(self, traffic: HostTraffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (func.is_view or name in _NO_KERNEL):
            self.traffic.saw("operation")
        if name in _ITEM and not is_on_host(args[0]):
            self.traffic.saw("item")
        elif name in _SHAPE or is_masked(name, args) or is_unknown_repeat(name, args, kwargs or {}):
            self.traffic.saw("shape")
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Sees copies between host and device, which on the CPU are no operations at all."""

    def __init__(self, traffic: HostTraffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _FACTORIES and not isinstance(args[0] if args else kwargs.get("data"), Tensor):
            if kwargs.get("device") is None:
                result.is_on_host = True
            else:
                self.traffic.saw("host to device")
        elif func in (Tensor.cpu, Tensor.tolist) or (
            func is Tensor.to and is_host_name(*args[1:2], kwargs.get("device"))
        ):
            if not is_on_host(args[0]):
                self.traffic.saw("device to host")
        elif func is Tensor.to and is_on_host(args[0]):
            self.traffic.saw("host to device")
        return result


def is_on_host(tensor: Any) -> bool:
    """Whether a tensor was made from numbers of the host, for no device."""
    return getattr(tensor, "is_on_host", False)


def is_host_name(*devices: Any) -> bool:
    """Whether "cpu" is among the devices that a tensor is sent to, as the name of the host."""
    return any(type(device) is str and device == "cpu" for device in devices)


def is_masked(name: str, args: Any) -> bool:
    """Whether an operation picks elements by a mask, for which the host must know how many they are."""
    if not name.startswith(("index", "_index")) or len(args) < 2 or not isinstance(args[1], list | tuple):
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def is_unknown_repeat(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation repeats elements by counts that are numbers of the device."""
    counts = args[1] if len(args) > 1 else args[0] if args else None
    return name == "repeat_interleave" and isinstance(counts, Tensor) and kwargs.get("output_size") is None


def caller() -> str:
    """The innermost code that is neither torch's nor a counter's, as file:line and function."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(_TORCH) and path.parent != _HERE and "accelerator" not in path.name:
            return f"{'/'.join(path.parts[-3:])}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "unknown"
