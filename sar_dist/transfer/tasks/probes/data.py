"""What probes on frozen features share: the two splits of a classification set, their classes and their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar_dist.data.shards import LABEL_EXTENSION, parse_label
from sar_dist.errors import UserError
from sar_dist.keys import keyed_permutation
from sar_dist.output import say
from sar_dist.transfer import (
    Backbone,
    Features,
    SampleSet,
    TransferJob,
    last_block_tokens,
    limited,
    match_classes,
    open_both_splits,
)


@dataclass(frozen=True)
class ProbeData:
    """Training and validation split of a classification set.

    Attributes:
        train, val: the splits.
        names: class names by label, or None where the set has none.
    """

    train: SampleSet
    val: SampleSet
    names: tuple[str, ...] | None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of each split, as ``TransferTask.prepare`` gives them."""
        return {"train": self.train.fingerprint, "val": self.val.fingerprint}

    def class_names(self, classes: int) -> list[str]:
        """The names, or the labels themselves where there are none."""
        return list(self.names) if self.names is not None else [str(label) for label in range(classes)]

    def count_classes(self, labels: NDArray[np.int64]) -> int:
        """How many classes there are, going by their names or else by the highest of ``labels``.

        Raises:
            UserError: a label is beyond the named classes, or there is no label at all.
        """
        if not labels.size or labels.max() < 0:
            raise UserError(
                "no sample of the data set can be read and has a label; what is wrong with the first is said above"
            )
        classes = int(labels.max()) + 1 if self.names is None else len(self.names)
        check_labels(labels, classes)
        check_several(self.class_names(classes))
        return classes


def open_probe_data(
    data: Path,
    limit: int | None,
    data_help: str,
    label: str = LABEL_EXTENSION,
    say: Callable[[str], None] = say,
) -> ProbeData:
    """Both splits of the set at ``data``, ``limit`` samples of each; ``label`` says where shards have their labels.

    ``say`` is told how the labels of both were compared.

    Raises:
        UserError: a split is missing or empty, both are the same, or the validation split has other classes. It may lack some, and number
            them in another order.
    """
    train, val = open_both_splits(data, data_help, label)
    for name, samples in (("train", train), ("val", val)):
        if not len(samples):
            raise UserError(f"the {name} split of {data} is empty; expected {data_help}")
    matched = match_classes(val, train.classes, "the training split")
    say(f"validation labels {matched.remark}")
    check_several(train.classes or val.classes)
    return ProbeData(limited(train, limit), limited(matched.samples, limit), train.classes or val.classes)


def say_unseen(job: TransferJob[Any], train: NDArray[np.int64], val: NDArray[np.int64]) -> None:
    """Say it where validation labels occur on no training sample: no probe can get them right."""
    unseen = np.isin(val, train, invert=True) & (val >= 0)
    if unseen.any():
        job.say(
            f"{unseen.sum()} of the {len(val)} validation samples are of {len(np.unique(val[unseen]))} classes without a training "
            f"sample, such as label {val[unseen].min()}: they cannot be right"
        )


def check_several(names: Sequence[str] | None) -> None:
    """Raise UserError if a set names a single class."""
    if names is not None and len(names) < 2:
        raise UserError("the data set has a single class; there is nothing to tell apart")


def check_labels(labels: NDArray[np.int64], classes: int) -> None:
    """Raise UserError if a label is ``classes`` or more."""
    if labels.size and labels.max() >= classes:
        raise UserError(
            f"a sample has the label {labels.max()}, and the data set names {classes} classes (0..{classes - 1})"
        )


def read_labels(samples: SampleSet) -> NDArray[np.int64]:
    """The label of every sample, -1 where it has none; reads all of the split's files."""
    members = (samples.sample(number)[1] for number in range(len(samples)))
    return np.array([parse_label(found["cls"]) if "cls" in found else -1 for found in members], dtype=np.int64)


def frozen_tokens(
    job: TransferJob[Any], backbone: Backbone, samples: SampleSet, split: str, last_blocks: int = 1
) -> Features:
    """``tokens`` (n, last_blocks, C) and ``patch_mean`` (n, C) of a split under the validation transform, cached."""
    return job.extract(samples, last_block_tokens(last_blocks), name=f"{split} tokens {last_blocks}", backbone=backbone)


def hold_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers 0..count-1 to train on and to choose hyper-parameters on, drawn at random, each in ascending order.

    Raises:
        UserError: either part would be empty.
    """
    order = keyed_permutation(count, seed, "held out").astype(np.int64)
    held = int(count * share)
    if not 0 < held < count:
        raise UserError(f"held_out={share} of {count} training samples leaves nothing to choose on or to train on")
    return np.sort(order[held:]), np.sort(order[:held])
