"""Weighted k-nearest-neighbour classification of frozen features, as DINO does it (``knn``).

Caron et al. 2021, eval_knn.py: cosine similarity s of L2-normalised [CLS] features, the k most similar training samples
vote for their class with exp(s / 0.07). Nothing is trained, so that the number speaks of the features alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.progress import Progress
from sar_dist.transfer import (
    TOP,
    Backbone,
    ClassificationScores,
    Features,
    Outcome,
    TransferSettings,
    TransferTask,
    described,
)
from sar_dist.transfer.tasks import describe_eval_transform, top_classes
from sar_dist.transfer.tasks.probes.data import ProbeData, frozen_tokens, open_probe_data, say_unseen
from sar_dist.transfer.tasks.probes.figures import sweep_figure

# Fixed, because a matrix product of another size has other last bits: whichever process computes a block, it is the same.
QUERY_BLOCK = 256
BANK_BLOCK = 1 << 16
_LOW_32_BITS = (1 << 32) - 1

Predictions = dict[int, NDArray[np.int32]]


class NearestNeighbourSettings(TransferSettings):
    """Settings of ``knn``."""

    k: tuple[int, ...] = Field((10, 20, 100, 200), min_length=1, description="numbers of neighbours to try")
    quoted_k: int = Field(20, ge=1, description="the k whose accuracy is quoted; one of k")
    temperature: float = Field(0.07, gt=0, description="a neighbour of cosine similarity s votes with exp(s / this)")
    random_baseline: bool = Field(True, description="also score the same architecture with random weights")

    @field_validator("k")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("numbers of neighbours must be 1 or more")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _quoted_is_tried(self) -> NearestNeighbourSettings:
        if self.quoted_k not in self.k:
            raise ValueError(f"quoted_k={self.quoted_k} is not one of k={list(self.k)}")
        return self


class NearestNeighbours(TransferTask[NearestNeighbourSettings, ProbeData]):
    """Weighted kNN on frozen [CLS] features."""

    primary: ClassVar[str] = "top1"
    name = "knn"
    summary, data_help = described("knn")
    data_folder = "imagenet-1k-wds"
    settings_type = NearestNeighbourSettings

    def prepare(self) -> ProbeData:
        settings = self.job.settings
        return open_probe_data(self.job.data, settings.limit, self.data_help, settings.label, self.job.say)

    def run(self, prepared: ProbeData) -> Outcome:
        job, settings = self.job, self.job.settings
        predictions, bank, queries, classes = self._predict(prepared, job.backbone)
        say_unseen(job, bank.labels, queries.labels)
        scores = ClassificationScores.of(predictions[settings.quoted_k], queries, classes)
        metrics = self._metrics(predictions, queries, classes)
        baselines = {"chance": scores.chance}
        if settings.random_baseline:
            job.say("baseline: the same architecture with random weights")
            random_predictions, *_ = self._predict(prepared, job.backbone.randomly_initialised(settings.seed))
            baselines["random backbone"] = self._metrics(random_predictions, queries, classes)
        names = prepared.class_names(classes)
        return Outcome(
            metrics=metrics,
            primary=self.primary,
            samples=scores.samples,
            skipped=scores.skipped,
            protocol=self._protocol(len(bank.labels)),
            baselines=baselines,
            figures={
                "accuracy_against_k": lambda: self._figure(metrics, baselines),
                **scores.figures(names, f"kNN, k = {settings.quoted_k}"),
            },
            tables={"classes": scores.table(names)},
        )

    def _predict(self, data: ProbeData, backbone: Backbone) -> tuple[Predictions, Features, Features, int]:
        """Predictions for each k; the features of the bank and of the queries; the number of classes."""
        bank = frozen_tokens(self.job, backbone, data.train, "train").good()
        queries = frozen_tokens(self.job, backbone, data.val, "val")
        if not len(bank.labels):
            raise UserError(
                f"no training sample of {self.job.data} can be read and has a label; what is wrong with the first is said above"
            )
        classes = data.count_classes(np.concatenate([bank.labels, queries.labels]))
        predictions = weighted_knn(
            torch.from_numpy(queries.values["tokens"][:, -1]),
            torch.from_numpy(bank.values["tokens"][:, -1]),
            torch.from_numpy(bank.labels),
            classes,
            self.job.settings.k,
            self.job.settings.temperature,
            self.job.device,
            self.job.say,
        )
        return predictions, bank, queries, classes

    def _metrics(self, predictions: Predictions, queries: Features, classes: int) -> dict[str, float]:
        settings = self.job.settings
        scored = {k: ClassificationScores.of(predictions[k], queries, classes).metrics for k in settings.k}
        return {**scored[settings.quoted_k], **{f"top1_k{k}": scored[k]["top1"] for k in settings.k}}

    def _protocol(self, bank: int) -> dict[str, object]:
        backbone, settings = self.job.backbone, self.job.settings
        return {
            "source": "weighted kNN of DINO (Caron et al. 2021, eval_knn.py)",
            "features": "[CLS] of the last block after the final norm, L2-normalised"
            if backbone.has_class_token
            else "mean patch token of the last block after the final norm, L2-normalised",
            "transform": describe_eval_transform(backbone.image_size, backbone.augment),
            "vote": f"exp(cosine similarity / {settings.temperature})",
            "k": settings.quoted_k,
            "bank": bank,
            "k_used": {str(k): min(k, bank) for k in settings.k},
        }

    def _figure(self, metrics: dict[str, float], baselines: dict[str, dict[str, float]]) -> Figure:
        settings = self.job.settings
        curves = {
            name: [(k, values.get(f"top1_k{k}", values["top1"])) for k in settings.k]
            for name, values in {"this model": metrics, **baselines}.items()
        }
        return sweep_figure(curves, (settings.quoted_k, metrics["top1"]), "weighted kNN", "k, neighbours", "quoted")


def weighted_knn(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    classes: int,
    ks: Sequence[int],
    temperature: float,
    device: torch.device,
    say: Callable[[str], None] = lambda _text: None,
) -> Predictions:
    """The classes of ``queries`` by weighted vote of their neighbours, shared among the processes.

    Args:
        queries: (n, D) features; need not be normalised.
        bank: (m, D) features of training samples.
        bank_labels: int64 (m,), 0..classes-1.
        classes: C.
        ks: numbers of neighbours; more than m are m.
        temperature: a neighbour of cosine similarity s votes with exp(s / temperature).
        device: where to compute; the bank and a block of similarities must fit there.
        say: prints progress.

    Returns:
        k -> (n, min(5, C)) classes, best first, of equal votes the lower one; -1 for classes without a vote. The same on
        every process, for any number of processes.
    """
    bank = F.normalize(bank.to(device, torch.float32), dim=1)
    bank_labels = bank_labels.to(device)
    starts = range(0, len(queries), QUERY_BLOCK)
    mine = starts[distributed.rank() :: distributed.world_size()]
    found: dict[int, Predictions] = {}
    scored, share = 0, sum(min(QUERY_BLOCK, len(queries) - start) for start in mine)
    progress = Progress("neighbours", share, "queries", say)
    for start in mine:
        block = F.normalize(queries[start : start + QUERY_BLOCK].to(device, torch.float32), dim=1)
        similarity, neighbours = nearest(block, bank, max(ks))
        found[start] = _vote(similarity, bank_labels[neighbours], classes, ks, temperature)
        scored += len(block)
        progress.show(scored)
    merged = {start: block for part in distributed.gather_objects(found) for start, block in part.items()}
    return {k: np.concatenate([merged[start][k] for start in starts]) for k in ks}


def nearest(queries: Tensor, bank: Tensor, count: int, bank_block: int = BANK_BLOCK) -> tuple[Tensor, Tensor]:
    """The ``count`` rows of ``bank`` with the largest inner product with each query, largest first.

    Equal ones are taken in the order of the bank, whatever the blocks, so that duplicates cannot change a result.

    Args:
        queries: (q, D) float32.
        bank: (m, D) float32.
        count: at most; all m where there are fewer.
        bank_block: rows compared at a time.

    Returns:
        similarity and row numbers, both (q, min(count, m)).
    """
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), bank_block):
        keys = _sort_keys(queries @ bank[start : start + bank_block].T, start)
        best = torch.cat([best, keys.topk(min(count, keys.shape[1]), dim=1).values], dim=1)
        best = best.topk(min(count, best.shape[1]), dim=1).values
    bits = (best >> 32).to(torch.int32)
    return _mirror_negative(bits).view(torch.float32), _LOW_32_BITS - (best & _LOW_32_BITS)


def _sort_keys(similarity: Tensor, first_row: int) -> Tensor:
    """int64 (q, b): the float in the upper half, as an integer of the same order, the row in the lower one, reversed."""
    bits = _mirror_negative((similarity + 0.0).view(torch.int32))  # + 0.0 makes -0 and 0 equal
    rows = torch.arange(first_row, first_row + similarity.shape[1], device=similarity.device)
    return (bits.long() << 32) | (_LOW_32_BITS - rows)


def _mirror_negative(bits: Tensor) -> Tensor:
    """Bits of float32 as int32 to integers that are ordered as the floats are, and back."""
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _vote(similarity: Tensor, labels: Tensor, classes: int, ks: Sequence[int], temperature: float) -> Predictions:
    """Votes of neighbours (q, k), nearest first, summed up for each k in one pass; of the sums only the order counts."""
    # Logarithms of sums, because with a small temperature exp is infinite or zero, and then all votes are equal.
    exponents = (similarity.double() - similarity[:, :1].double()) / temperature
    votes = torch.full((len(labels), classes), -torch.inf, dtype=torch.float64, device=labels.device)
    predictions: Predictions = {}
    for rank in range(labels.shape[1]):
        # One neighbour at a time, because adding several to one element has no fixed order on a GPU.
        voted = labels[:, rank : rank + 1]
        votes.scatter_(1, voted, torch.logaddexp(votes.gather(1, voted), exponents[:, rank : rank + 1]))
        if rank + 1 in ks:
            predictions[rank + 1] = _ranked(votes)
    return {k: predictions[k] if k in predictions else _ranked(votes) for k in ks}


def _ranked(votes: Tensor) -> NDArray[np.int32]:
    scores = votes.cpu().numpy()
    order = top_classes(scores, min(TOP, scores.shape[1]))
    return np.where(np.take_along_axis(scores, order, axis=1) > -np.inf, order, -1).astype(np.int32)
