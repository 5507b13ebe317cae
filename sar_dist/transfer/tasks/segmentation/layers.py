"""Layers whose result does not depend on how a batch is split among processes, nor on what ran before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sar_dist import distributed
from sar_dist.keys import seed_of
from sar_dist.randomness import counter_uniform


class DropKeys:
    """Where the batch stands in training: the keys of its dropped channels (and paths).

    ``positions``: int64 (B,), number of each crop since the start of training; set before every training pass.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed_of("segmentation dropout", seed)
        self.positions = torch.zeros(0, dtype=torch.int64)


class SampleDrop(nn.Module):
    """Channel dropout whose mask is a function of (seed, position of the crop, layer).

    So two processes drop what one would, and a run that was killed goes on with the same masks.

    Args:
        rate: probability to drop.
        layer: number of this layer among those that share ``keys``.
        keys: shared with the model.
        channels: C of (B, C, h, w).
    """

    def __init__(self, rate: float, layer: int, keys: DropKeys, channels: int) -> None:
        super().__init__()
        self.rate = rate
        self.layer = layer
        self.keys = keys
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with what is dropped set to 0 and the rest scaled up; ``x`` itself in evaluation."""
        if not self.training or self.rate == 0:
            return x
        positions = self.keys.positions
        layer = torch.full_like(positions, self.layer)
        draws = counter_uniform(self.keys.seed, [positions, layer], self.channels)  # B C
        mask = (draws >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * mask[:, :, None, None]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the global batch, on the CPU, where torch's SyncBatchNorm does not work."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), B of this process; all processes must call it."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = distributed.all_reduce_sum(values.new_tensor(float(values.numel() // values.shape[1])))
        mean = _sum_over_processes(values.sum(dim=(0, 2, 3))) / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = _sum_over_processes(centred.square().sum(dim=(0, 2, 3))) / count
        self._update_running(mean.detach(), variance.detach(), count)
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def with_global_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` with batch norms over the global batch, where there is more than one process."""
    if distributed.world_size() == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                assert child.affine
                assert child.track_running_stats
                replacement = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
                replacement.load_state_dict(child.state_dict())
                setattr(parent, name, replacement)
    return module


class _SumOverProcesses(torch.autograd.Function):
    """A sum over the processes; what depends on the sum depends on each of the parts alike, hence the same backward."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return distributed.all_reduce_sum(part.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return distributed.all_reduce_sum(gradients[0].clone())


def _sum_over_processes(part: Tensor) -> Tensor:
    result: Tensor = _SumOverProcesses.apply(part)
    return result
