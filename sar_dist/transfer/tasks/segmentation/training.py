"""Training of a head (and backbone) on random crops: any number of processes, killed at any time, the same result.

Everything random is a function of (seed, position in training): the order of samples, their augmentation, dropped paths
and channels. The loss is a mean over the labelled pixels of the global batch, batch norms see the global batch, so how
many processes share it changes rounding only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.keys import keyed_permutation
from sar_dist.randomness import seed_generators
from sar_dist.transfer.tasks.segmentation.heads import AUXILIARY_WEIGHT
from sar_dist.transfer.tasks.segmentation.model import SegmentationModel
from sar_dist.transfer.tasks.segmentation.samples import VOID, SegmentationSamples
from sar_dist.transfer.tasks.segmentation.settings import SegmentationRecipe
from sar_dist.transfer.tasks.segmentation.transforms import TrainTransform

Crop = tuple[int, Tensor, Tensor, int, int]

_MODEL = "model/"
_ADAM = "adam/"


@dataclass(frozen=True)
class TrainingJob:
    """What training needs beside model, data and recipe.

    Attributes:
        seed: of order and augmentation.
        workers: data-loader processes.
        device: of the model.
        normalise: uint8 (B, 3, S, S) to float32 on the device.
        autocast: makes the context of forward passes.
    """

    seed: int
    workers: int
    device: torch.device
    normalise: Callable[[Tensor], Tensor]
    autocast: Callable[[], contextlib.AbstractContextManager[object]]


class SegmentationTraining:
    """Training of ``model`` in place, as ``transfer.train_resumably`` takes it.

    Args:
        model: to train.
        data: with its crops.
        usable: numbers of the samples to train on.
        job: how, and where.
    """

    def __init__(
        self, model: SegmentationModel, data: SegmentationSamples, usable: Sequence[int], job: TrainingJob
    ) -> None:
        self._model = model
        self._data = data
        self._usable = usable
        self._job = job
        self._optimizer = torch.optim.AdamW(model.parameter_groups(), lr=model.recipe.lr)
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._module: torch.nn.Module = model
        self._loss = torch.zeros((), device=job.device)

    @property
    def steps(self) -> int:
        return self._model.recipe.iterations

    @property
    def identity(self) -> str:
        return f"segmentation with the head {self._model.recipe.head}"

    def batches(self, first: int) -> Iterable[Sequence[Tensor]]:
        """The crops of this process; the processes share the parameters from here on."""
        self._model.train()
        self._module = _parallel(self._model, self._job.device)
        return _batches(self._data, self._usable, self._model.recipe, self._job, first)

    def step(self, number: int, batch: Sequence[Tensor]) -> None:
        factor = self._model.recipe.learning_rate_factor(number)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._loss = _step(self._module, self._optimizer, batch, self._job)

    def describe(self) -> str:
        return f"loss {self._loss:.4f}"

    def check(self, number: int) -> None:
        if not torch.isfinite(self._loss):
            raise UserError(f"the loss is {float(self._loss)} at step {number}; try a smaller lr")

    def tensors(self) -> Mapping[str, Tensor]:
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        found = {f"{_MODEL}{name}": tensor for name, tensor in self._model.trained_state().items()}
        for parameter, state in self._optimizer.state.items():
            found |= {f"{_ADAM}{key}/{names[id(parameter)]}": value for key, value in state.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._model.load_trained_state(_below(tensors, _MODEL))
        parameters = dict(self._model.named_parameters())
        for path, value in _below(tensors, _ADAM).items():
            key, _, name = path.partition("/")
            # AdamW keeps its step counter on the CPU.
            place = value.device if key == "step" else parameters[name].device
            self._optimizer.state[parameters[name]][key] = value.to(place)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def global_loss(logits: Sequence[Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy per labelled pixel of the global batch, of the main logits plus 0.4 of auxiliary ones.

    Args:
        logits: (b, C, S, S) each, of this process's crops.
        label: int64 (b, S, S), 255 for void.

    Returns:
        The loss whose gradient, averaged over the processes, is the global one; and the global loss, without gradient.
    """
    sums = [functional.cross_entropy(part, label, ignore_index=VOID, reduction="sum") for part in logits]
    total = sums[0] + AUXILIARY_WEIGHT * sum(sums[1:]) if len(sums) > 1 else sums[0]
    shared = distributed.all_reduce_sum(torch.stack([total.detach().double(), (label != VOID).sum().double()]))
    pixels = shared[1].clamp(min=1)
    # The gradients of the processes are averaged, hence the factor.
    return total * distributed.world_size() / pixels.float(), shared[0] / pixels


def _step(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor], job: TrainingJob
) -> Tensor:
    positions, images, labels, heights, widths = (part.to(job.device, non_blocking=True) for part in batch)
    images = zero_padding(job.normalise(images), heights, widths)
    with job.autocast():
        logits = module(images, positions)
    loss, shown = global_loss(logits, labels.long())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return shown


def zero_padding(images: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Normalised images (b, 3, S, S), 0 outside of the upper left ``heights`` x ``widths`` (b,) pixels."""
    places = torch.arange(images.shape[-1], device=images.device)
    rows = places < heights[:, None]  # b S
    columns = places < widths[:, None]
    return images * (rows[:, None, :, None] & columns[:, None, None, :])


def _parallel(model: SegmentationModel, device: torch.device) -> torch.nn.Module:
    if distributed.world_size() == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


class TrainingCrops(Dataset[Crop]):
    """Augmented crops by position in training: (position, uint8 (3, S, S), labels (S, S), height, width without padding).

    Each pass over the samples is a permutation of its own.
    """

    def __init__(self, data: SegmentationSamples, usable: Sequence[int], transform: TrainTransform, seed: int) -> None:
        self._data = data
        self._usable = usable
        self._transform = transform
        self._seed = seed
        self._order: tuple[int, Sequence[int]] = (-1, [])

    def sample_number(self, position: int) -> int:
        """Which sample of the data stands at a position."""
        epoch, place = divmod(position, len(self._usable))
        if self._order[0] != epoch:
            self._order = epoch, keyed_permutation(len(self._usable), self._seed, "segmentation", epoch).tolist()
        return self._usable[self._order[1][place]]

    def __getitem__(self, position: int) -> Crop:
        _, image, label = self._data.read(self.sample_number(position))
        seed_generators(self._seed, position)
        image, label, (height, width) = self._transform(image, label)
        return position, image, label, height, width


class _Positions(Sampler[list[int]]):
    """This process's share of each global batch from iteration ``start`` on."""

    def __init__(self, recipe: SegmentationRecipe, start: int) -> None:
        self._recipe = recipe
        self._start = start

    def __iter__(self) -> Iterator[list[int]]:
        batch = self._recipe.global_batch
        for iteration in range(self._start, self._recipe.iterations):
            share = slice(distributed.rank(), None, distributed.world_size())
            yield list(range(iteration * batch, (iteration + 1) * batch))[share]


def _batches(
    data: SegmentationSamples, usable: Sequence[int], recipe: SegmentationRecipe, job: TrainingJob, start: int
) -> DataLoader[Any]:
    transform = TrainTransform(recipe.crop, recipe.short_side, recipe.long_side)
    return DataLoader(
        TrainingCrops(data, usable, transform, job.seed),
        batch_sampler=_Positions(recipe, start),
        num_workers=job.workers,
        pin_memory=job.device.type == "cuda",
    )
