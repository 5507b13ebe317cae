"""Exact validation: every image of the validation set counts once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from sar_dist import distributed
from sar_dist.data import ValidationLoader
from sar_dist.training.task import ClassificationTask
from sar_dist.training.validation_details import ValidationDetails


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    task: ClassificationTask,
    loader: ValidationLoader,
    details: ValidationDetails | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Score ``model`` on the whole validation set. Call on every process.

    Args:
        model: in any mode, which it has again afterwards.
        task, loader: how batches are made and scored.
        details: takes in what the metrics do not say.
        between_batches: called after every batch; what it raises ends the validation.

    Returns:
        ``top1`` and ``top5`` in percent of all images (one that cannot be decoded counts as wrong), ``loss_cls``,
        ``images``, ``bad_images``, and the means over the decodable images of what the terms measure, such as ``entropy``
        and ``components``, with those of each head as ``entropy_block11_head3`` where a map has a value of its own.

    Raises:
        RuntimeError: the number of scored images is not the manifest's. The result would not be comparable.
    """
    was_training = model.training
    model.eval()
    sums = MaskedSums()
    tapped: list[int] = model.tapped  # type: ignore[assignment]
    try:
        for batch in loader.iterate():
            output = task.predict(model, batch)
            label, valid, bad = (batch[name].to(task.device, non_blocking=True) for name in ("label", "valid", "bad"))
            logits, measures = output["logits"].float(), task.per_sample(output)
            scored = valid & ~bad
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # b 5
            sums.add("bad_images", bad, valid)
            scores = classification_scores(logits, best, label, valid, scored)
            for name, (values, mask) in scores.items():
                sums.add(name, values, mask)
            for name, values in measures.items():
                sums.add(name, values, scored)
            if details is not None:
                losses, _ = scores["loss_cls"]
                samples = batch["sample"].to(task.device, non_blocking=True)
                details.add(label, best[:, 0], scored, measures, losses=losses, samples=samples)
            between_batches()
    finally:
        model.train(was_training)
    reduced = sums.reduce()
    unreadable = reduced.pop("bad_images")
    if unreadable.count != loader.total:
        raise RuntimeError(f"validation scored {unreadable.count:.0f} images, the manifest has {loader.total}")
    return {**means(reduced, tapped), "images": unreadable.count, "bad_images": unreadable.sums[0]}


def classification_scores(
    logits: Tensor, best: Tensor, label: Tensor, valid: Tensor, scored: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Each metric's value of every image, and the images over which it is averaged.

    Args:
        logits: (b, C) float32.
        best: (b, 5) the most probable classes, fewer where the model has fewer.
        label: (b,) int64.
        valid: (b,) bool, False for what fills the last batch up.
        scored: (b,) bool, False also for an image that cannot be decoded.
    """
    hits = (best == label[:, None]) & scored[:, None]
    losses = functional.cross_entropy(logits, label.clamp(0, logits.shape[1] - 1), reduction="none")
    return {
        "top1": (100 * hits[:, 0], valid),
        "top5": (100 * hits.sum(dim=1), valid),
        "loss_cls": (losses, scored),
    }


@dataclass(frozen=True)
class Reduced:
    """A quantity over all processes: number of images, and the sums of their values (..., flattened) of a shape."""

    count: float
    sums: list[float]
    shape: tuple[int, ...]


class MaskedSums:
    """Sums over images by name, in float64 on their device; one reduction over the processes at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # each 1 + values of an image: number of images, sums
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Add the values (b, ...) of the images for which the mask (b,) is True."""
        missing = rearrange(~mask, "b -> b" + " 1" * (values.ndim - 1))
        kept = values.double().masked_fill(missing, 0)
        part = torch.cat([mask.sum().double()[None], kept.sum(dim=0).flatten()])
        self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._shapes[name] = tuple(values.shape[1:])

    def reduce(self) -> dict[str, Reduced]:
        """The sums over all processes, which have added under the same names. Call on every process."""
        assert self._sums, "a validation loader has at least one batch on every process"
        total = distributed.all_reduce_sum(torch.cat(list(self._sums.values())))
        parts = total.split([len(part) for part in self._sums.values()])
        return {
            name: Reduced(count, sums, self._shapes[name])
            for name, (count, *sums) in zip(self._sums, (part.tolist() for part in parts), strict=True)
        }


def means(reduced: Mapping[str, Reduced], tapped: list[int]) -> dict[str, float]:
    """The mean under each name; of values for each head of the ``tapped`` blocks also each head's own."""
    found: dict[str, float] = {}
    by_head: dict[str, float] = {}
    for name, quantity in reduced.items():
        images = max(1.0, quantity.count)
        found[name] = sum(quantity.sums) / images / len(quantity.sums)
        if quantity.shape:
            places = (f"block{block}_head{head}" for block in tapped for head in range(quantity.shape[1]))
            by_head |= {f"{name}_{place}": value / images for place, value in zip(places, quantity.sums, strict=True)}
    return {**found, **by_head}
