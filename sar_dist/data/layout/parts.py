"""Files that are called parts of a whole, such as ``train-00002-of-00005.parquet``, or alike in several folders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sar_dist.errors import UserError
from sar_dist.output import warn

_PART = re.compile(r"(?P<name>.*?)(?P<part>\d+)-of-(?P<parts>\d+)(?!\d)")


def check_parts(names: Sequence[str], where: str) -> None:
    """Say which parts of a split are not there, and which files in several folders are called alike.

    ``names`` are paths of the split's files, with "/", below ``where``. Folders called KEY=VALUE are parts of one set.

    Raises:
        UserError: folders hold parts of the same number: the same images several times, as in sets of several configurations.
    """
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
