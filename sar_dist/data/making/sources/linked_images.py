"""Rows of a table or list that are one image file under several names, through links."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from sar_dist.data.layout import class_word
from sar_dist.errors import UserError, shortened
from sar_dist.output import warn


def check_links(root: Path, paths: Sequence[str], labels: Sequence[str], where: Callable[[int], str]) -> None:
    """Say which of ``paths`` below ``root`` are one file, through symbolic or hard links, as stores without duplicates have them.

    ``where`` is what messages call the row of a number. Files that are not there are for others to say.

    Raises:
        UserError: one file has two labels.
    """
    first: dict[tuple[int, ...], int] = {}
    linked: list[tuple[int, int]] = []
    for place, path in enumerate(paths):
        try:
            state = os.stat(os.path.join(root, path))
        except (OSError, ValueError):
            continue
        # With size and time, since some network file systems number files anew as they are looked at.
        other = first.setdefault((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns), place)
        if other == place or not state.st_ino:
            continue
        linked.append((other, place))
        if class_word(labels[other]) != class_word(labels[place]):
            raise UserError(
                f"{where(place)}: {path} is the same file as {paths[other]}, through a link, but has the label "
                f"{shortened(labels[place], 40)} here and {shortened(labels[other], 40)} there; take one of the rows out"
            )
    if linked:
        one, other = linked[0]
        warn(
            f"{where(other)}: {paths[other]} and {paths[one]} are one file, through a link; so {len(linked)} images are those "
            "of earlier rows, and stay there as often as they are listed"
        )
