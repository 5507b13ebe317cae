"""The one loop by which tasks train something of their own: killed at any time, it goes on to the same result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sar_dist import distributed
from sar_dist.errors import UserError, in_brief
from sar_dist.files import atomic_write, make_folder
from sar_dist.progress import Progress

Batch = TypeVar("Batch")

_METADATA = "training"


class ResumableTraining(Protocol[Batch]):
    """What is trained. Every process has the same state after every step.

    Attributes:
        steps: length of the training.
        identity: of what is trained; a checkpoint of another one is refused.
    """

    @property
    def steps(self) -> int: ...

    @property
    def identity(self) -> str: ...

    def batches(self, first: int) -> Iterable[Batch]:
        """This process's batches of the steps from ``first`` on, which depend on nothing that was done before."""

    def step(self, number: int, batch: Batch) -> None:
        """Train on the batch of step ``number``."""

    def describe(self) -> str:
        """What is said beside the progress: the only place that may wait for the device."""

    def check(self, number: int) -> None:
        """Raise UserError where the state after step ``number`` is not worth keeping."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Everything that a step changes, by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``tensors`` gave. Raises RuntimeError or KeyError where names or shapes do not fit."""


def train_resumably(training: ResumableTraining[Batch], file: Path, every: int, say: Callable[[str], None]) -> None:
    """Train to the end, from the checkpoint in ``file`` where there is one. Call on every process.

    Args:
        training: what is trained.
        file: the checkpoint, a safetensors file that is replaced at once; every process must see it.
        every: steps between checkpoints.
        say: prints a line on the main process.

    Raises:
        UserError: the checkpoint is damaged, does not fit, cannot be written, or is not seen by every process.
    """
    first = _restore(training, file)
    if first:
        say(f"going on after step {first} of {training.steps}")
    progress = Progress("training", training.steps, "steps", say, done=first, last_line=True)
    for number, batch in enumerate(training.batches(first), start=first):
        training.step(number, batch)
        done = number + 1
        progress.show(done, training.describe)
        if done % every == 0 or done == training.steps:
            training.check(done)
            distributed.main_first(lambda done=done: _write(training, file, done))  # type: ignore[misc]


def _write(training: ResumableTraining[Batch], file: Path, done: int) -> None:
    make_folder(file.parent)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in training.tensors().items()}
    with atomic_write(file) as stream:
        # One entry: several would stand in any order, and the same training would not give the same bytes.
        stream.write(save(tensors, {_METADATA: json.dumps({"steps": done, "identity": training.identity})}))


def _restore(training: ResumableTraining[Batch], file: Path) -> int:
    """The number of steps done, on every process; 0 where there is no checkpoint."""
    steps, problem = 0, None
    if file.exists():
        try:
            steps = _load(training, file)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            reason = in_brief(error)
            problem = f"{file} is damaged or of another training ({reason}); remove it to start again"
    seen = distributed.gather_objects((steps, problem))
    for _, other in seen:
        if other is not None:
            raise UserError(other)
    if len({other for other, _ in seen}) > 1:
        raise UserError(f"not every process sees {file}; set --out to a shared file system")
    return steps


def _load(training: ResumableTraining[Batch], file: Path) -> int:
    with safe_open(file, framework="pt") as content:
        found = json.loads((content.metadata() or {})[_METADATA])
        if found["identity"] != training.identity:
            raise ValueError("something else was trained")
        training.load({name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118 - not a dictionary
    return int(found["steps"])
