"""Class names of a model, or of a training set, against those of the data that it is scored on.

A label is a number, and what it means is decided by a list of names. Where two lists that are in the same words differ,
numbers that mean different classes would give a wrong accuracy that looks like a measurement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from sar_dist.data.layout import class_word, named_classes, refuse_numbers_as_names
from sar_dist.data.shards import NO_LABEL, parse_label
from sar_dist.errors import UserError
from sar_dist.transfer.imagenet_words import WORDNET_ID, meanings
from sar_dist.transfer.relabelled import RelabelledSamples
from sar_dist.transfer.samples import SampleSet

_NO_CLASS = "no class"
_LISTS_DIFFER = 0.1  # the share of ImageNet's words that lists in use give to other classes than WordNet does


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

    The classes of ``samples`` may be some of ``names``, in any order. Classes are compared by name, WordNet ids and words by
    what WordNet calls ImageNet-1k's classes. Where one of the two lists is not known, or their words are not WordNet's,
    numbers are taken as they are.

    Args:
        samples: what is scored; its labels count ``samples.classes``.
        names: the class names by label of a model or a training set; None: not known.
        owner: what ``names`` are of, for messages.

    Raises:
        UserError: the data have a class that ``names`` do not, or a name occurs twice in a list; the message names the
            first label that differs. Or the data name no classes, and ``names`` are numbers.
    """
    if samples.classes is None or names is None:
        refuse_numbers_as_names(None if samples.classes is not None else names, owner, "the data set")
        lacking = "the data" if samples.classes is None else owner
        return MatchedSamples(samples, f"by number: {lacking} names no classes", compared=False)
    own, wanted = named_classes(samples.classes, names), named_classes(names, samples.classes)
    if all(wanted.get(label) == name for label, name in own.items()):
        return MatchedSamples(samples, "by number: names agree", compared=True)
    if _are_wordnet_ids(own.values()) != _are_wordnet_ids(wanted.values()):
        return _match_words(samples, own, wanted, names, owner)
    return _renumbered(samples, numbers_by_name(samples.classes, names, owner), own, names, owner)


def numbers_by_name(data: Sequence[str], names: Sequence[str], owner: str) -> dict[int, int]:
    """The label in ``names`` of each class that ``data`` names, by its label there.

    Raises:
        UserError: ``data`` have a class that ``names``, those of ``owner``, do not, or the lists differ and one has a name twice.
    """
    own, wanted = named_classes(data, names), named_classes(names, data)
    if all(wanted.get(label) == name for label, name in own.items()):
        return {label: label for label in own}
    numbers = {name: label for label, name in wanted.items()}
    ambiguous = len(numbers) < len(wanted) or len(set(own.values())) < len(own)
    if ambiguous or not numbers.keys() >= set(own.values()):
        raise UserError(_difference(data, names, owner))
    return {label: numbers[name] for label, name in own.items()}


def _renumbered(
    samples: SampleSet, table: Mapping[int, int], own: Mapping[int, str], names: Sequence[str], owner: str
) -> MatchedSamples:
    label = next(label for label in table if table[label] != label)
    renumbered = RelabelledSamples(samples, _TableLabel(table), f"labels {sorted(table.items())}", tuple(names))
    there = class_word(names[table[label]])
    called = "" if there == own[label] else f" ({there})"
    remark = f"by name: label {label} of the data, {own[label]}, is {table[label]} of {owner}{called}, and so on"
    return MatchedSamples(renumbered, remark, compared=True)


def _match_words(
    samples: SampleSet, own: Mapping[int, str], wanted: Mapping[int, str], names: Sequence[str], owner: str
) -> MatchedSamples:
    """Words against WordNet ids, by what WordNet calls ImageNet-1k's classes. Raises UserError where it contradicts the numbers."""
    places: dict[str, list[int]] = defaultdict(list)
    for label, name in wanted.items():
        for synset in meanings(name):
            places[synset].append(label)
    found = {label: {place for synset in meanings(name) for place in places[synset]} for label, name in own.items()}
    compared = [label for label in own if label in wanted and meanings(own[label]) and meanings(wanted[label])]
    wrong = [label for label in compared if label not in found[label]]
    if not wrong:
        agree = f", and WordNet's words agree for {len(compared)} classes" if compared else ""
        remark = f"by number: of data and model one names WordNet ids and the other does not{agree}"
        return MatchedSamples(samples, remark, compared=False)
    table = {label: min(labels) for label, labels in found.items() if len(labels) == 1}
    if len(table) == len(own) == len(set(table.values())):
        return _renumbered(samples, table, own, names, owner)
    if len(wrong) > len(compared) * _LISTS_DIFFER:
        raise UserError(
            f"the classes of the data are in another order than those of {owner}: label {wrong[0]} is {own[wrong[0]]} in the data and "
            f"{wanted[wrong[0]]} there, which WordNet tells apart, and not every class can be found by its words; make the "
            "data set with the same class names"
        )
    remark = f"by number: WordNet's words agree for {len(compared) - len(wrong)} of {len(compared)} classes"
    return MatchedSamples(samples, remark, compared=False)


def _are_wordnet_ids(names: Iterable[str]) -> bool:
    return all(WORDNET_ID.fullmatch(name) for name in names)


def _difference(data: Sequence[str], names: Sequence[str], owner: str) -> str:
    pairs = zip_longest(data, names, fillvalue=_NO_CLASS)
    label, (theirs, ours) = next((label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1])
    missing = sorted(set(named_classes(data, names).values()) - set(names))
    reason = (
        f"{len(missing)} of its classes are not among them, such as {missing[0]}" if missing else "a name occurs twice"
    )
    return (
        f"the {len(data)} classes of the data are not those of {owner} ({len(names)}): label {label} is {theirs} in the data "
        f"and {ours} there, and {reason}; give the data set with the same classes, or make it with the same class names"
    )
