"""The data sets that training takes its samples from: their weights, and that a label means the same class in all."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath

from sar_dist.data.layout import class_word, named_classes, refuse_numbers_as_names
from sar_dist.data.shards import NO_LABEL, Manifest, labels_in
from sar_dist.errors import UserError
from sar_dist.output import warn

_SPLIT_FOLDERS = ("train", "training")


@dataclass(frozen=True)
class TrainingSet:
    """One data set of the training data.

    Attributes:
        manifest: its shards.
        name: what logs and reports call it; another one for each set.
        weight: its share of the samples is this, divided by the sum over all sets.
        classes: the label in the run of each of its own labels, -1 for those of no class; None: they are the run's.
    """

    manifest: Manifest
    name: str = ""
    weight: Fraction = Fraction(1)
    classes: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        """Labels that its samples may have; None: those of the run."""
        return None if self.classes is None else len(self.classes)


def set_names(places: Sequence[str]) -> list[str]:
    """A short name for each of several folders or URLs: the last part that is not the split's, numbered where two agree.

    Of letters, digits, hyphens and underscores: it becomes part of the names of metrics.
    """
    names: list[str] = []
    for place in places:
        parts = [part for part in PurePosixPath(place).parts if part not in ("/", *_SPLIT_FOLDERS)]
        name = re.sub(r"[^A-Za-z0-9_-]", "_", parts[-1]) if parts else "train"
        numbered = (f"{name}-{number}" for number in itertools.count(len(names) + 1))
        names.append(next(each for each in itertools.chain([name], numbered) if each not in names))
    return names


def match_classes(
    key: str, reference: Manifest, manifest: Manifest, renamed: Mapping[str, str]
) -> tuple[int, ...] | None:
    """The label in ``reference`` of each label of ``manifest``: classes are the same if their names are.

    Args:
        key: what messages call the set.
        reference: the set whose labels are the run's.
        manifest: another set.
        renamed: name in ``reference`` by name in ``manifest``, where they differ.

    Returns:
        One label for each of the set's own; -1 for a place of a larger set that it does not name. None: they are the same,
        or cannot be compared, as one of the two does not name its classes.

    Raises:
        UserError: a class of the set is none of ``reference``, or one of several of that name; ``renamed`` has a name
            that is not there; or one set does not name its classes, and those of the other are called by other numbers.
    """
    ours, theirs = reference.classes, manifest.classes
    if theirs is None or ours is None:
        if renamed:
            unnamed = manifest if theirs is None else reference
            raise UserError(
                f"{key}.classes: {unnamed.root} does not name its classes; put a classes.json beside its shards"
            )
        refuse_numbers_as_names(ours, reference.root, manifest.root)
        refuse_numbers_as_names(theirs, manifest.root, reference.root)
        return None
    if ours == theirs and not renamed:
        return None
    named = named_classes(theirs, ours)
    renamed = {class_word(name): class_word(other) for name, other in renamed.items()}
    for name in renamed:
        if name not in named.values():
            raise UserError(f"{key}.classes: {manifest.root} has no class {name!r}")
    labels = {name: label for label, name in named_classes(ours, theirs).items()}
    wanted = {label: renamed.get(name, name) for label, name in named.items()}
    unknown = [label for label, name in wanted.items() if name not in labels]
    if unknown:
        name, as_name = named[unknown[0]], wanted[unknown[0]]
        raise UserError(
            f"{key}: {len(unknown)} of the {len(named)} classes of {manifest.root} are not among the {len(labels)} of "
            f"{reference.root}, the first is {as_name!r}; leave them out of the shards, or say which class each is, as "
            f"classes: {{{name!r}: {ours[0]!r}}}"
        )
    several = {name for name, count in Counter(map(class_word, ours)).items() if count > 1}
    ambiguous = next((name for name in wanted.values() if name in several), None)
    if ambiguous is not None:
        raise UserError(
            f"{key}: {reference.root} has several classes called {ambiguous!r}, so that names do not say which one is meant; "
            "give both sets the same classes.json"
        )
    return tuple(labels[wanted[label]] if label in wanted else NO_LABEL for label in range(len(theirs)))


def warn_of_validation_labels(sets: Sequence[TrainingSet], val: Manifest) -> None:
    """Say what in the labels of validation images cannot mean the classes of the training images.

    Names of classes tell more, where both have them; so nothing is said then, nor of sets behind a URL.
    """
    if val.classes is not None and any(each.manifest.classes is not None for each in sets):
        return
    theirs, of_sets = labels_in(val), [_labels_in_run(each) for each in sets]
    if not theirs or not all(of_sets):
        return
    ours = {label for labels in of_sets for label in labels}
    ranges = f"labels are {min(theirs)} to {max(theirs)}, and those of data.train {min(ours)} to {max(ours)}"
    unseen = sorted(theirs - ours)
    if unseen:
        warn(f"data.val: {len(unseen)} labels are those of no training image, such as {unseen[0]}: {ranges}")
    elif min(theirs) == min(ours) + 1 and max(theirs) == max(ours):
        warn(f"data.val: {ranges}; make sure that classes are numbered in the same way")


def _labels_in_run(given: TrainingSet) -> set[int]:
    """The labels of a set's samples, as numbers of the run's classes."""
    labels = labels_in(given.manifest)
    if given.classes is None:
        return labels
    return {given.classes[label] for label in labels if label < len(given.classes)} - {NO_LABEL}
