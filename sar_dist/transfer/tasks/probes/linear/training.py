"""Training of a sweep of linear heads: the loop, its checkpoints and its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, make_folder
from sar_dist.observe import format_duration
from sar_dist.transfer.tasks.probes.linear.batches import FeatureBatches
from sar_dist.transfer.tasks.probes.linear.heads import HeadSweep
from sar_dist.transfer.tasks.probes.linear.recipes import ResolvedRecipe

CHECKPOINT_FILE = "heads.safetensors"
LEAST_SAMPLES = 2  # of a step; batch normalisation has no variance below
_LINE_EVERY_SECONDS = 20.0


def train_heads(
    sweep: HeadSweep,
    stream: FeatureBatches,
    recipe: ResolvedRecipe,
    folder: Path,
    every: int,
    say: Callable[[str], None],
) -> None:
    """Train all heads of ``sweep`` for the recipe's steps, from the checkpoint in ``folder`` where there is one.

    Args:
        sweep: heads as they were made.
        stream: gives the features of each step.
        recipe: length and learning rates.
        folder: of the checkpoint; every process must see it.
        every: steps between checkpoints.
        say: prints progress.

    Raises:
        UserError: the checkpoint is damaged or does not fit, or not every process sees it.
    """
    if distributed.is_main():
        make_folder(folder)
    distributed.barrier()
    file = folder / CHECKPOINT_FILE
    first = load_checkpoint(sweep, file)
    if first:
        say(f"going on after step {first} of {recipe.iterations}")
    progress = _Progress(sweep, recipe.iterations, first, say)
    for step, (tokens, patch_mean, labels) in enumerate(stream.batches(first, recipe.iterations), start=first):
        if len(labels) >= LEAST_SAMPLES:
            losses, hits = sweep.step(tokens, patch_mean, labels, recipe.rate_factor(step))
            progress.add(step + 1, losses, hits, len(labels))
        if (step + 1) % every == 0 or step + 1 == recipe.iterations:
            if distributed.is_main():
                save_checkpoint(sweep, file, step + 1)
            distributed.barrier()


def save_checkpoint(sweep: HeadSweep, file: Path, steps: int) -> None:
    """Write the heads' state after ``steps`` steps, whole or not at all."""
    metadata = {"steps": str(steps), "heads": json.dumps([str(spec) for spec in sweep.specs])}
    tensors = {name: tensor.cpu() for name, tensor in sweep.tensors().items()}
    with atomic_write(file) as stream:
        stream.write(save(tensors, metadata))


def load_checkpoint(sweep: HeadSweep, file: Path) -> int:
    """Restore the heads from ``file`` on every process; the number of steps done, 0 where there is none. Raises UserError."""
    steps, problem = 0, None
    if file.exists():
        try:
            steps = _load(sweep, file)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            problem = f"{file} is damaged or of other heads ({str(error).splitlines()[0]}); remove it and start again"
    seen = distributed.gather_objects((steps, problem))
    for _, other in seen:
        if other is not None:
            raise UserError(other)
    if len({other for other, _ in seen}) > 1:
        raise UserError(f"not every process sees {file}; set --out to a shared file system")
    return steps


def _load(sweep: HeadSweep, file: Path) -> int:
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata() or {}
        if json.loads(metadata["heads"]) != [str(spec) for spec in sweep.specs]:
            raise ValueError("another sweep")
        sweep.load({name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118 - not a dictionary
    return int(metadata["steps"])


class _Progress:
    """Says now and then how the best head is doing, and when training ends. Reads the device only then."""

    def __init__(self, sweep: HeadSweep, total: int, first: int, say: Callable[[str], None]) -> None:
        self._specs = sweep.specs
        self._total = total
        self._first = first
        self._say = say
        self._began = self._said = time.monotonic()
        self._losses = self._hits = torch.zeros(len(sweep.specs), device=sweep.device)
        self._steps = self._images = 0

    def add(self, done: int, losses: Tensor, hits: Tensor, images: int) -> None:
        """Take in a step; ``done`` steps are done."""
        self._losses, self._hits = self._losses + losses, self._hits + hits
        self._steps, self._images = self._steps + 1, self._images + images
        if time.monotonic() - self._said < _LINE_EVERY_SECONDS and done < self._total:
            return
        self._said = time.monotonic()
        best = int(torch.nan_to_num(self._losses, nan=torch.inf).argmin())
        left = (self._said - self._began) / (done - self._first) * (self._total - done)
        self._say(
            f"step {done}/{self._total}  {format_duration(left)} left  loss {self._losses[best] / self._steps:.4f}  "
            f"top-1 {100 * self._hits[best] / self._images:.2f} % on training batches  best head: {self._specs[best]}"
        )
        self._losses, self._hits = torch.zeros_like(self._losses), torch.zeros_like(self._hits)
        self._steps = self._images = 0
