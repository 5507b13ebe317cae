"""Exponential moving average of the weights, kept shard by shard: no communication, 4 P / W bytes on each process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sar_dist.engine.protocol import Engine
from sar_dist.engine.shards import flat_shards, publish_shards

_SWAP_ELEMENTS = 1 << 24  # exchanged at a time, so that a swap needs little memory of its own


class ExponentialMovingAverage:
    """Average of a DeepSpeed engine's weights over optimizer steps.

    After update t (from 1): ``average += (1 - d) * (weights - average)`` with ``d = min(decay, (1 + t) / (10 + t))``,
    so that a short run's average is not dominated by the initial weights (the warm-up of TensorFlow's ExponentialMovingAverage).

    Args:
        engine: the DeepSpeed engine; its float32 shards are averaged where they are.
        decay: d in the limit, such as 0.9999.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        self.engine = engine
        self.decay = decay
        self.updates = 0
        self.average = [shard.detach().clone() for shard in flat_shards(engine)]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step; a skipped step changes nothing."""
        if not self.engine.was_step_applied():
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, flat_shards(self.engine), 1.0 - decay)

    @contextmanager
    def as_weights(self) -> Iterator[None]:
        """Run the body with the averaged weights in the engine's model; the live ones come back bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, shard in zip(self.average, flat_shards(self.engine), strict=True):
            for part, live in zip(average.split(_SWAP_ELEMENTS), shard.data.split(_SWAP_ELEMENTS), strict=True):
                held = live.clone()
                live.copy_(part)
                part.copy_(held)
        publish_shards(self.engine)
