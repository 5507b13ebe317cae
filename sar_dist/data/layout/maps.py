"""Which folders and files hold maps of images (masks, ground truth, labels of pixels) by their names, and belong to no class.

A class may be called "mask": it is taken for maps only beside what is called like images, or like itself without the word; and
in the second case ("face" and "face_mask") only if its files are called like the images, and do not look like photographs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image

from sar_dist.data.layout.formats import IMAGE_EXTENSIONS
from sar_dist.data.layout.splits import words_of

# Folders by the part that they have in a set's layout, in lower case and without digits and separators.
_IMAGES = frozenset({"images", "image", "imgs", "img", "photos", "pictures", *IMAGE_EXTENSIONS})
_MAPS = frozenset({"masks", "mask", "labels", "label", "gt", "gts", "segmentation", "segmentations"})
_NEVER_CLASSES = frozenset(
    {"annotations", "annotation", "imagesets", "jpegimages", "segmentationclass", "segmentationclassaug"}
    | {"segmentationobject", "segmentations", "trimaps"}
)
_GROUND_TRUTH = "groundtruth"
_INPUTS = frozenset({"input", "inputs"})
# What the maps of an image in the same folder are called: its own name, and such words behind it.
_MAP_WORDS = _MAPS | frozenset(
    {"seg", "segm", "segmented", "lesion", "lesions", "contour", "contours", "annotation", "annotations", "annot"}
    | {"annotated", "truth", "groundtruth", "trimap", "trimaps"}
)
_BESIDE_MAP_WORDS = frozenset(
    {"binary", "ground", "color", "colour", "fine", "coarse", "train", "id", "ids", "instance"}
)
_SEPARATOR = re.compile(r"[ _.-]")
# A suffix that may mean something else: of maps where every image has one, as in the Herlev set of cells.
_MAP_OF_EVERY_IMAGE = "-d"
_LOOKED_AT = 8
_MOST_COLOURS_OF_A_MAP = 1000  # of 64 x 64 pixels
_NO_LETTER = re.compile(r"[\W\d_]+")


def maps_by_name(images: Sequence[str]) -> list[str]:
    """Those of the ``images`` (paths of one class) that are called like a map of another one, such as a_mask.png beside a.png."""
    stems = {path.rpartition(".")[0] for path in images}
    whole = [path for path in images if _without_suffix(path) in stems]
    every = {*whole} if 2 * len(whole) >= len(images) else set()
    return [path for path in images if path in every or _is_map_of(path.rpartition(".")[0], stems)]


def _is_map_of(stem: str, stems: Collection[str]) -> bool:
    """Whether a name without its extension is one of ``stems`` and words for a map behind it."""
    for separator in _SEPARATOR.finditer(stem):
        if stem[: separator.start()] in stems:
            words = {*words_of(stem[separator.start() :])}
            if words & _MAP_WORDS and words <= _MAP_WORDS | _BESIDE_MAP_WORDS:
                return True
    return False


def _without_suffix(path: str) -> str | None:
    stem = path.rpartition(".")[0]
    return stem[: -len(_MAP_OF_EVERY_IMAGE)] if stem.lower().endswith(_MAP_OF_EVERY_IMAGE) else None


def same_but_for_extension(images: Sequence[str]) -> list[str]:
    """Those of the ``images`` (paths) that differ from an earlier one in the extension alone, as some sets call their maps."""
    first: dict[str, str] = {}
    return [path for path in images if first.setdefault(path.rpartition(".")[0], path) != path]


def images_alone(names: Sequence[str]) -> bool:
    """Whether folders are called like images of all classes: ``images`` alone, or ``images_001``, ``images_002`` and so on."""
    return len({_part(name) for name in names}) == 1 and not _IMAGES.isdisjoint(_NO_LETTER.split(names[0].lower()))


def parts_of_a_layout(names: Sequence[str], *, beside_images: bool = False) -> tuple[list[str], list[str]]:
    """Images and maps among the ``names`` of folders beside each other; ``beside_images``: images lie there too."""
    never = [name for name in names if _part(name) in _NEVER_CLASSES or _GROUND_TRUTH in _part(name)]
    images, maps = [[name for name in names if _part(name) in kind and name not in never] for kind in (_IMAGES, _MAPS)]
    if not maps or not (images or beside_images):
        images, maps = _parts_by_word([name for name in names if name not in never])
    return images, never + maps


def _parts_by_word(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """As ``parts_of_a_layout``, by single words of the names: ``lung masks``, ``Trout GT``; none unless most folders are such parts.

    The classes of a large set may be called so: "ski" and "ski mask".
    """
    maps = {name: words for name in names if not _MAPS.isdisjoint(words := words_of(name))}
    called = [[word for word in words if word not in _MAPS] for words in maps.values()]
    images = [
        name
        for name in names
        if name not in maps and (not (_IMAGES | _INPUTS).isdisjoint(words_of(name)) or words_of(name) in called)
    ]
    return (images, [*maps]) if images and maps and 2 * len([*images, *maps]) >= len(names) else ([], [])


def are_classes(root: Path, names: Sequence[str], images: Sequence[str], maps: Sequence[str]) -> bool:
    """Whether what is called like maps of the folders ``names`` is a class as these are, by the files in both (paths below ``root``)."""
    if not names or any(not (_IMAGES | _INPUTS).isdisjoint(words_of(name)) for name in names):
        return False
    stems = {_plain_stem(path) for path in images}
    if 4 * sum(_plain_stem(path) in stems for path in maps) < len(maps):
        return True
    looked_at = maps[:: max(1, len(maps) // _LOOKED_AT)][:_LOOKED_AT]
    return all(_is_photograph(root / path) for path in looked_at)


def _plain_stem(path: str) -> tuple[str, ...]:
    """The letters and numbers of a file's name, without what says that it is an image or a map."""
    stem = path.rpartition("/")[2].rpartition(".")[0].lower()
    return tuple(part for part in re.findall(r"[^\W\d_]+|\d+", stem) if part not in _MAP_WORDS | _IMAGES)


def _is_photograph(path: Path) -> bool:
    """Whether an image has more colours than maps have, also those that were stored as JPEG."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
    return small.getcolors(_MOST_COLOURS_OF_A_MAP) is None


def _part(name: str) -> str:
    return _NO_LETTER.sub("", name.lower())
