"""The optimizers that a run may name: settings that build a ``torch.optim.Optimizer``, and say what it holds.

ZeRO flattens the parameters of a group and gives each process a slice. An optimizer must therefore be elementwise: what
it does to a number may depend on that number's gradient and state, not on the tensor that it was part of. LAMB, LARS and
factored optimizers look at whole tensors, and would compute something else without a word.
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

import torch
from pydantic import Field

from sar_dist.config import OptimSettings, Settings, apply_overrides
from sar_dist.errors import UserError
from sar_dist.extensions import import_object

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

    def new_state(self, shard: torch.Tensor) -> dict[str, torch.Tensor]:
        """The state of a flat ``shard`` before its first step."""
        step = (
            {"step": torch.zeros((), dtype=torch.float32, device=self.step_device(shard))} if self.counts_steps else {}
        )
        return step | {moment: torch.zeros_like(shard.data) for moment in self.moments}

    def step_device(self, shard: torch.Tensor) -> torch.device | str:
        """Where the optimizer keeps its ``step``."""
        return "cpu"

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of the float32 weight and of its moments, which one process holds for each parameter of its share."""
        return STATE_BYTES * (1 + len(self.moments))


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


OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw": AdamW}


def optimizer_of(optim: OptimSettings) -> Optimizer:
    """The optimizer that ``optim.name`` and ``optim.options`` describe; AdamW's settings are also keys of ``optim``.

    Raises:
        UserError: there is no such optimizer, or its options do not fit.
    """
    kind = _class_of(optim.name)
    if kind is AdamW and optim.options:
        raise UserError(f"optim.options={optim.options}: adamw is set by optim.betas, optim.eps and optim.fused")
    adamw = {"betas": optim.betas, "eps": optim.eps, "fused": optim.fused}
    if kind is not AdamW and adamw != AdamW().model_dump():
        raise UserError(f"optim.betas, optim.eps and optim.fused are adamw's; set {optim.name} by optim.options")
    common = adamw if kind is AdamW else {}
    try:
        return apply_overrides(kind, (), {**common, **optim.options})
    except UserError as error:
        raise UserError(f"optim.options of {optim.name}: {error}") from error


def _class_of(name: str) -> type[Optimizer]:
    if ":" in name:
        kind = import_object(name, "optim.name")
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
            raise UserError(f"optim.name={name}: it is no subclass of sar_dist.engine.Optimizer")
        if kind.build is Optimizer.build:
            raise UserError(f"optim.name={name}: it has no build(groups, lr), which makes the torch.optim.Optimizer")
        return kind
    if name.lower() in ("lamb", "lars", "adafactor", "nvlamb"):
        raise UserError(
            f"optim.name={name}: a layer-wise optimizer looks at whole tensors, which ZeRO flattens and cuts; use adamw"
        )
    if name not in OPTIMIZERS:
        nearest = difflib.get_close_matches(name, OPTIMIZERS, n=3, cutoff=0.3) or sorted(OPTIMIZERS)
        raise UserError(
            f"optim.name={name}: no such optimizer; did you mean {' or '.join(nearest)}? One of your own is my_module:MyOptimizer"
        )
    return OPTIMIZERS[name]
