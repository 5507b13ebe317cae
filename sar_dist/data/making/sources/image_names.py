"""Images that tables and lists name without their folder or extension, as many public sets do, found by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sar_dist.data.layout import is_image_name, is_left_over, splits_of_path
from sar_dist.errors import UserError


class ImageNames:
    """The images below a folder by the names that a list may give them; looked up when a name is no path of a file there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, list[str]] | None = None

    def path_of(self, name: str) -> str | None:
        """The path below the folder of the image ``name``: its path, with or without extension, or its name in any folder.

        None: there is no such image.

        Raises:
            UserError: there are several.
        """
        plain = name.lstrip("/")
        if is_image_name(plain) and os.path.lexists(self._root / plain):
            return plain
        if self._found is None:
            self._found = _by_name(self._root)
        found = self._found.get(plain, [])
        if len(found) > 1:
            raise UserError(self._several(name, found))
        return found[0] if found else None

    def _several(self, name: str, found: Sequence[str]) -> str:
        """What to say of a name that ``found`` fit, and what helps: training images first, as a table lists those."""
        ordered = sorted(found, key=lambda path: splits_of_path(path) != {"train"})
        folders = [*dict.fromkeys(path.rpartition("/")[0] for path in ordered)]
        what = f"{name} may be {' or '.join(ordered[:2])} in {self._root}"
        if len(folders) == 1:
            return f"{what}; list the images with their extensions, or move away those that are not meant"
        choices = " or ".join(f"--images {self._root / folder}" for folder in folders[:2])
        return f"{what}; say in which folder the images are: {choices}"


def _by_name(root: Path) -> dict[str, list[str]]:
    """Paths of the images below ``root`` by path without extension, and by name with and without it."""
    found: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not is_left_over(name))
        below = os.path.relpath(folder, root)
        for file in sorted(files):
            if not is_image_name(file) or is_left_over(file):
                continue
            path = file if below == "." else f"{below}/{file}"
            for name in {path.rpartition(".")[0], file, file.rpartition(".")[0]}:
                found.setdefault(name, []).append(path)
    return found


def folder_of_images(names: Sequence[str], near: Iterable[Path]) -> Path | None:
    """The folder in which, or below which, the first of ``names`` is an image: one of ``near``, or of those in them; None: no one.

    Raises:
        UserError: it is there in several folders of one of ``near``.
    """
    for place in near:
        folders = [
            place,
            *sorted(entry for entry in place.iterdir() if entry.is_dir() and not is_left_over(entry.name)),
        ]
        for folder in folders:
            plain = folder / names[0].lstrip("/")
            if is_image_name(plain.name) and plain.is_file():
                return folder
        if ImageNames(place).path_of(names[0]) is not None:
            return place
    return None
