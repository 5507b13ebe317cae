"""Class folders that would be lost, or be one folder for several, as their files are called otherwise than is read.

Refused are a folder whose images are in formats that nothing reads, one whose files are images by their content and not by their
names (``7``, ``7.jpg?w=300``), and one whose files have the folders in their names, as zip archives from Windows leave them
(``cat\\\\7.jpg``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sar_dist.data.layout.formats import IMAGE_EXTENSIONS, format_of_image, is_unread_image
from sar_dist.errors import UserError

# What is called so is no image, whatever it holds.
_DOCUMENTS = (
    ".txt",
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".xml",
    ".html",
    ".md",
    ".yaml",
    ".yml",
    ".pdf",
    ".mp4",
    ".avi",
)
_LOOKED_AT = 20  # files of a folder: all are of one kind, or some of them will do
_UNPACKED = (
    "holds its folders in its name, as a zip archive from Windows has them that another program unpacked; unpack it again "
    "with `unzip`, or move such files into these folders"
)


def refuse_unread(root: Path, ignored: Sequence[str]) -> None:
    """Raise UserError where the files of a folder without images, paths below ``root``, are images all the same."""
    unread = [path for path in ignored if is_unread_image(path)]
    if unread:
        raise UserError(
            f"{root / unread[0]} and the other images of its class are in a format that is not read; convert them to JPEG "
            "or PNG, or move the class away"
        )
    others = [path for path in ignored if not path.lower().endswith(_DOCUMENTS)]
    unnamed = next((path for path in others[:_LOOKED_AT] if _is_image(root / path)), None)
    if unnamed is not None:
        raise UserError(
            f"{root / unnamed} is an image, and is not called so; let the names of its class end in .jpg, .png and so on, or move the "
            "class away"
        )


def refuse_folders_in_names(root: Path, paths: Sequence[str]) -> None:
    """Raise UserError where all files of a folder, paths below ``root``, have backslashes in their names."""
    names = [path.rpartition("/")[2] for path in paths]
    if names and all("\\" in name for name in names):
        raise UserError(f"{root / paths[0]} {_UNPACKED}")


def _is_image(file: Path) -> bool:
    """Whether a file begins like an image in a format that is read."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as content:
            start = content.read(16)
    except OSError:
        return False
    return format_of_image(start) in IMAGE_EXTENSIONS
