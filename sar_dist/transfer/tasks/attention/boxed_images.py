"""Images with boxes of their objects, as ``attention_boxes`` reads them: a table beside the images, or Tiny ImageNet."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch

from sar_dist.data.layout import is_tiny_imagenet, tiny_imagenet_images
from sar_dist.errors import UserError
from sar_dist.files import read_regular
from sar_dist.transfer import DrawnOn, digest_of_files, shown_size, turn_to_box, turned_back
from sar_dist.transfer.tasks.attention.regions import image_size
from sar_dist.transfer.tasks.attention.turned_masks import png_of_mask

BOXES_FILE = "boxes.csv"
MASK = "mask.png"
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

    def __init__(self, root: Path, split: Literal["train", "val"], drawn_on: DrawnOn | None = None) -> None:
        self._root = root
        self._drawn_on = drawn_on
        table = root / BOXES_FILE
        if table.is_file():
            boxes, content = _read_table(table)
            self._boxes = [(path, box) for path, box in boxes if path.startswith(f"{split}/")]
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
        try:
            image = read_regular(self._root / path)
        except OSError as error:
            raise UserError(f"cannot read {self._root / path}, which {BOXES_FILE} names: {error.strerror}") from error
        size = image_size(image)
        if size is None:
            return path, {"jpg": image}
        turn = turn_to_box(path, image, self._drawn_on)
        mask = _box_mask(box, shown_size(size, turn))
        return path, {"jpg": image, MASK: png_of_mask(turned_back(mask, turn))}


def _read_table(table: Path) -> tuple[list[tuple[str, Box]], bytes]:
    """The boxes with the paths of their images, and the table's content."""
    try:
        content = read_regular(table)
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig")), strict=True))
        boxes = [(row["path"], cast("Box", tuple(int(row[name]) for name in _COLUMNS[1:]))) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"{table} is no table with the columns {','.join(_COLUMNS)}: {error}; correct it (whole pixels, separated by commas)"
        ) from error
    turned = [
        number
        for number, (_, (left, top, right, bottom)) in enumerate(boxes)
        if not (0 <= left <= right and 0 <= top <= bottom)
    ]
    if turned:
        path, box = boxes[turned[0]]
        raise UserError(
            f"{table}: {len(turned)} boxes end before they begin, or begin outside of their image, such as {box} of {path}; "
            f"the columns are {','.join(_COLUMNS)}, the last pixels included"
        )
    return boxes, content


def _box_mask(box: tuple[int, ...], size: tuple[int, int]) -> torch.Tensor:
    """uint8 of ``size`` (height, width), white in the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[max(0, top) : bottom + 1, max(0, left) : right + 1] = 255
    return mask
