"""What a transfer task is: a small class with settings, ``prepare`` and ``run``. The registry lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field

from sar_dist import distributed
from sar_dist.config import Settings
from sar_dist.data.shards import LABEL_EXTENSION, Split
from sar_dist.processes import available_cores
from sar_dist.transfer.backbone import Backbone, Transform
from sar_dist.transfer.features import Compute, Features, extract
from sar_dist.transfer.samples import SampleSet, open_labelled_samples, why_unusable

# By default; more seldom help a forward pass without gradients, and every rank of a node has as many.
_MOST_WORKERS = 4


class TransferSettings(Settings):
    """Settings that every task has; a task adds its own by inheriting. ``key=value`` on the command line sets them."""

    seed: int = Field(0, ge=0, description="seed of splits, of the order of samples and of new weights")
    batch: int = Field(128, ge=1, description="images per process and forward pass of the frozen backbone")
    workers: int | None = Field(
        None,
        ge=0,
        le=512,
        description="data-loader processes per rank; none: one a core, at most 4; 0 decodes in the evaluating process",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the frozen backbone")
    label: str = Field(
        LABEL_EXTENSION, min_length=1, description="where shards have the label, as data.label of a training run"
    )
    limit: int | None = Field(
        None, ge=1, description="use only so many samples of each split, evenly spread; the result is marked partial"
    )

    @property
    def loader_processes(self) -> int:
        """``workers``, settled."""
        return min(_MOST_WORKERS, available_cores()) if self.workers is None else self.workers


Drawing = Figure | Callable[[], Figure | None]

S = TypeVar("S", bound=TransferSettings)


@dataclass(frozen=True)
class TransferJob(Generic[S]):
    """What one task is to be run on.

    Attributes:
        backbone: the model, frozen, in evaluation mode; on the CPU until the task is prepared.
        data: root of the data set.
        out: folder of this task's results; caches and checkpoints of unfinished work go below it.
        settings: the task's settings.
        say: prints a line on the main process.
    """

    backbone: Backbone
    data: Path
    out: Path
    settings: S
    say: Callable[[str], None]

    @property
    def device(self) -> torch.device:
        """Where to compute: where the backbone is."""
        return self.backbone.device

    def open_labelled(self, split: Split, data_help: str) -> SampleSet:
        """A split of a classification set, with labels from where the settings say; see ``open_labelled_samples``."""
        return open_labelled_samples(self.data, split, data_help, self.settings.label)

    def extract(
        self,
        samples: SampleSet,
        compute: Compute,
        *,
        name: str,
        backbone: Backbone | None = None,
        transform: Transform | None = None,
    ) -> Features:
        """What ``compute`` gives for every sample, stored below ``out`` and read from there; see ``features.extract``.

        Args:
            samples: the split.
            compute: (backbone, normalised images) to tensors by name.
            name: of ``compute`` and the split.
            backbone: what computes, when it is not the job's.
            transform: bytes to uint8 (3, S, S), when it is not the backbone's validation transform.
        """
        used = backbone or self.backbone
        transform = transform or used.eval_transform()
        found = extract(
            used,
            samples,
            compute,
            name=name,
            folder=self.out / "features",
            batch=self.settings.batch,
            workers=self.settings.loader_processes,
            say=self.say,
            transform=transform,
        )
        if used is self.backbone and distributed.is_main():  # a baseline's samples are the same
            bad = np.flatnonzero(found.bad).tolist()
            if bad:
                first = why_unusable(samples, bad[0], transform)
                self.say(f"{name}: {len(bad)} of {len(samples)} samples cannot be used, the first is {first}")
        return found


@dataclass(frozen=True)
class Outcome:
    """What a task found; complete on the main process, where it is written.

    Attributes:
        metrics: name -> value; percentages where the literature gives percentages, fractions nowhere.
        primary: the one of ``metrics`` that a table quotes.
        samples: number of samples (images) that the metrics are of.
        skipped: samples that could not be read; they count as wrong and are part of ``samples``.
        protocol: everything that decides the number: hyper-parameters, features, split, deviations from the literature.
        baselines: name ("chance", "majority class", "random backbone") -> metric -> value.
        figures: name -> figure for TensorBoard and for PNG files, or what draws it: called on the main process alone; one that
            fails, or gives None, is left out.
        tables: name -> JSON values that belong in the result file, such as the score of each class.
    """

    metrics: Mapping[str, float]
    primary: str
    samples: int
    skipped: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    figures: Mapping[str, Drawing] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)


class Prepared(Protocol):
    """What ``prepare`` gives and ``run`` takes: opened data, and what follows from it."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Of the content of each split that is used, by the split's name."""


P = TypeVar("P", bound=Prepared)


@dataclass(frozen=True)
class PreparedSplit:
    """The one split that a task uses.

    Attributes:
        split: its name.
        samples: what is to be measured of it.
    """

    split: str
    samples: SampleSet

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the split."""
        return {self.split: self.samples.fingerprint}


class TransferTask(ABC, Generic[S, P]):
    """One task on one job. Every process makes one, calls ``prepare``, and ``run`` with what that gives.

    Nothing is kept on the task in between, so that what ``run`` needs is in its argument.

    Class attributes:
        name: on the command line.
        summary: one line for ``--list``.
        data_help: which files are expected below ``--data``, and how to get and convert them; one line.
        data_folder: folder below ``data/`` or ``$SAR_DIST_DATA`` when ``--data`` is not given.
        settings_type: its settings.
        primary: the metric that a table quotes, where settings and data do not decide it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    data_help: ClassVar[str]
    data_folder: ClassVar[str]
    settings_type: ClassVar[type[TransferSettings]] = TransferSettings
    primary: ClassVar[str | None] = None

    def __init__(self, job: TransferJob[S]) -> None:
        self.job = job

    @classmethod
    def variant(cls, settings: S) -> str:
        """What tells results of the same task on the same data apart, such as the head; part of the folder's name."""
        return ""

    @abstractmethod
    def prepare(self) -> P:
        """Open and check the data before anything is computed.

        Raises:
            UserError: something is missing or does not fit the model, with ``data_help``.
        """

    @abstractmethod
    def run(self, prepared: P) -> Outcome:
        """Compute. Called on every process; what it has stored below ``job.out`` it need not compute again."""
