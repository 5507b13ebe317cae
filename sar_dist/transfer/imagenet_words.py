"""What WordNet calls the classes of ImageNet-1k, so that names in words and WordNet ids can be compared.

The lists are those that timm ships (``timm/data/_info``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from sar_dist.data.layout import class_word

WORDNET_ID = re.compile(r"n\d{8}")
_WORD_WITH_ID = re.compile(
    r".*\((n\d{8})\)"
)  # what ``make_shards.py imagenet`` calls a class whose word is another's too


@functools.cache
def imagenet_synsets() -> Mapping[str, int]:
    """Class index of each of the 1000 WordNet ids; their alphabetical order."""
    text = (resources.files("timm.data") / "_info" / "imagenet_synsets.txt").read_text()
    return {synset: index for index, synset in enumerate(text.split())}


def meanings(name: str) -> frozenset[str]:
    """The WordNet ids that a class name may stand for: itself, or ImageNet-1k's classes of that word; none: not known."""
    name = class_word(name)
    if WORDNET_ID.fullmatch(name):
        return frozenset([name])
    with_id = _WORD_WITH_ID.fullmatch(name)
    return frozenset([with_id[1]]) if with_id else _synsets_of_words().get(_plain(name.partition(",")[0]), frozenset())


def places_of_words(names: Sequence[str]) -> tuple[int, list[int]]:
    """How many class names in words are ImageNet's for their label, and the labels whose name is that of other classes."""
    order = imagenet_synsets()
    known = [{order[synset] for synset in meanings(name) if synset in order} for name in names]
    right = sum(label in indices for label, indices in enumerate(known))
    return right, [label for label, indices in enumerate(known) if indices and label not in indices]


@functools.cache
def _synsets_of_words() -> Mapping[str, frozenset[str]]:
    """Classes of each word in WordNet's list, such as "tench" and "tinca tinca"; a few words are of two classes."""
    text = (resources.files("timm.data") / "_info" / "imagenet_synset_to_lemma.txt").read_text()
    found: dict[str, set[str]] = {}
    for synset, _, words in (line.partition("\t") for line in text.splitlines()):
        if synset in imagenet_synsets():
            for word in words.split(","):
                found.setdefault(_plain(word), set()).add(synset)
    return {word: frozenset(synsets) for word, synsets in found.items()}


def _plain(word: str) -> str:
    return class_word(word).replace("_", " ").casefold()
