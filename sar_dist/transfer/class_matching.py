"""Class names of a model, or of a training set, against those of the data that it is scored on.

A label is a number, and what it means is decided by a list of names. Where two lists that are in the same words differ,
numbers that mean different classes would give a wrong accuracy that looks like a measurement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from sar_dist.data.layout import named_classes
from sar_dist.data.shards import NO_LABEL, parse_label
from sar_dist.errors import UserError
from sar_dist.transfer.relabelled import RelabelledSamples
from sar_dist.transfer.samples import SampleSet

WORDNET_ID = re.compile(r"n\d{8}")
_NO_CLASS = "no class"


class MatchedSamples(NamedTuple):
    """Samples with labels in the wanted numbering, one line on how it was compared, and whether names could be."""

    samples: SampleSet
    remark: str
    compared: bool


@dataclass(frozen=True)
class _TableLabel:
    """The label of a sample in another numbering; none where it is not among the named classes."""

    table: Mapping[int, int]

    def __call__(self, _key: str, members: Mapping[str, bytes]) -> int:
        return self.table.get(parse_label(members.get("cls", b"")), NO_LABEL)


def match_classes(samples: SampleSet, names: Sequence[str] | None, owner: str) -> MatchedSamples:
    """``samples`` with the labels that their classes have in ``names``.

    The classes of ``samples`` may be some of ``names``, in any order. Classes are compared by name; where one of the
    two lists is not known, or one is of WordNet ids and the other of other words, numbers are taken as they are.

    Args:
        samples: what is scored; its labels count ``samples.classes``.
        names: the class names by label of a model or a training set; None: not known.
        owner: what ``names`` are of, for messages.

    Raises:
        UserError: the data have a class that ``names`` do not, or a name occurs twice in a list; the message names the
            first label that differs.
    """
    if samples.classes is None or names is None:
        lacking = "the data" if samples.classes is None else owner
        return MatchedSamples(samples, f"by number: {lacking} names no classes", compared=False)
    own, wanted = named_classes(samples.classes), named_classes(names)
    if all(wanted.get(label) == name for label, name in own.items()):
        return MatchedSamples(samples, "by number: names agree", compared=True)
    if _are_wordnet_ids(own.values()) != _are_wordnet_ids(wanted.values()):
        remark = "by number: of data and model one names WordNet ids and the other does not"
        return MatchedSamples(samples, remark, compared=False)
    numbers = {name: label for label, name in wanted.items()}
    ambiguous = len(numbers) < len(wanted) or len(set(own.values())) < len(own)
    if ambiguous or not numbers.keys() >= set(own.values()):
        raise UserError(_difference(samples.classes, names, owner))
    table = {label: numbers[name] for label, name in own.items()}
    label = next(label for label in table if table[label] != label)
    renumbered = RelabelledSamples(samples, _TableLabel(table), f"labels {sorted(table.items())}", tuple(names))
    remark = f"by name: label {label} of the data, {own[label]}, is {table[label]} of {owner}, and so on"
    return MatchedSamples(renumbered, remark, compared=True)


def _are_wordnet_ids(names: Iterable[str]) -> bool:
    return all(WORDNET_ID.fullmatch(name) for name in names)


def _difference(data: Sequence[str], names: Sequence[str], owner: str) -> str:
    pairs = zip_longest(data, names, fillvalue=_NO_CLASS)
    label, (theirs, ours) = next((label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1])
    missing = sorted(set(named_classes(data).values()) - set(names))
    reason = (
        f"{len(missing)} of its classes are not among them, such as {missing[0]}" if missing else "a name occurs twice"
    )
    return (
        f"the {len(data)} classes of the data are not those of {owner} ({len(names)}): label {label} is {theirs} in the data "
        f"and {ours} there, and {reason}; give the data set with the same classes, or make it with the same class names"
    )
