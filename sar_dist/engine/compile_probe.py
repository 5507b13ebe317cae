"""Whether ``torch.compile`` works on a device, found by compiling one operation.

It needs a C++ compiler for the CPU, Triton and a C compiler for a GPU. Slim containers have neither, and say so at the
first step, in a hundred lines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sar_dist.errors import text_of

_LONGEST_MESSAGE = 300


def compile_problem(device: torch.device) -> str | None:
    """Why ``torch.compile`` does not work on ``device``, in one line; None if it does."""
    import torch._inductor.config as inductor  # slow to import

    try:
        # In this process: the data workers are forked later, and should not be beside a pool of compiling processes.
        with inductor.patch(compile_threads=1):
            found = torch.compile(_triple)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - Inductor, Triton and the compilers raise what they like
        return text_of(error)[:_LONGEST_MESSAGE]
    return None if found.tolist() == [3.0] * 8 else f"3 x 1 is {found.tolist()}"


def _triple(x: Tensor) -> Tensor:
    return 2 * x + x
