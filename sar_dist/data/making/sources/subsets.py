"""Some of the images of each class, drawn so that anybody can draw the same: a smaller set, or a validation split."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sar_dist.data.layout import Split
from sar_dist.data.making.sources.command import positive
from sar_dist.errors import UserError
from sar_dist.keys import keyed_permutation


@dataclass(frozen=True)
class Subset:
    """As many images of each class, drawn by ``seed``: a small set that anybody can draw again."""

    per_class: int
    seed: int = 0


def thinned_out(found: Sequence[tuple[str, int]], subset: Subset, where: Path) -> list[tuple[str, int]]:
    """The ``subset`` of (path, label) pairs, in their order. Raises UserError where a class has too few."""
    return [found[number] for number in _drawn(found, subset, where, "subset")]


def with_validation(
    found: dict[Split, list[tuple[str, int]]], validation: Subset, where: Path
) -> dict[Split, list[tuple[str, int]]]:
    """The (path, label) pairs of both splits, where ``found`` has the training split alone.

    Raises:
        UserError: there is another split, or a class has too few images to leave one for training.
    """
    if found.keys() != {"train"}:
        raise UserError(
            f"{where} has a validation split already; give the same command without --val-per-class"
            if "val" in found and len(found) > 1
            else f"{where}: --val-per-class takes a validation split out of training images; give it without --split, or with "
            "--split train"
        )
    train = found["train"]
    held_out = set(_drawn(train, validation, where, "validation", to_spare=1))
    return {
        "train": [pair for number, pair in enumerate(train) if number not in held_out],
        "val": [train[number] for number in sorted(held_out)],
    }


def _drawn(
    found: Sequence[tuple[str, int]], subset: Subset, where: Path, purpose: str, *, to_spare: int = 0
) -> list[int]:
    """The places of ``subset.per_class`` of the (path, label) pairs of each label, sorted; ``to_spare`` stay behind."""
    members_of: dict[int, list[int]] = {}
    for number, (_, label) in enumerate(found):
        members_of.setdefault(label, []).append(number)
    chosen: list[int] = []
    for label, members in sorted(members_of.items()):
        if len(members) < subset.per_class + to_spare:
            raise UserError(
                f"{where}: a class has only {len(members)} images ({found[members[0]][0]} ...); "
                f"ask for {'fewer' if to_spare else 'at most so many'} of each"
            )
        order = keyed_permutation(len(members), subset.seed, purpose, label)
        chosen += [members[place] for place in order[: subset.per_class]]
    return sorted(chosen)


def add_validation_argument(parser: argparse.ArgumentParser) -> None:
    """``--val-per-class``, for sources of images with a label each."""
    parser.add_argument(
        "--val-per-class",
        type=positive,
        metavar="N",
        help="where there is no validation split: N images of each class, drawn by --seed, become one",
    )


def given_validation(given: argparse.Namespace) -> Subset | None:
    """What ``--val-per-class`` asks for."""
    return Subset(given.val_per_class, given.seed) if given.val_per_class else None
