"""Files that are called parts of a whole, such as ``train-00002-of-00005.parquet``, or alike in several folders.

What is said or refused is what their names tell: a part that is there twice or not at all, a number that others follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sar_dist.data.layout.hidden_splits import kinds_remark
from sar_dist.data.layout.splits import splits_of_path
from sar_dist.errors import UserError
from sar_dist.output import warn

_PART = re.compile(r"(?P<name>.*?)(?P<part>\d+)-of-(?P<parts>\d+)(?!\d)")
# What is behind the number of a part in names of the same part: nothing, a fingerprint, or what programs that copy add.
_OF_THE_SAME = re.compile(
    r"(?:[-_.](?=[a-z]*\d)[0-9a-f]{6,64}| ?\(\d+\)| - Copy.*|[-_ ]copy.*|~)?(?:\.\w+)?", re.IGNORECASE
)
_NUMBER = re.compile(r"\d{1,15}")
# What browsers, file managers and people add to the name of a copy, before the extension.
_COPY = re.compile(r"(?: ?\(\d+\)| - Copy(?: \(\d+\))?|[-_ ]copy[-_ ]?\d*)$", re.IGNORECASE)


def check_parts(names: Sequence[str], where: str) -> None:
    """Say which parts of a split are not there, and which files in several folders are called alike.

    ``names`` are paths of the split's files, with "/", below ``where``. Folders called KEY=VALUE are parts of one set.

    Raises:
        UserError: folders hold parts of the same number: the same images several times, as in sets of several configurations.
    """
    _say_gaps(names, where)
    if not any(map(splits_of_path, names)) and not splits_of_path(where.rstrip("/").rpartition("/")[2]):
        remark = kinds_remark(names)
        if remark is not None:
            warn(f"{where}: {remark}")
    folder_of: dict[str, str] = {}
    numbers: dict[tuple[str, int], set[int]] = {}
    alike: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        match = _PART.match(base)
        if match is None:
            if "=" not in folder:
                alike.setdefault(base, []).append(name)
            continue
        numbers.setdefault((f"{folder}/{match['name']}", int(match["parts"])), set()).add(int(match["part"]))
        other = folder_of.setdefault(f"{match['name']}{int(match['part'])}", folder)
        if other != folder:
            raise UserError(
                f"{where} holds {base} in {folder or where} and a part of that number in {other or where}, as sets of several "
                "configurations do; give the folder of one of them"
            )
    doubles = [found for found in alike.values() if len(found) > 1]
    if doubles:
        warn(
            f"{where}: all of {' and '.join(doubles[0][:2])} are read; if they are one set in several forms, give one's folder"
        )
    kinds = sorted({f"{name.removeprefix('/')}N-of-{parts}" for name, parts in numbers if "=" not in name})
    if len(kinds) > 1:
        warn(
            f"{where}: {' and '.join(kinds)} are read as parts of one split; if they are sets of their own, give a folder for each"
        )
    for (name, parts), found in numbers.items():
        if len(found) < parts:
            warn(f"{where}: only {len(found)} of the {parts} parts {name.removeprefix('/')}N-of-{parts} are there")


def refuse_doubled_parts(names: Sequence[str], where: str) -> None:
    """Raise UserError where two files are the same one by name, as an older version or a copy beside it: parts of a number, or any."""
    first: dict[tuple[str, int, str], str] = {}
    for name in sorted(names):
        folder, _, base = name.rpartition("/")
        match = _PART.match(base)
        if match is None or not _OF_THE_SAME.fullmatch(base[match.end() :]):
            continue
        other = first.setdefault((f"{folder}/{match['name']}", int(match["part"]), match["parts"]), name)
        if other != name:
            raise UserError(
                f"{where} holds part {match['part']} of {match['parts']} twice, in {other} and {name}; move away the one that is "
                "an older version or a copy"
            )
    _refuse_named_copies(names, where)


def _refuse_named_copies(names: Sequence[str], where: str) -> None:
    """Raise UserError where a file is called as a copy of another one that is there too: ``a (1).tar`` beside ``a.tar``."""
    for name in sorted(names):
        stem, dot, extension = name.rpartition(".")
        original = f"{_COPY.sub('', stem)}{dot}{extension}"
        if original != name and original in names:
            raise UserError(
                f"{where} holds {original} and {name}, whose images would be read twice; move away the one that is an older version or "
                "a copy, or rename it if it is neither"
            )


def _say_gaps(names: Sequence[str], where: str) -> None:
    """Say where numbers from 0 or 1 in names of files that are else the same leave out some: parts may be missing."""
    numbered: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        start = name.rfind("/") + 1
        for match in () if _PART.match(name, start) else _NUMBER.finditer(name, start):
            numbered.setdefault((name[: match.start()], name[match.end() :]), {})[int(match[0])] = match[0]
    for (before, behind), found in numbered.items():
        first, last = min(found), max(found)
        missing = last - first + 1 - len(found)
        if first <= 1 and 0 < missing < len(found):
            absent = next(number for number in range(first, last) if number not in found)
            written = str(absent).zfill(len(found[first]))
            warn(
                f"{where}: {missing} of the files {before}{found[first]}{behind} to {before}{found[last]}{behind} are not there, "
                f"such as {before}{written}{behind}; if they belong to the set, fetch them"
            )
            return
