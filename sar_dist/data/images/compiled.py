"""A function of tensors that is compiled where it is used often, and runs as it is where the compiler fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.fx.experimental import _config

from sar_dist.errors import described
from sar_dist.output import warn


class Compiled:
    """Compiles ``function`` at its first call, once for any length of the arguments that are named ``lengths``.

    Where ``torch.compile`` fails, which a slim container without a C compiler or a new version can bring about, this is
    said once, and the function runs as it is: it gives the same, in more kernels.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._run: Callable[..., Any] = torch.compile(function)

    def __call__(self, *arguments: Any, lengths: Sequence[Tensor] = ()) -> Any:
        """The function's result; the first dimension of each of ``lengths``, which are arguments too, is at least 2."""
        for tensor in lengths:
            torch._dynamo.mark_dynamic(tensor, 0)
        try:
            # Else two numbers that happen to be equal at the first call have to be equal ever after.
            with _config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                return self._run(*arguments)
        except TorchDynamoException as error:
            name = getattr(self._function, "__name__", "a function")
            reason = described(error, 200)
            warn(f"warning: {name} of the device augmentation cannot be compiled and runs slower as it is: {reason}")
            self._run = self._function
            return self._function(*arguments)
