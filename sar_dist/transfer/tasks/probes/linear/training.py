"""Training of a sweep of linear heads: the loop, its checkpoints and its progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, make_folder
from sar_dist.progress import Progress
from sar_dist.transfer.tasks.probes.linear.batches import FeatureBatches
from sar_dist.transfer.tasks.probes.linear.heads import HeadSweep
from sar_dist.transfer.tasks.probes.linear.recipes import ResolvedRecipe

CHECKPOINT_FILE = "heads.safetensors"
LEAST_SAMPLES = 2  # of a step; batch normalisation has no variance below


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
    best = _BestHead(sweep)
    progress = Progress("training", recipe.iterations, "steps", say, done=first, last_line=True)
    for step, (tokens, patch_mean, labels) in enumerate(stream.batches(first, recipe.iterations), start=first):
        if len(labels) >= LEAST_SAMPLES:
            losses, hits = sweep.step(tokens, patch_mean, labels, recipe.rate_factor(step))
            best.add(losses, hits, len(labels))
            progress.show(step + 1, best.describe)
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


class _BestHead:
    """Loss and accuracy of each head since the last line, and what is said of the best one. Reads the device only then."""

    def __init__(self, sweep: HeadSweep) -> None:
        self._specs = sweep.specs
        self._losses = self._hits = torch.zeros(len(sweep.specs), device=sweep.device)
        self._steps = self._images = 0

    def add(self, losses: Tensor, hits: Tensor, images: int) -> None:
        """Take in a step."""
        self._losses, self._hits = self._losses + losses, self._hits + hits
        self._steps, self._images = self._steps + 1, self._images + images

    def describe(self) -> str:
        """The best head so far; begins anew."""
        best = int(torch.nan_to_num(self._losses, nan=torch.inf).argmin())
        loss, hits = float(self._losses[best]) / self._steps, 100 * float(self._hits[best]) / self._images
        self._losses, self._hits = torch.zeros_like(self._losses), torch.zeros_like(self._hits)
        self._steps = self._images = 0
        return f"loss {loss:.4f}, top-1 {hits:.2f} % on training batches, best head: {self._specs[best]}"
