"""How a table or a Parquet file says to which split a row belongs: by a column, or by the folders in which its images lie.

- A *column* in which every entry is a split word says it, whatever it is called, and it is said that it does. One that is
  called like such a column, or has a split word among its entries, may say it: it is mentioned.
- *Paths of images* say it if every image lies in a folder that is a split (the outermost counts, as in tars), or if all
  lie in one such folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from sar_dist.data.layout.splits import SplitChoice, split_of_word, splits_of_path
from sar_dist.errors import UserError
from sar_dist.output import warn

_COLUMN_NAMES = frozenset({"split", "splits", "set", "subset", "partition", "fold", "usage", "phase"})


class SplitColumns(NamedTuple):
    """Columns whose every entry is a split, and others that may say to which split a row belongs."""

    certain: list[str]
    possible: list[str]


def called_like_splits(column: str) -> bool:
    """Whether a column's name suggests that it is about splits: ``split``, ``partition``, ``is_valid``."""
    return column.lower() in _COLUMN_NAMES or bool(splits_of_path(column))


def split_columns(entries: Mapping[str, Collection[str]]) -> SplitColumns:
    """Which columns say to which split a row belongs, by the different entries of each."""
    certain = [name for name, values in entries.items() if values and all(map(split_of_word, values))]
    possible = [name for name, values in entries.items() if called_like_splits(name) or any(map(split_of_word, values))]
    return SplitColumns(certain, [name for name in possible if name not in certain])


def split_column(entries: Mapping[str, Collection[str]], where: str, otherwise: str) -> str | None:
    """The column that says to which split a row belongs, by the different entries of each; None: there is none.

    Says which one it is, and which others may be; ``otherwise`` is what to do with those.

    Raises:
        UserError: there are several, or one of that very name that holds something else.
    """
    found = split_columns(entries)
    named = [name for name in entries if name.lower() == "split"]
    if len(found.certain) > 1 or (named and not found.certain):
        raise UserError(
            f"{where}: it is not clear whether {' or '.join(found.certain or named)} says to which split a row belongs; "
            'name the column with --split-column, or give --split-column "" if there is none'
        )
    if found.certain:
        (column,) = found.certain
        warn(f'{where}: the column {column} says to which split a row belongs (--split-column "" if it does not)')
        return column
    for name in found.possible:
        warn(
            f"{where}: the column {name} may say to which split a row belongs, and is not used; {otherwise}, or make one split a "
            f"command by --split-column {name} --split VALUE=val"
        )
    return None


def split_named(value: str, choice: SplitChoice | None, where: str, column: str) -> str:
    """The split that an entry of the split column means: with ``choice`` every word is the name of one.

    Raises:
        UserError: it is no split word, and nobody chose one.
    """
    split = split_of_word(value)
    if split is None and choice is None:
        raise UserError(
            f"{where}: split {value!r} is neither train, val nor test; rename the values, or make each split by a command of "
            f"its own: --split-column {column} --split {value}=train, or {value}=val"
        )
    return split or value.strip().lower()


def refuse_other_name(named: Collection[str], rows: Collection[str], where: str) -> None:
    """Raise UserError where a file is of one split by its name, and all of its rows are of another."""
    if len(named) == len(rows) == 1 and {*named} != {*rows}:
        raise UserError(
            f"{where} is of the split {min(named)} by its name, but its rows are of {min(rows)}; rename it, or say what to "
            f"make of it, with --split {min(rows)}=val"
        )


def splits_of_images(paths: Sequence[str], where: str) -> list[str] | None:
    """The split of each of a table's images by the folders in its path; None: they say nothing.

    Raises:
        UserError: some images lie in folders that are splits, and others in none.
    """
    folders = [path.split("/")[:-1] for path in paths]
    common = [
        one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
    ]
    below = [next(filter(None, map(split_of_word, parts[len(common) :])), None) for parts in folders]
    named = [split for split in below if split is not None]
    if named and len(named) == len(below):
        return named
    if set(named) == {"train"}:  # a thing as well
        warn(
            f"{where}: {len(named)} of the {len(paths)} images lie in a folder called train, which is not taken for a split, as "
            "the others lie in none"
        )
    elif named:
        counts = ", ".join(f"{count} in {split}" for split, count in sorted(Counter(named).items()))
        raise UserError(
            f"{where}: of the {len(paths)} images some lie in folders that are splits ({counts}) and others in none, such as "
            f'{paths[below.index(None)]}; say by a column of splits which is which, or by --split-column "" that there are none'
        )
    own = next(filter(None, map(split_of_word, reversed(common))), None)
    return None if own is None else [own] * len(paths)
