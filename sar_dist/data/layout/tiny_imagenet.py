"""Tiny ImageNet-200 as it is downloaded: the class of each image, and the box of its object.

``wnids.txt`` has the 200 WordNet synsets, ``words.txt`` what they are called. Training images are
``train/SYNSET/images/SYNSET_0.JPEG``, with ``train/SYNSET/SYNSET_boxes.txt``; validation images lie beside each other in
``val/images``, with ``val/val_annotations.txt``. Boxes are xmin, ymin, xmax, ymax in pixels, the last ones included.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from sar_dist.data.layout.formats import is_image_name
from sar_dist.errors import UserError
from sar_dist.files import read_text

_SYNSETS, _WORDS, _VALIDATION = "wnids.txt", "words.txt", "val/val_annotations.txt"


class TinyImage(NamedTuple):
    """An image: its path below the data set's folder, its synset, and the box of its object."""

    path: str
    synset: str
    box: tuple[int, int, int, int]


def is_tiny_imagenet(root: Path) -> bool:
    """Whether the folder ``root`` holds Tiny ImageNet in this form."""
    return (root / _SYNSETS).is_file() and (root / _VALIDATION).is_file()


def tiny_imagenet_images(root: Path, split: Literal["train", "val"]) -> list[TinyImage]:
    """The images of a split, in the order of the lists.

    Raises:
        UserError: a list cannot be read, or does not name the images that are there.
    """
    if split == "val":
        return _listed(root, "val/images", _VALIDATION, None)
    try:
        folders = sorted(entry.name for entry in os.scandir(root / "train") if entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {root / 'train'}: {error.strerror}") from None
    found = [_listed(root, f"train/{name}/images", f"train/{name}/{name}_boxes.txt", name) for name in folders]
    return [image for images in found for image in images]


def tiny_imagenet_words(root: Path) -> dict[str, str]:
    """What the synsets are called, as far as ``words.txt`` is there: "goldfish, Carassius auratus". Raises UserError."""
    if not (root / _WORDS).is_file():
        return {}
    lines = [line.split("\t") for line in read_text(root / _WORDS).splitlines() if line.strip()]
    return {line[0]: line[1].strip() for line in lines if len(line) > 1}


def _listed(root: Path, folder: str, table: str, synset: str | None) -> list[TinyImage]:
    """The images of ``folder`` as ``table`` lists them: file, synset unless it is given, and four numbers."""
    images = []
    for number, line in enumerate(read_text(root / table).splitlines(), 1):
        name, *rest = line.split("\t")
        of = [synset] if synset is not None else rest[:1]
        try:
            xmin, ymin, xmax, ymax = map(int, rest[len(rest) - 4 :])
        except ValueError:
            xmin, ymin, xmax, ymax = 0, 0, -1, -1
        expected = 5 if synset is not None else 6
        if 1 + len(rest) != expected or not is_image_name(name) or not (0 <= xmin <= xmax and 0 <= ymin <= ymax):
            raise UserError(f"{root / table}: line {number} does not list an image and its box; download it again")
        images.append(TinyImage(f"{folder}/{name}", str(of[0]), (xmin, ymin, xmax, ymax)))
    try:
        there = {f"{folder}/{name}" for name in os.listdir(root / folder) if is_image_name(name)}
    except OSError as error:
        raise UserError(f"cannot read {root / folder}: {error.strerror}") from None
    named = Counter(image.path for image in images)
    if named.keys() != there or len(named) < len(images):
        strange = sorted(named.keys() ^ there) or [path for path, times in named.items() if times > 1]
        raise UserError(
            f"{root / table} lists {len(images)} images, and {len(there)} are there; {strange[0]} is not in both once; complete "
            "the copy"
        )
    return images
