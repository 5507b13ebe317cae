"""Stochastic depth whose masks are functions of the sample, so that they do not depend on who computes them.

Stochastic depth (Huang et al., https://arxiv.org/abs/1603.09382) drops the residual branch of a block for single samples
of a batch, and scales it by 1 / (1 - rate) for the others, as timm's ``DropPath`` does. Here the draw for (sample, branch)
is a hash of the seed and of the sample's keys: one process and many, any micro-batch, a recomputed activation and a
resumed run drop the same branches.

The scales of all branches are drawn once a forward pass, outside of the blocks. A block only picks its row, by an index
that is a buffer: no number of a block is a constant of its code, so that ``torch.compile`` makes one graph for all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sar_dist.randomness import counter_uniform

_RATE_UNIT = 2.0**-53  # of the stored rates: that of the draws


class Scales:
    """Float32 (branches, B): what each branch is multiplied by for each sample of the current micro-batch."""

    current: Tensor | None = None


class KeyedDropPath(nn.Module):
    """Takes the place of timm's ``DropPath`` at the end of one residual branch.

    Args:
        scales: shared with the ``DropPaths`` that draws them.
        branch: row of the scales.
    """

    branch: Tensor

    def __init__(self, scales: Scales, branch: int) -> None:
        super().__init__()
        self.scales = scales
        self.register_buffer("branch", torch.tensor([branch]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B, ...) with the dropped samples set to 0 and the others scaled up; ``x`` itself in evaluation."""
        if not self.training:
            return x
        assert self.scales.current is not None, "DropPaths.draw comes before a forward pass in training"
        scale = self.scales.current.index_select(0, self.branch)  # 1 B
        return x * scale.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


class DropPaths(nn.Module):
    """Draws the scales of all residual branches of a Vision Transformer, which it equips with ``KeyedDropPath``.

    Args:
        blocks: the transformer's blocks; their ``drop_path1`` and ``drop_path2``, where they have them, are replaced.
        rate: probability to drop a branch of the last block; it rises linearly from 0 at the first one.
        seed: 64-bit seed, see ``randomness.seed_of``.
    """

    rates: Tensor
    branches: Tensor

    def __init__(self, blocks: nn.Sequential | nn.ModuleList, rate: float, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.scales = Scales()
        # Integers, which a cast of the model to bfloat16 leaves alone.
        rates = torch.linspace(0, rate, len(blocks), dtype=torch.float64).repeat_interleave(2)
        self.register_buffer("rates", (rates / _RATE_UNIT).round().long(), persistent=False)
        self.register_buffer("branches", torch.arange(2 * len(blocks)), persistent=False)
        for index, block in enumerate(blocks):
            for part in (0, 1):
                name = f"drop_path{part + 1}"
                if hasattr(block, name):  # the method's last block has no first one
                    setattr(block, name, KeyedDropPath(self.scales, 2 * index + part))

    def draw(self, *keys: Tensor) -> None:
        """Draw the scales of the micro-batch whose samples have these ``keys``, int64 (B,) each."""
        batch, count = len(keys[0]), len(self.rates)
        of_each = [*(key.repeat_interleave(count) for key in keys), self.branches.repeat(batch)]
        self._set(counter_uniform(self.seed, of_each, 1).view(batch, count))

    def draw_at_random(self, batch: int) -> None:
        """Draw the scales of ``batch`` samples from torch's global generator, for loops that have no keys."""
        self._set(torch.rand(batch, len(self.rates), dtype=torch.float64, device=self.rates.device))

    def _set(self, uniform: Tensor) -> None:
        rates = self.rates.double() * _RATE_UNIT
        self.scales.current = ((uniform >= rates) / (1.0 - rates)).float().T  # branches B
