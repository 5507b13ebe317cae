"""Stochastic depth whose masks are functions of the sample, so that they do not depend on who computes them.

Stochastic depth (Huang et al., https://arxiv.org/abs/1603.09382) drops the residual branch of a block for single samples
of a batch, and scales it by 1 / (1 - rate) for the others, as timm's ``DropPath`` does. Here the draw for (sample, branch)
is a hash of the seed and of the sample's keys: one process and many, any micro-batch, a recomputed activation and a
resumed run drop the same branches.

Dropped samples are computed and multiplied by 0, or not computed at all (as DINOv2 does, Oquab et al.,
https://arxiv.org/abs/2304.07193, section 5). For that a block must be given the same number of samples every time, the
rounded share that it keeps; of the micro-batch those with the highest draws. So what is dropped of a sample also depends
on the others in its micro-batch, and a sample is dropped from the whole block, as Huang et al. do.

The scales of all branches are drawn once a forward pass, outside of the blocks. A block only picks its row, by an index
that is a buffer: no number of a block is a constant of its code, so that ``torch.compile`` makes one graph for all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

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
        partial: indices of blocks that compute only the samples they keep, by ``compute``; the others are masked.
    """

    rates: Tensor
    branches: Tensor

    def __init__(
        self, blocks: nn.Sequential | nn.ModuleList, rate: float, seed: int, partial: Collection[int] = ()
    ) -> None:
        super().__init__()
        self.seed = seed
        self.scales = Scales()
        self.partial = frozenset(partial)
        self._block_rates = [rate * block / max(len(blocks) - 1, 1) for block in range(len(blocks))]
        self._order: Tensor | None = None  # of each block (columns): the samples, those that are kept longest first
        # Integers, which a cast of the model to bfloat16 leaves alone.
        rates = torch.linspace(0, rate, len(blocks), dtype=torch.float64).repeat_interleave(2)
        self.register_buffer("rates", (rates / _RATE_UNIT).round().long(), persistent=False)
        self.register_buffer("branches", torch.arange(2 * len(blocks)), persistent=False)
        for index, block in enumerate(blocks):
            for part in (0, 1):
                name = f"drop_path{part + 1}"
                if hasattr(block, name):  # the method's last block has no first one
                    kept = nn.Identity() if index in self.partial else KeyedDropPath(self.scales, 2 * index + part)
                    setattr(block, name, kept)

    def kept(self, block: int, batch: int) -> int:
        """How many of ``batch`` samples block number ``block`` computes in training."""
        return max(1, round(batch * (1 - self._block_rates[block]))) if block in self.partial else batch

    def compute(self, index: int, block: Callable[..., Tensor], x: Tensor, *further: Any) -> Tensor:
        """What a partial block makes of ``x`` (B, ...) in training; ``further`` is what it takes beside, for all samples.

        ``B / kept`` times the block's residual is added where it is computed, and nothing elsewhere.
        """
        count = self.kept(index, len(x))
        if count == len(x):
            return block(x, *further)
        assert self._order is not None, "DropPaths.draw comes before a forward pass in training"
        chosen = self._order[:count, index]
        part = x.index_select(0, chosen)
        # Compiled blocks get another number of samples each: one graph for all, and not one for every number.
        torch._dynamo.maybe_mark_dynamic(part, 0)
        return x.index_copy(0, chosen, torch.lerp(part, block(part, *further), len(x) / count))

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
        if self.partial:
            self._order = uniform[:, ::2].argsort(dim=0, descending=True, stable=True)  # B blocks
