"""Muon for the matrices of the blocks, AdamW for all else, under every ZeRO stage.

DeepSpeed has a Muon of its own, which is not used: but for its BF16_Optimizer it orthogonalises before it measures and
clips the gradient's norm (docs/optimization.md). Here ZeRO has done both when the optimizer is called; the momentum is
elementwise and lies in flat slices as any other optimizer's state; and the matrices are put together for the one operation that
needs them whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor

from sar_dist.engine.optimizer import STATE_BYTES, AdamW
from sar_dist.engine.protocol import Engine
from sar_dist.engine.shards import flat_shards
from sar_dist.engine.whole_matrices import WholeMatrices, whole_matrices
from sar_dist.models import TimmViT, block_matrices

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as in the source and in torch
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Muon(AdamW):
    """Orthogonalised momentum for the matrices of the blocks (https://kellerjordan.github.io/posts/muon/), AdamW for all else.

    Of a matrix's momentum M, five steps of a Newton-Schulz iteration make about U V^T of M = U S V^T. Matrices are the
    weights of linear layers in blocks; embeddings, tokens, classifier, norms and biases are AdamW's, with ``betas``,
    ``eps`` and ``fused``.
    """

    moments: ClassVar[tuple[str, ...]] = ("momentum", *AdamW.moments)

    momentum: float = Field(0.95, ge=0, lt=1, description="decay of the matrices' average gradient")
    nesterov: bool = Field(True, description="orthogonalise the average as it will be after one more such gradient")
    adjust_lr: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="a matrix's rate, as a multiple of optim.lr: 0.2 sqrt(max(rows, columns)), by which an update is as large as "
        "AdamW's (arXiv:2502.16982), or sqrt(max(1, rows / columns))",
    )
    lr_factor: float = Field(
        1.0, gt=0, le=1e6, description="a further factor of the matrices' rate; not of their decay"
    )
    iterations: int = Field(5, ge=1, le=100, description="steps of the Newton-Schulz iteration")
    iterate_in: Literal["bfloat16", "float32"] = Field("bfloat16", description="precision of the iteration")

    def arranged(self, groups: list[dict[str, Any]], vit: TimmViT) -> list[dict[str, Any]]:
        """Each group's matrices of blocks apart from its other parameters."""
        names = {id(matrix): name for name, matrix in block_matrices(vit).items()}
        apart = []
        for group in groups:
            for chosen in (True, False):
                parameters = [p for p in group["params"] if (id(p) in names) is chosen]
                if parameters:
                    shapes = {names[id(p)]: tuple(p.shape) for p in parameters} if chosen else None
                    apart.append({**group, "params": parameters, "matrices": shapes})
        return apart

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return MuonWithAdamW(groups, lr, self)

    def connect(self, optimizer: torch.optim.Optimizer, engine: Engine) -> None:
        assert isinstance(optimizer, MuonWithAdamW)
        shapes = {name: shape for group in optimizer.param_groups for name, shape in (group["matrices"] or {}).items()}
        optimizer.whole = dict(zip(flat_shards(engine), whole_matrices(engine, shapes), strict=True))

    def new_state(self, shard: Tensor, group: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        of_matrices = group is not None and group["matrices"] is not None
        kept = ("momentum",) if of_matrices else AdamW.moments
        device = "cpu" if of_matrices else self.step_device(shard)
        step = torch.zeros((), dtype=torch.float32, device=device)
        return {"step": step} | {moment: torch.zeros_like(shard.data) for moment in kept}

    def held_bytes(self, parameters: float, matrices: float) -> float:
        return STATE_BYTES * (2 * matrices + 3 * (parameters - matrices))

    def update_bytes(self, parameters: float, matrices: float, *, scattered: bool) -> float:
        """The matrices' updates, and where they are exchanged what is sent and what arrives."""
        return STATE_BYTES * (3 if scattered else 1) * matrices

    def exchanged_bytes(self, matrices: float) -> float:
        """There and back."""
        return 2 * STATE_BYTES * matrices


class MuonWithAdamW(torch.optim.AdamW):
    """torch's AdamW that treats groups with ``matrices`` by Muon.

    Such a group's parameters are whole matrices, or flat pieces of several as ZeRO makes them; then ``whole`` says where
    the matrices are.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, settings: Muon) -> None:
        super().__init__(groups, lr=lr, betas=settings.betas, eps=settings.eps, fused=settings.fused)
        self.muon = settings
        self.whole: dict[Tensor, WholeMatrices] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        self.param_groups = [group for group in groups if group["matrices"] is None]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"] is not None:
                for parameter in group["params"]:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        state, settings = self.state[parameter], self.muon
        if not state:
            state.update(settings.new_state(parameter, group))
        # Without a gradient too: others may hold the rest of the matrix, and wait for this process's piece.
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - settings.momentum)
        update = gradient.lerp(momentum, settings.momentum) if settings.nesterov else momentum.clone()
        if parameter in self.whole:
            self.whole[parameter].apply(update, self._orthogonalised)
        else:
            update = self._orthogonalised(update)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * settings.lr_factor)

    def _orthogonalised(self, matrix: Tensor) -> Tensor:
        """About U V^T of the matrix U S V^T, times what its rate is adjusted by."""
        settings = self.muon
        made = zeropower_via_newtonschulz(
            matrix, settings.iterations, [_COEFFICIENTS], dtype=_DTYPES[settings.iterate_in]
        )
        return made.to(matrix.dtype) * get_lr_scale(matrix.shape, settings.adjust_lr)
