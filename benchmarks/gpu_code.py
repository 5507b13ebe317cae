"""What torch.compile would make of a function for an H100, on a machine without one: kernels, and bytes they move.

Inductor decides what becomes one kernel from shapes, types and the properties of the device. Here it is told those of an
H100, and its work is taken before anything is loaded. Bytes are Inductor's own count: what each kernel reads and writes,
a buffer that is read at computed places in full. This reaches into PyTorch where it promises nothing to others.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import metrics
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _triton

DEVICE = torch.device("cuda:0")
H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    total_memory=80 << 30,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


@contextmanager
def as_on_an_h100() -> Iterator[None]:
    """Let Inductor believe in the device."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    believed = types.SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
    )
    answers = {
        (CudaInterface, "get_device_properties"): H100,
        (CudaInterface.Worker, "get_device_properties"): H100,
        (CudaInterface, "get_compute_capability"): 90,
        (CudaInterface, "is_available"): True,
        (CudaInterface, "current_device"): 0,
        (CudaInterface, "device_count"): 1,
        (torch.cuda, "get_device_properties"): H100,
        (torch.cuda, "get_device_capability"): (9, 0),
        (torch.cuda, "is_available"): True,
        (torch.cuda, "current_device"): 0,
    }
    with ExitStack() as stack:
        for (owner, name), answer in answers.items():
            stack.enter_context(mock.patch.object(owner, name, return_value=answer))
        _triton.has_triton.cache_clear()
        driver.set_active(believed)
        try:
            yield
        finally:
            driver.set_active(None)
            _triton.has_triton.cache_clear()


def count_kernels(function: Callable[..., Any], *arguments: Tensor) -> tuple[int, float]:
    """Kernels of the compiled function, and the bytes that they read and write together, for such arguments on an H100."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        inputs = [torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE) for tensor in arguments]
        module = make_fx(function, decomposition_table=select_decomp_table())(*inputs)
    metrics.reset()
    with as_on_an_h100():
        graph = GraphLowering(module, shape_env=mode.shape_env)
        with V.set_graph_handler(graph), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
            graph.run(*inputs)
            graph.codegen()
            moved = graph.count_bytes()[0]
    return metrics.generated_kernel_count, float(moved)
