"""Whether an archive beside class folders is a class that was not unpacked, or the set that they were unpacked from.

It is no class of its own if a class folder has its name, if it is called like the set's folder, a split or data in general, or
if what lies in it says so: folders called like the classes, or no image at all.
"""

from __future__ import annotations

import itertools
import tarfile
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from sar_dist.data.layout.classes import class_word
from sar_dist.data.layout.formats import archive_stem, is_archive_name, is_image_name, path_parts
from sar_dist.data.layout.splits import ADDED_TO_SPLITS, split_of_word, words_of

_WHOLE = ADDED_TO_SPLITS | {
    "dataset",
    "datasets",
    "archive",
    "download",
    "downloads",
    "all",
    "devkit",
    "annotations",
    "labels",
}
_LOOKED_AT = 300  # members: to read all of a compressed tar would take as long as to unpack it


def archive_of_a_class(
    root: Path, archives: Sequence[str], classes: Collection[str], *, inside: bool = False
) -> str | None:
    """The first of ``archives`` (paths below ``root``) that is a class of its own as far as can be told; None: none is.

    ``classes`` are the class folders; ``inside``: the archives lie in a folder of their own, which says what class they are.
    """
    known = {class_word(part).casefold() for name in classes for part in (name, name.rpartition("/")[2])}
    above = {part.casefold() for part in root.resolve().parts}
    for archive in filter(is_archive_name, archives):
        folder, _, name = archive.rpartition("/")
        stem = archive_stem(name)
        path = f"{folder}/{stem}" if folder and not inside else stem
        if {class_word(path).casefold(), class_word(stem).casefold()} & known or stem.casefold() in above:
            continue
        if not inside and all(split_of_word(word) or word in _WHOLE for word in words_of(stem)):
            continue
        members = _first_members(root / archive)
        if members is not None and not any(map(is_image_name, members)):
            continue
        folders = {class_word(part).casefold() for member in members or () for part in path_parts(member)[:-1]}
        if not folders & known:
            return archive
    return None


def _first_members(archive: Path) -> list[str] | None:
    """Names of the first members of a zip archive or tar; None: it cannot be read."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                return content.namelist()
        with tarfile.open(archive, "r|*") as tar:
            return [member.name for member in itertools.islice(tar, _LOOKED_AT)]
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, ImportError):
        return None
