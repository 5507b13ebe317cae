"""What every optimizer of a run has: settings that build a ``torch.optim.Optimizer`` and say what it holds; and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from sar_dist.config import Settings
from sar_dist.engine.protocol import Engine
from sar_dist.models import TimmViT

STATE_BYTES = 4
"""A float32 number: the optimizer's copy of a weight, and each of its moments, in every precision."""


class Optimizer(Settings):
    """Base of an optimizer's settings. An elementwise optimizer of your own is a subclass in a file of yours.

    Class attributes:
        moments: names of the state tensors that are shaped like the parameters; checkpoints keep them under these names.
        counts_steps: the state also has a scalar ``step``.
    """

    moments: ClassVar[tuple[str, ...]] = ()
    counts_steps: ClassVar[bool] = False

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimizer of parameter ``groups``, each with its own ``lr`` and ``weight_decay``; ``lr`` is the peak rate."""
        raise NotImplementedError

    def arranged(self, groups: list[dict[str, Any]], vit: TimmViT) -> list[dict[str, Any]]:
        """The parameter groups that ``build`` is to get, from those by weight decay and depth."""
        return groups

    def connect(self, optimizer: torch.optim.Optimizer, engine: Engine) -> None:
        """What there is to do on every process when ZeRO has put flat pieces in the place of ``optimizer``'s parameters."""

    def new_state(self, shard: torch.Tensor, group: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor]:
        """The state of a flat ``shard`` of a parameter ``group`` before its first step."""
        step = (
            {"step": torch.zeros((), dtype=torch.float32, device=self.step_device(shard))} if self.counts_steps else {}
        )
        return step | {moment: torch.zeros_like(shard.data) for moment in self.moments}

    def step_device(self, shard: torch.Tensor) -> torch.device | str:
        """Where the optimizer keeps its ``step``."""
        return "cpu"

    @property
    def update_bytes_per_parameter(self) -> int:
        """Bytes of temporary tensors during an update, for each parameter of a process's share."""
        return 0

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of the float32 weight and of its moments, which one process holds for each parameter of its share."""
        return STATE_BYTES * (1 + len(self.moments))

    def held_bytes(self, parameters: float, matrices: float) -> float:
        """Bytes of weights and moments of so many parameters, so many of which are matrices of the blocks."""
        return self.bytes_per_parameter * parameters

    def update_bytes(self, parameters: float, matrices: float, *, scattered: bool) -> float:
        """Bytes of temporary tensors during the update of a share; ``scattered``: no process has a whole matrix."""
        return self.update_bytes_per_parameter * parameters

    def exchanged_bytes(self, matrices: float) -> float:
        """Bytes that a process puts through all-to-all for its share of scattered ``matrices`` in an update."""
        return 0.0


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101), torch's own."""

    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    counts_steps: ClassVar[bool] = True

    betas: tuple[float, float] = Field((0.9, 0.999), description="decays of the moments")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    fused: bool = Field(True, description="update all parameters of a shard in one kernel, on GPU and CPU")

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=self.fused)

    def step_device(self, shard: torch.Tensor) -> torch.device | str:
        return shard.device if self.fused else "cpu"

    @property
    def update_bytes_per_parameter(self) -> int:
        return 0 if self.fused else STATE_BYTES
