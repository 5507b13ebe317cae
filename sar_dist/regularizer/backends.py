"""Which implementation of the spatial entropy runs on which tensor."""

import functools
import importlib.util
import os
import warnings

import torch
from torch import Tensor

from .kernel_probe import kernel_problem

BACKENDS = ("auto", "cpu", "torch", "triton")
MAX_TRITON_PIXELS = 64 * 64  # a map lives in the registers of one program
TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None


def check_backend(backend: str) -> None:
    """Raise ValueError unless the backend's name is known."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def resolve_backend(backend: str, tensor: Tensor, pixels: int) -> str:
    """The backend that runs, ``cpu``, ``torch`` or ``triton``, for maps of so many pixels on the tensor's device.

    Maps too large for the Triton kernel go to ``torch``, with one warning per process.

    Raises:
        ValueError: unknown backend, or one that cannot run on such a tensor.
    """
    check_backend(backend)
    if backend == "auto":
        if tensor.device.type == "cpu":
            return "cpu"
        usable = tensor.is_cuda and tensor.dtype != torch.float64 and TRITON_IS_INSTALLED
        backend = "triton" if usable and kernel_problem(tensor.device) is None else "torch"
    if backend == "cpu" and tensor.device.type != "cpu":
        raise ValueError(f'backend "cpu" needs a CPU tensor, got one on {tensor.device}')
    if backend != "triton":
        return backend
    if not TRITON_IS_INSTALLED:
        raise ValueError('backend "triton" needs the package triton')
    if not (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ValueError(f'backend "triton" needs a CUDA tensor or TRITON_INTERPRET=1, got one on {tensor.device}')
    if tensor.dtype == torch.float64:
        raise ValueError('backend "triton" computes in float32; take "torch" for float64')
    if pixels > MAX_TRITON_PIXELS:
        _warn_of_large_maps()
        return "torch"
    return "triton"


@functools.cache  # said once per process
def _warn_of_large_maps() -> None:
    warnings.warn(f"spatial entropy: maps of more than {MAX_TRITON_PIXELS} pixels take the torch backend", stacklevel=2)


def find_backend_problem(backend: str, device: torch.device) -> str | None:
    """What keeps the fastest implementation that ``backend`` allows from running on ``device``; None if nothing does.

    Launches the kernels, once per process, where they would be used. With ``"auto"`` the slower ``torch`` takes over.
    """
    check_backend(backend)
    if backend == "cpu" and device.type != "cpu":
        return "it computes on CPUs only"
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "its kernels need a GPU"
    if backend not in ("auto", "triton") or device.type != "cuda":
        return None
    return kernel_problem(device) if TRITON_IS_INSTALLED else "the package triton is not installed"


def working_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, float32 for every other type."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
