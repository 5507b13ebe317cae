"""Whether the Triton kernels run on a device, found by running them once.

That triton is installed says little: at a kernel's first launch it builds a small C program, for which slim containers
have neither a compiler nor Python's headers. It is better known at the start than in step 1.
"""

import functools
import math

import torch

# Of the map below: its mean is 2/3, so that the components on the left and on the right have 2/3 and 1/3 of the excess.
_ENTROPY = math.log(3) - 2 / 3 * math.log(2)
_TOLERANCE = 1e-3


@functools.cache
def kernel_problem(device: torch.device) -> str | None:
    """Why the kernels do not run on ``device``, in one line; None if they do. Launched once per process and device."""
    maps = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 1.0]], device=device).view(1, 1, 2, 3)
    try:
        entropy = _launch_all(maps)
    except Exception as error:  # noqa: BLE001 - Triton, LLVM, the compiler and the driver raise what they like
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if abs(entropy - _ENTROPY) > _TOLERANCE:
        return f"the kernel computes {entropy:g} where {_ENTROPY:g} is right"
    return None


def _launch_all(maps: torch.Tensor) -> float:
    from .triton_kernel import launch_key_backward, launch_query_key_forward, launch_spatial_entropy

    entropy, _, _ = launch_spatial_entropy(maps)
    height, width = maps.shape[2:]
    query = torch.ones(1, 1, 16, device=maps.device)
    key = maps.flatten(2)[..., None].expand(1, 1, height * width, 16).contiguous()
    fused, gradient, _, _ = launch_query_key_forward(query, key, height, width)
    launch_key_backward(torch.ones_like(fused), gradient, query, torch.float32)
    return entropy.item()
