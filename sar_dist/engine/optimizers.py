"""The optimizers that a run may name.

ZeRO flattens the parameters of a group and gives each process a slice. An optimizer must therefore be elementwise: what
it does to a number may depend on that number's gradient and state, not on the tensor that it was part of. LAMB, LARS, MARS
and factored optimizers look at whole tensors, and would compute something else without a word; so would the options
``caution`` and ``clipping_threshold`` of timm's elementwise ones, which are therefore not offered. Muon looks at whole
matrices too, and puts them together itself.
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

import timm.optim
import torch
from pydantic import Field, field_validator

from sar_dist.config import OptimSettings, apply_overrides
from sar_dist.engine.muon import Muon
from sar_dist.engine.optimizer import STATE_BYTES, AdamW, Optimizer
from sar_dist.errors import UserError
from sar_dist.extensions import import_object


def _decays(*values: float) -> Any:
    return Field(values, description="decays of the moments, each 0 to 1")


class _TimmOptimizer(Optimizer):
    """One of ``timm.optim``."""

    @field_validator("betas", check_fields=False)
    @classmethod
    def _are_decays(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"{value} are no decays: 0 <= beta < 1")
        return value


class NAdamW(_TimmOptimizer):
    """AdamW with Nesterov momentum (Dozat 2016; as in table 1 of https://arxiv.org/abs/1910.05446), timm's."""

    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    counts_steps: ClassVar[bool] = True

    betas: tuple[float, float] = _decays(0.9, 0.999)
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return timm.optim.NAdamW(groups, lr=lr, betas=self.betas, eps=self.eps)

    @property
    def update_bytes_per_parameter(self) -> int:
        return 3 * STATE_BYTES


class Lion(_TimmOptimizer):
    """The sign of an interpolated momentum (Chen et al., https://arxiv.org/abs/2302.06675), timm's."""

    moments: ClassVar[tuple[str, ...]] = ("exp_avg",)

    betas: tuple[float, float] = _decays(0.9, 0.99)

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return timm.optim.Lion(groups, lr=lr, betas=self.betas)

    @property
    def update_bytes_per_parameter(self) -> int:
        return STATE_BYTES


class Adan(_TimmOptimizer):
    """Adaptive Nesterov momentum (Xie et al., https://arxiv.org/abs/2208.06677, algorithm 1), timm's."""

    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad")
    counts_steps: ClassVar[bool] = True

    betas: tuple[float, float, float] = _decays(0.98, 0.92, 0.99)
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return _CountingAdan(groups, lr=lr, betas=self.betas, eps=self.eps)

    @property
    def update_bytes_per_parameter(self) -> int:
        return 2 * STATE_BYTES


class _CountingAdan(timm.optim.Adan):
    """timm's counts steps for each group; here each parameter counts its own in its state, where checkpoints look.

    Under ZeRO-3 a group may be updated in pieces, by several calls for one step, and is empty in others' turns.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            states = [
                self.state[parameter] for parameter in group["params"] if self.state[parameter]
            ]  # ZeRO makes empty ones
            group["step"] = int(states[0]["step"]) if states else 0
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if self.state[parameter]:
                    self.state[parameter]["step"] = torch.tensor(float(group["step"]))
        return loss


class Adopt(_TimmOptimizer):
    """Adam that normalises by the second moment before the newest gradient (https://arxiv.org/abs/2411.02853), timm's.

    Its weight decay is decoupled, as AdamW's. Its first step only fills the second moment.
    """

    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    counts_steps: ClassVar[bool] = True

    betas: tuple[float, float] = _decays(0.9, 0.9999)
    eps: float = Field(1e-6, gt=0, description="least value of the root of the second moment")

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return _SavedAdopt(groups, lr=lr, betas=self.betas, eps=self.eps, decoupled=True)

    @property
    def update_bytes_per_parameter(self) -> int:
        return 2 * STATE_BYTES


class _SavedAdopt(timm.optim.Adopt):
    """timm's takes a parameter's first step for a later one if it has a state already, as after a save before any step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state and self.state[parameter].get("step") == 0:
                    self.state[parameter].clear()
        return super().step(closure)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": AdamW,
    "nadamw": NAdamW,
    "lion": Lion,
    "adan": Adan,
    "adopt": Adopt,
    "muon": Muon,
}

# Why each of these would compute something else on the slices of flattened parameters that ZeRO gives it.
_LAYER_WISE = {
    **dict.fromkeys(
        ("lamb", "nvlamb", "lambc", "lars", "larc", "nlars", "nlarc"), "scales each tensor's update by its norm"
    ),
    **dict.fromkeys(
        ("adafactor", "adafactorbv"), "keeps sums of each matrix's rows and columns, and the norm of its update"
    ),
    "mars": "clips each tensor's corrected gradient to norm 1, and treats vectors unlike matrices",
}


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
    if reason := _LAYER_WISE.get(name.lower()):
        raise UserError(
            f"optim.name={name}: a layer-wise optimizer, which {reason}, cannot run on tensors that ZeRO flattens and cuts; "
            f"use {', '.join(OPTIMIZERS)}"
        )
    if name not in OPTIMIZERS:
        nearest = difflib.get_close_matches(name, OPTIMIZERS, n=3, cutoff=0.3) or sorted(OPTIMIZERS)
        raise UserError(
            f"optim.name={name}: no such optimizer; did you mean {' or '.join(nearest)}? One of your own is my_module:MyOptimizer"
        )
    return OPTIMIZERS[name]
