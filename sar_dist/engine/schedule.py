"""The length of training and its learning rate: linear warm-up, then the schedule, one value per optimizer step."""

from __future__ import annotations

import math

from sar_dist.config import OptimSettings


def total_steps(optim: OptimSettings, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole schedule."""
    return max(1, round(optim.epochs * steps_per_epoch))


def learning_rate_factor(step: int, optim: OptimSettings, *, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) as a share of the peak rate.

    Rises linearly from ``warmup_lr`` to the peak over ``warmup_epochs``. Then:

    - ``cosine``: half a cosine down to ``min_lr`` at the end (SGDR without restarts, https://arxiv.org/abs/1608.03983);
    - ``linear``: a line down to ``min_lr`` at the end;
    - ``constant``: the peak;
    - ``warmup_stable_decay``: the peak until ``cooldown_epochs`` before the end, then down to ``min_lr`` (MiniCPM,
      https://arxiv.org/abs/2404.06395; 1-sqrt: Hägele et al., https://arxiv.org/abs/2405.18392, section 4).

    All are timm's (``CosineLRScheduler``, ``PolyLRScheduler`` of power 1, ``WSDLRScheduler``, with the warm-up as a prefix).
    """
    total = optim.epochs * steps_per_epoch
    warmup = optim.warmup_epochs * steps_per_epoch
    start, end = optim.warmup_lr / optim.peak_lr, optim.min_lr / optim.peak_lr
    if step < warmup:
        return start + (1.0 - start) * step / warmup
    if optim.schedule == "constant":
        return 1.0
    stable = optim.schedule == "warmup_stable_decay"
    turn = total - optim.descent_epochs * steps_per_epoch if stable else warmup
    progress = min(1.0, max(0.0, step - turn) / max(1.0, total - turn))
    return end + (1.0 - end) * _remaining(progress, optim)


def _remaining(progress: float, optim: OptimSettings) -> float:
    """What is left of the way from the peak to the end, from 1 to 0, at a point of the descent."""
    course = optim.cooldown if optim.schedule == "warmup_stable_decay" else optim.schedule
    if course == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - (math.sqrt(progress) if course == "1-sqrt" else progress)
