"""Images with boxes of their objects, as ``attention_boxes`` reads them: a table beside the images, or Tiny ImageNet."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import cast

import torch

from sar_dist.data.layout import is_tiny_imagenet, tiny_imagenet_images
from sar_dist.data.making.sources import read_rows
from sar_dist.data.shards import Split
from sar_dist.errors import UserError, shortened
from sar_dist.files import read_regular
from sar_dist.output import warn
from sar_dist.transfer import UPRIGHT, DrawnOn, digest_of_files, shown_size, turn_to_box, turned_back
from sar_dist.transfer.tasks.attention.exact_masks import MASK
from sar_dist.transfer.tasks.attention.regions import image_size
from sar_dist.transfer.tasks.attention.turned_masks import png_of_mask

BOXES_FILE = "boxes.csv"
_WHOLE_PIXELS = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
_COLUMNS = ("path", "xmin", "ymin", "xmax", "ymax")

Box = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax in pixels, the last ones included


def has_boxes(root: Path) -> bool:
    """Whether ``BoxedImages`` reads the folder."""
    return (root / BOXES_FILE).is_file() or is_tiny_imagenet(root)


class BoxedImages:
    """Images of a folder with boxes of their objects, of ``boxes.csv`` (path,xmin,ymin,xmax,ymax; pixels, both ends inclusive)
    or of Tiny ImageNet's own lists.

    A sample is an image and one of its boxes; the box is the member ``mask.png``, of the image's size, white inside.
    ``drawn_on`` says which pixels the boxes of images with an EXIF orientation count, see ``turn_to_box``.

    Raises:
        UserError: a list cannot be read, or has no box of the split.
    """

    classes: tuple[str, ...] | None = None

    def __init__(self, root: Path, split: Split, drawn_on: DrawnOn | None = None) -> None:
        self._root = root
        self._drawn_on = drawn_on
        table = root / BOXES_FILE
        if table.is_file():
            self._boxes, content = _boxes_of_split(root, table, split)
        else:
            self._boxes = [(image.path, image.box) for image in tiny_imagenet_images(root, split)]
            content = repr(self._boxes).encode()
        if not self._boxes:
            raise UserError(f"{table if table.is_file() else root} has no box of an image in {split}/")
        listed = hashlib.sha256(content + split.encode()).hexdigest()
        self.fingerprint = digest_of_files(
            listed, (root / path for path in dict.fromkeys(path for path, _ in self._boxes))
        )

    def __len__(self) -> int:
        return len(self._boxes)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        path, box = self._boxes[number]
        image, turn, size = self._image(path)
        if size is None:
            return path, {"jpg": image}
        return path, {"jpg": image, MASK: png_of_mask(turned_back(_box_mask(box, size), turn))}

    def check_boxes(self, numbers: Iterable[int]) -> None:
        """Look at images and boxes before anything is computed: what lies outside of an image would be cut off without a word.

        Raises:
            UserError: an image is not there, or a box ends beyond its image.
        """
        beyond = []
        for number in numbers:
            path, box = self._boxes[number]
            size = self._image(path)[2]
            # One pixel more is an end that is not included, as other formats have it.
            if size is not None and (box[2] > size[1] or box[3] > size[0]):
                beyond.append((path, box, size))
        if beyond:
            path, box, (height, width) = beyond[0]
            raise UserError(
                f"{len(beyond)} boxes of {self._root} end beyond their image, such as {box} of {path}, which is {width}x{height} pixels; "
                "boxes are xmin,ymin,xmax,ymax in pixels of the image as it is stored: scale them, or leave them out"
            )

    def _image(self, path: str) -> tuple[bytes, int, tuple[int, int] | None]:
        """An image, how it is turned to its box, and the height and width that the box counts; None: it cannot be read."""
        try:
            image = read_regular(self._root / path)
        except OSError as error:
            raise UserError(f"cannot read {self._root / path}, which {BOXES_FILE} names: {error.strerror}") from error
        size = image_size(image)
        if size is None:
            return image, UPRIGHT, None
        turn = turn_to_box(path, image, self._drawn_on)
        return image, turn, shown_size(size, turn)


def _boxes_of_split(root: Path, table: Path, split: Split) -> tuple[list[tuple[str, Box]], bytes]:
    """The boxes of a split's images with the paths of these, however they are spelled, and the table's content.

    Raises:
        UserError: the table cannot be read, or a box is none.
    """
    content = read_rows(table, _COLUMNS, f"{','.join(_COLUMNS)}, in whole pixels")
    boxes: dict[str, list[tuple[str, Box]]] = defaultdict(list)
    turned = []
    for line, row in zip(content.lines, content.rows, strict=True):
        box = cast("Box", tuple(_pixels(row[name], f"{table}, line {line}: {name}") for name in _COLUMNS[1:]))
        if not (0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]):
            turned.append((row["path"], box))
        folder, path = _split_and_path(root, row["path"])
        boxes[folder].append((path, box))
    if turned:
        path, box = turned[0]
        raise UserError(
            f"{table}: {len(turned)} boxes end before they begin, or begin outside of their image, such as {box} of {path}; "
            f"the columns are {','.join(_COLUMNS)}, the last pixels included"
        )
    if boxes[""]:
        warn(
            f"{table}: left out {len(boxes[''])} boxes of images that are neither in train/ nor in val/, such as {boxes[''][0][0]}"
        )
    return boxes[split], read_regular(table)


def _split_and_path(root: Path, written: str) -> tuple[str, str]:
    """The split of an image ("" for another folder), and its path below ``root``: ``./val/a.png``, ``Val\\a.png`` are in val/."""
    as_posix = written if (root / written).is_file() else written.replace("\\", "/")
    path = PurePosixPath(os.path.normpath(as_posix))
    folder = path.parts[0].casefold() if len(path.parts) > 1 else ""
    if folder not in ("train", "val"):
        return "", written
    spelled = PurePosixPath(folder, *path.parts[1:])
    return folder, str(path if (root / path).is_file() else spelled)


def _pixels(field: str, where: str) -> int:
    """A whole number of pixels. Raises UserError."""
    if not _WHOLE_PIXELS.fullmatch(field):
        raise UserError(f"{where} is {shortened(repr(field), 40)}; boxes are in whole pixels, such as 12: correct it")
    return int(field.partition(".")[0])


def _box_mask(box: tuple[int, ...], size: tuple[int, int]) -> torch.Tensor:
    """uint8 of ``size`` (height, width), white in the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[max(0, top) : bottom + 1, max(0, left) : right + 1] = 255
    return mask
