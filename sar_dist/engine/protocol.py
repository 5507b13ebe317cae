"""What the rest of the project asks of an engine. DeepSpeed's fits; so does a stand-in of a test."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sar_dist.models import TappedVisionTransformer


class Scheduler(Protocol):
    """The learning-rate schedule, as far as a checkpoint knows it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Engine(Protocol):
    """A model that is trained: DeepSpeed's engine under any ZeRO stage.

    Attributes:
        module: the model.
        optimizer: ZeRO's optimizer around the elementwise one; only ``sar_dist.engine.shards`` looks into it.
        lr_scheduler: the schedule.
        device: where the model is.
        global_rank: this process among all.
        skipped_steps: updates that were left out because a gradient was not finite.
    """

    module: TappedVisionTransformer
    optimizer: Any
    lr_scheduler: Scheduler
    global_rank: int
    skipped_steps: int

    @property
    def device(self) -> torch.device: ...

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The forward pass of ``module``, in the engine's precision."""

    def backward(self, loss: Tensor) -> Any:
        """Add the gradient of a micro-batch's ``loss``."""

    def step(self) -> Any:
        """Count a micro-batch; after the last one of a global batch, update the weights and the learning rate."""

    def was_step_applied(self) -> bool:
        """Whether the last update was made, and not skipped."""

    def get_lr(self) -> list[float]:
        """Learning rate of each parameter group."""

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last update's gradient over all processes, before clipping."""

    def zero_optimization_stage(self) -> int:
        """1, 2 or 3."""
