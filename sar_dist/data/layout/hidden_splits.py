"""Files that are called by splits in words that are not whole: ``mytrain0.tar`` beside ``myval0.tar``, ``x_tr``, ``fit``.

Such a word alone says nothing ("coral" is no "oral", "developed" no "dev"). Two kinds of files whose names are the same but
for two of them, of different splits, are a set with its splits; what is called otherwise is one set, whose kinds are said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sar_dist.errors import UserError

# Parts of words, longest first, and whole words that only count against one of another split.
_PARTS = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "valid": "val",
    "eval": "val",
    "val": "val",
    "testing": "test",
    "test": "test",
}
_WHOLE = {
    "tr": "train",
    "trn": "train",
    "fit": "train",
    "learn": "train",
    "va": "val",
    "dev": "val",
    "devel": "val",
    "evaluation": "val",
    "holdout": "val",
    "heldout": "val",
    "te": "test",
    "tst": "test",
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NUMBERS = re.compile(r"\d+")
_MOST_KINDS = 8


def kind_of_file(path: str) -> str:
    """What files of one kind have in common: the path without extension and numbers, ``a/b-000.tar`` is ``a/b``."""
    stem = re.sub(r"\.[A-Za-z]\w*$", "", path)
    return re.sub(r"[-_. ]+(?=/|$)", "", _NUMBERS.sub("", stem)).strip("-_. /")


def hidden_splits(names: Sequence[str]) -> dict[str, str]:
    """The split of each kind of files, as far as another kind is called the same but for a word of another split.

    ``names`` are paths of files, with "/", none of which names a split by a whole word.
    """
    first: dict[str, tuple[str, str]] = {}  # kind and split, by what is left of the kind without its split
    found: dict[str, str] = {}
    for kind in sorted({*map(kind_of_file, names)}):
        for rest, split in _readings(kind):
            other, other_split = first.setdefault(rest, (kind, split))
            if other_split != split:
                found.setdefault(other, other_split)
                found.setdefault(kind, split)
    return found


def refuse_hidden_splits(names: Sequence[str], where: str) -> None:
    """Raise UserError where ``names``, none of which names a split, are those of several all the same.

    ``names`` are paths of files, with "/", below ``where``.
    """
    found = hidden_splits(names)
    if found:
        (kind, split) = next(iter(found.items()))
        other, other_split = next(pair for pair in found.items() if pair[1] != split)
        raise UserError(
            f"{where} holds files called {kind} and {other}, which seem to be the splits {split} and {other_split}; rename "
            "them with the words train, val and test, put each split in a folder of its own, or make one a command: "
            f"`make_shards.py ... --split {_word(kind, other)}={_made(split)}`, and `--split {_word(other, kind)}={_made(other_split)}`"
        )


def _readings(kind: str) -> Iterator[tuple[str, str]]:
    """The ways to take a word of a kind of files for a split: what is left of the kind, and the split."""
    for match in _WORD.finditer(kind):
        word = match[0].lower()
        before, behind = kind[: match.start()].lower(), kind[match.end() :].lower()
        if word in _WHOLE:
            yield f"{before}*{behind}", _WHOLE[word]
        for part, split in _PARTS.items():
            if word.startswith(part):
                yield f"{before}*{word.removeprefix(part)}{behind}", split
            if word.endswith(part):
                yield f"{before}{word.removesuffix(part)}*{behind}", split


def _word(kind: str, other: str) -> str:
    """What ``--split`` calls a kind of files: the part of its path that another has not."""
    return next((part for part in kind.split("/") if part not in other.split("/")), kind)


def _made(split: str) -> str:
    return "train" if split == "train" else "val"


def kinds_remark(names: Sequence[str]) -> str | None:
    """What to say of files of a few kinds that are read as one set, of which none names a split; None: nothing."""
    kinds = list(dict.fromkeys(kind_of_file(name.rpartition("/")[2]) for name in sorted(names)))
    if not 1 < len(kinds) <= _MOST_KINDS:
        return None
    shown = [kind or "numbers alone" for kind in kinds]
    return (
        f"files of {len(kinds)} kinds are read as one set: {', '.join(shown)}; if one is of another split, rename it "
        "with the words train, val or test"
    )
