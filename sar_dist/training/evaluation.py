"""Exact validation: every image of the validation set counts once, whatever the number of processes."""

from __future__ import annotations

import torch
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
) -> dict[str, float]:
    """Score ``model`` on the whole validation set. Call on every process.

    Args:
        model: in any mode, which it has again afterwards.
        task, loader: how batches are made and scored.
        details: takes in what the metrics do not say.

    Returns:
        ``top1`` and ``top5`` in percent of all images (one that cannot be decoded counts as wrong), ``loss_cls``,
        ``images``, ``bad_images``, and the mean ``entropy`` and ``components`` of the tapped blocks with those of each
        head as ``entropy_block11_head3`` and ``components_block11_head3`` (the means are over the decodable images).

    Raises:
        RuntimeError: the number of scored images is not the manifest's. The result would not be comparable.
    """
    was_training = model.training
    model.eval()
    sums: Tensor | None = None
    tapped: list[int] = model.tapped  # type: ignore[assignment]
    heads = 0
    try:
        for batch in loader.iterate():
            output = task.predict(model, batch)
            entropies, components = task.entropies(output)  # each b blocks heads
            heads = entropies.shape[2]
            label, valid, bad = (batch[name].to(task.device, non_blocking=True) for name in ("label", "valid", "bad"))
            logits = output["logits"].float()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # b 5
            part = _batch_sums(logits, best, label, valid, bad, entropies, components)
            sums = part if sums is None else sums + part
            if details is not None:
                details.add(label, best[:, 0], valid & ~bad, entropies, components)
    finally:
        model.train(was_training)
    assert sums is not None, "a validation loader has at least one batch on every process"
    return _metrics(distributed.all_reduce_sum(sums).tolist(), loader.total, tapped, heads)


def _batch_sums(
    logits: Tensor, best: Tensor, label: Tensor, valid: Tensor, bad: Tensor, entropies: Tensor, components: Tensor
) -> Tensor:
    """Sums over a batch, float64: images, bad, correct, correct in 5, loss, entropy of each map, components."""
    scored = valid & ~bad
    hits = (best == label[:, None]) & scored[:, None]
    losses = functional.cross_entropy(logits, label.clamp(0, logits.shape[1] - 1), reduction="none")
    weights = scored.double()
    return torch.cat(
        [
            torch.stack([valid.sum(), (valid & bad).sum(), hits[:, 0].sum(), hits.sum()]).double(),
            (losses.double() * weights).sum()[None],
            *((maps.double() * weights[:, None, None]).sum(dim=0).flatten() for maps in (entropies, components)),
        ]
    )


def _metrics(sums: list[float], total: int, tapped: list[int], heads: int) -> dict[str, float]:
    images, bad, top1, top5, loss, *maps = sums
    if images != total:
        raise RuntimeError(f"validation scored {images:.0f} images, the manifest has {total}")
    scored = max(1.0, images - bad)
    places = [f"block{block}_head{head}" for block in tapped for head in range(heads)]
    entropies, components = maps[: len(places)], maps[len(places) :]
    named = {f"entropy_{place}": value / scored for place, value in zip(places, entropies, strict=True)}
    named |= {f"components_{place}": value / scored for place, value in zip(places, components, strict=True)}
    return {
        "top1": 100 * top1 / images,
        "top5": 100 * top5 / images,
        "loss_cls": loss / scored,
        "images": images,
        "bad_images": bad,
        "entropy": sum(entropies) / scored / max(1, len(places)),
        "components": sum(components) / scored / max(1, len(places)),
        **named,
    }
