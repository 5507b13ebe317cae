"""Class folders whose names say that they may be no classes: chunks of a set, copies of a folder, forms of the same images.

All of it may be meant, so it is said. img2dataset's ``files`` output, whose folders are chunks for certain, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sar_dist.data.layout.formats import IMAGE_EXTENSIONS
from sar_dist.errors import UserError

_SHOWN = 3
_CHUNK = re.compile(r"(?P<word>[a-z][a-z _-]*?)[ _.-]*(?P<part>\d+|[a-z])", re.IGNORECASE)
_CHUNK_WORDS = frozenset(
    "archive bag batch block bucket bundle cam camera chunk client collection data dataset device dir directory disc disk"
    " download export fold folder fragment frames group hospital images img imgs job node pack package page part partition"
    " photos piece pictures rank run scan section segment session set shard site slice split subset tranche vol volume worker"
    " zip".split()
)
_DATE = re.compile(r"(19|20)\d\d([-_. ]?\d\d){0,2}")
_SIZE = re.compile(r"\d+ ?x ?\d+(px)?|\d+ ?px", re.IGNORECASE)
_FORMS = frozenset(
    "original originals orig resized raw processed preprocessed cropped crops augmented aug thumbs thumbnails thumb fullsize"
    " full hires lowres lores highres annotated scaled downscaled".split()
)
_PUT_AWAY = frozenset(
    "backup backups bak deleted duplicates old rejected removed temp tmp todo trash unsorted unused".split()
)
_NEW_FOLDER = re.compile(r"(new|untitled) folder( ?\(?\d+\)?)?", re.IGNORECASE)
_COPY = (
    re.compile(r"(?P<name>.+?)(?: ?\(\d+\))"),
    re.compile(r"(?P<name>.+?)[ _-]*\(?copy\)?(?:[ _-]*\(?\d+\)?)?", re.IGNORECASE),
    re.compile(r"copy (?:\(\d+\) )?of (?P<name>.+)", re.IGNORECASE),
)
_JOINTS = re.compile(r"[ _.-]+")
_KEYS_FOLDER = re.compile(r"\d{5,}")


def remarks_on_names(names: Sequence[str]) -> list[str]:
    """What there is to say about the class folders ``names`` that may be something else by their names."""
    said: list[str] = []
    if len(names) > 1:
        kind = next((what for what, fits in _KINDS if fits(names)), None)
        if kind is not None:
            said.append(
                f"the {len(names)} classes are called like {kind}, and not by what images show ({_list(names)}); if they are that, put "
                "the images of each class into a folder, or list images and labels in a table for `make_shards.py csv`"
            )
    aside = [name for name in names if name.strip("_ .-").casefold() in _PUT_AWAY or _NEW_FOLDER.fullmatch(name)]
    if aside and len(aside) < len(names):
        said.append(f"{len(aside)} folders called like what is put away are taken for classes ({_list(aside)})")
    copies = [(name, of) for name in names if (of := _copied(name, names)) is not None]
    if copies:
        name, of = copies[0]
        more = f", as {len(copies) - 1} others are" if len(copies) > 1 else ""
        said.append(
            f"{name!r} is a class beside {of!r}, and is called like a copy of it{more}; move it away if it is one"
        )
    return said + _alike(names)


def refuse_downloaded_chunks(
    root: Path, images: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]
) -> None:
    """Raise UserError where folders are img2dataset's: called by numbers, with a ``.json`` beside nearly every image.

    ``images`` and ``others``, files that are no images, are paths by the class folder.
    """
    if not all(map(_KEYS_FOLDER.fullmatch, images)):
        return
    described = {path.removesuffix(".json") for paths in others.values() for path in paths if path.endswith(".json")}
    keys = [path.rpartition(".")[0] for paths in images.values() for path in paths]
    if 2 * sum(key in described for key in keys) > len(keys):
        raise UserError(
            f"the folders in {root} ({_list([*images])}) are parts of a download by img2dataset, and no classes: what is known of "
            f"{keys[0]} is in {keys[0]}.json; download with --output_format webdataset for `make_shards.py tars SRC OUT --label "
            "json.FIELD`, or write images and labels into a table for `make_shards.py csv`"
        )


def _are_chunks(names: Sequence[str]) -> bool:
    found = [_CHUNK.fullmatch(name) for name in names]
    words = {match["word"].strip(" _-").casefold() for match in found if match}
    return all(found) and len(words) == 1 and words <= _CHUNK_WORDS


def _all_in(words: frozenset[str]) -> Callable[[Sequence[str]], bool]:
    return lambda names: all(name.casefold() in words for name in names)


def _all_like(pattern: re.Pattern[str]) -> Callable[[Sequence[str]], bool]:
    return lambda names: all(map(pattern.fullmatch, names))


_KINDS: tuple[tuple[str, Callable[[Sequence[str]], bool]], ...] = (
    ("numbered parts of a set", _are_chunks),
    ("formats of files", _all_in(frozenset(IMAGE_EXTENSIONS))),
    ("forms of the same images", _all_in(_FORMS)),
    ("sizes of images", _all_like(_SIZE)),
    ("dates", _all_like(_DATE)),
)


def _copied(name: str, names: Sequence[str]) -> str | None:
    """The folder among ``names`` of which ``name`` is a copy by its name."""
    for pattern in _COPY:
        match = pattern.fullmatch(name)
        if match is not None and match["name"] in names:
            return match["name"]
    return None


def _alike(names: Sequence[str]) -> list[str]:
    taken: dict[str, str] = {}
    for name in sorted(names):
        other = taken.setdefault(_JOINTS.sub("", name), name)
        if other != name and any(not character.isdecimal() for character in name if character.isalnum()):
            return [
                f"{other!r} and {name!r} are two classes, which differ in what is between words; if they are one, rename it"
            ]
    return []


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
