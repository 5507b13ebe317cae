"""Images with maps of labels, from folders or shards: reading, remapping, and one check of everything before training."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from sar_dist import distributed
from sar_dist.data.images import UndecodableImage, check_png, decode_image
from sar_dist.data.making.sources import SEGMENTATION_EXTENSION, VOC_CLASSES
from sar_dist.errors import UserError, text_of
from sar_dist.files import atomic_write, make_folder
from sar_dist.transfer import (
    MAX_PIXELS,
    UPRIGHT,
    DrawnOn,
    SampleSet,
    image_of,
    numbers_by_name,
    turn_to_map,
    turned,
)

VOID = 255
# Of maps of 16 bits, as sets of many classes have them: Pillow's modes, by its version, and the number that is void.
_MODES_OF_16_BITS = ("I;16", "I;16B", "I")
_VOID_OF_16_BITS = 65535
_SAY_EVERY = 2000
# Place of the byte in a PNG file: signature, length and name of the first chunk, width and height come before it.
_BIT_DEPTH = 24
_CHECKED_FIRST = 8


class SegmentationSamples:
    """Decoded samples of a split.

    Attributes:
        samples: the files.
        classes: names of the classes by training label.
        zero_is_void: the stored labels are those of ADE20K: 0 is "other", k is class k - 1.
        drawn_on: which pixels maps were drawn on where sizes do not tell, see ``turn_to_map``.
        renumbered: the maps count these classes in another order, which is undone by name.

    Args:
        own: names by the maps' own labels; None: ``classes``.

    Raises:
        UserError: more classes than a map has numbers for, or one of ``own`` is none of ``classes``.
    """

    def __init__(
        self,
        samples: SampleSet,
        classes: tuple[str, ...],
        *,
        zero_is_void: bool,
        drawn_on: DrawnOn | None = None,
        own: tuple[str, ...] | None = None,
    ) -> None:
        check_class_count(len(classes), zero_is_void=zero_is_void)
        table = {} if own is None or own == classes else numbers_by_name(own, classes, "the training split")
        self.renumbered = any(label != number for label, number in table.items())
        self._own_classes = len(classes if own is None else own)
        self._numbers = torch.tensor([table.get(label, label) for label in range(VOID + 1)], dtype=torch.uint8)
        self.samples = samples
        self.classes = classes
        self.zero_is_void = zero_is_void
        self.drawn_on = drawn_on
        self.fingerprint = samples.fingerprint
        if self.renumbered:
            self.fingerprint = hashlib.sha256(f"{samples.fingerprint} {sorted(table.items())}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, number: int) -> tuple[str, Tensor, Tensor]:
        """Key, uint8 image (3, H, W), turned to lie as its map, and uint8 labels (H, W): 0..classes-1, or 255 for void.

        Raises:
            UndecodableImage: one of the two files is missing or damaged.
            UserError: they do not go together, or the labels are not those of ``classes``.
        """
        return self.read_turned(number)[:3]

    def read_turned(self, number: int) -> tuple[str, Tensor, Tensor, int]:
        """As ``read``, and by which EXIF orientation the image was turned (1: not)."""
        key, members = self.samples.sample(number)
        label = self._label_of(key, members)
        data = image_of(members)
        image = decode_image(data, MAX_PIXELS)
        size, drawn = (image.shape[1], image.shape[2]), (label.shape[0], label.shape[1])
        turn = turn_to_map(key, data, size, (members[SEGMENTATION_EXTENSION], drawn), self.drawn_on)
        image = turned(image, turn)
        if image.shape[1:] != label.shape:
            raise UserError(
                f"{key}: the image has {image.shape[2]}x{image.shape[1]} pixels, its map of labels "
                f"{label.shape[1]}x{label.shape[0]}; remove both or repair one"
            )
        return key, image, label, turn

    def check_some(self) -> None:
        """Read a few samples spread over the split, to find what is wrong with all of them at once. Raises UserError."""
        for number in {round(place * (len(self) - 1) / (_CHECKED_FIRST - 1)) for place in range(_CHECKED_FIRST)}:
            with contextlib.suppress(UndecodableImage):  # the census counts and names those
                self.read(number)

    def label_alone(self, number: int) -> Tensor | None:
        """The labels of a sample whose image cannot be read; None where they cannot be read either. Raises UserError."""
        try:
            return self._label_of(*self.samples.sample(number))
        except UndecodableImage:
            return None

    def _label_of(self, key: str, members: Mapping[str, bytes]) -> Tensor:
        if SEGMENTATION_EXTENSION not in members:
            raise UndecodableImage("no map of labels")
        stored = decode_labels(members[SEGMENTATION_EXTENSION], key)
        check_labels(key, stored, self._own_classes, zero_is_void=self.zero_is_void)
        labels = remap_labels(stored, zero_is_void=self.zero_is_void)
        return self._numbers[labels.long()] if self.renumbered else labels


def decode_labels(data: bytes, key: str) -> Tensor:
    """The stored labels of a PNG, uint8 (H, W); palette images give their indices, maps of 16 bits their numbers up to 255.

    Raises:
        UndecodableImage: damaged, or not a PNG.
        UserError: the PNG holds colours instead of labels, grey values of less than 8 bits, or numbers that 8 bits do not hold.
    """
    check_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UndecodableImage(f"map of labels of {image.width}x{image.height} pixels")
            if image.mode in _MODES_OF_16_BITS:
                return _of_16_bits(np.array(image), key)
            if image.mode not in ("L", "P"):
                raise UserError(
                    f"{key}: its map of labels has mode {image.mode}, expected 8-bit grey (L) or palette (P) as in "
                    "ADEChallengeData2016 and VOC; the full ADE20K data set with coloured maps is another one"
                )
            if image.mode == "L" and data[_BIT_DEPTH] < 8:
                raise UserError(
                    f"{key}: its map of labels has {data[_BIT_DEPTH]} bits of grey, which readers stretch to 0..255; store it with 8 "
                    "bits, or as a palette image"
                )
            return torch.from_numpy(np.array(image))
    except UnidentifiedImageError as error:
        raise UndecodableImage("its map of labels is not a PNG") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # What Pillow raises for broken PNG chunks, truncated data and impossible headers.
        raise UndecodableImage(f"map of labels: {text_of(error)}") from error


def _of_16_bits(stored: np.ndarray, key: str) -> Tensor:
    """The labels of a map of 16 bits as those of 8: the highest number is void in both."""
    labels = np.where(stored == _VOID_OF_16_BITS, VOID, stored)
    highest = int(labels.max(initial=0))
    if highest > VOID:
        raise UserError(
            f"{key}: its map of 16 bits has the label {highest}, and at most 254 classes with labels up to 254 are read here, as maps become "
            "8 bits; write maps in which labels are classes from 1 (instance and panoptic ids hold a class times a number: divide), "
            "and merge or leave out classes beyond that"
        )
    return torch.from_numpy(labels.astype(np.uint8))


def has_voc_labels(classes: tuple[str, ...] | None) -> bool:
    """Whether the class names are those of VOC's maps, in which 0 is a class, the background, and not void."""
    return classes == tuple(VOC_CLASSES)


def check_class_count(classes: int, *, zero_is_void: bool) -> None:
    """Raise UserError if maps of 8 bits have no number for some of ``classes``: 255 is void, in ADE20K's labels 0 too."""
    most = VOID - int(zero_is_void)
    if classes > most:
        raise UserError(
            f"the set names {classes} classes, but maps are read as 8 bits, also those of 16, which have numbers for {most}, as {'0 and ' * zero_is_void}{VOID} "
            f"{'are' if zero_is_void else 'is'} void; merge classes or leave some out, in the list and in the maps"
        )


def check_labels(key: str, stored: Tensor, classes: int, *, zero_is_void: bool) -> None:
    """Raise UserError if a map has a stored label, see ``remap_labels``, that is none of ``classes``."""
    labels = stored[stored != VOID]
    highest = int(labels.max()) if labels.numel() else 0
    if highest >= classes + int(zero_is_void):
        raise UserError(
            f"{key}: its map has the label {highest}, but there are only {classes} classes; is it a map of another set, or is the "
            "list of classes too short?"
        )


def remap_labels(stored: Tensor, *, zero_is_void: bool) -> Tensor:
    """ADE20K's stored labels to training labels: 0 and 255 -> 255 (void), k -> k - 1. VOC's are left alone.

    As mmsegmentation's ``reduce_zero_label``.
    """
    if not zero_is_void:
        return stored
    return torch.where((stored == 0) | (stored == VOID), VOID, stored - 1)


@dataclass(frozen=True)
class LabelCensus:
    """What one look at every sample of a split found.

    Attributes:
        pixels: number of pixels of each class.
        unreadable: numbers of the samples of which image or map cannot be read.
        reasons: key and cause of each of them.
        without_map: how many of them have no map that can be read, hence nothing to score.
        turned: number of images that were turned by their EXIF orientation to lie as their maps.
    """

    pixels: list[int]
    unreadable: list[int]
    reasons: list[str]
    without_map: int
    turned: int

    @property
    def majority(self) -> int:
        """The class with the most pixels."""
        return int(np.argmax(self.pixels))


def take_census(data: SegmentationSamples, file: Path, workers: int, say: Callable[[str], None]) -> LabelCensus:
    """Look at every sample once, shared among the processes; the answer is kept in ``file``.

    Raises:
        UserError: a map does not fit its image or the classes, or all samples are unreadable.
    """
    stored = distributed.main_first(lambda: _read_census(file, data))
    if stored is not None:
        return stored
    mine = range(distributed.rank(), len(data), distributed.world_size())
    loader = DataLoader(Subset(_Looks(data), list(mine)), batch_size=None, num_workers=workers)
    pixels = np.zeros(len(data.classes), dtype=np.int64)
    turned_images = without_map = 0
    unreadable: list[tuple[int, str]] = []
    problem = ""
    for done, look in enumerate(loader, start=1):
        pixels += look["pixels"].numpy()
        if look["unreadable"]:
            unreadable.append((look["number"], look["unreadable"]))
        problem = problem or look["problem"]
        turned_images += look["turned"]
        without_map += look["without_map"]
        if done % _SAY_EVERY == 0:
            say(f"checked {done} of {len(mine)} samples")
    gathered = distributed.gather_objects((pixels, unreadable, problem, (without_map, turned_images)))
    for _, _, found, _ in gathered:
        if found:
            raise UserError(found)
    bad = sorted(entry for _, entries, _, _ in gathered for entry in entries)
    if len(bad) == len(data):
        raise UserError(f"none of the {len(data)} samples can be read; the first: {bad[0][1]}")
    total = np.sum([part for part, _, _, _ in gathered], axis=0)
    if not total.any():
        raise UserError(
            f"the maps of all {len(data)} samples hold nothing but void ({VOID}{' or 0' if data.zero_is_void else ''}); "
            f"expected the labels of {len(data.classes)} classes"
        )
    census = LabelCensus(
        pixels=total.tolist(),
        unreadable=[number for number, _ in bad],
        reasons=[reason for _, reason in bad],
        without_map=sum(counts[0] for _, _, _, counts in gathered),
        turned=sum(counts[1] for _, _, _, counts in gathered),
    )
    distributed.main_first(lambda: _write_census(file, data, census))
    return census


class _Looks(Dataset[dict[str, Any]]):
    """For each sample what the census wants to know; errors as values, because a worker's exception is a traceback."""

    def __init__(self, data: SegmentationSamples) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> dict[str, Any]:
        count = len(self._data.classes)
        nothing = torch.zeros(count, dtype=torch.int64)
        look = {"number": number, "pixels": nothing, "unreadable": "", "problem": ""} | dict.fromkeys(
            ("turned", "without_map"), False
        )
        try:
            _, _, label, turn = self._data.read_turned(number)
        except UndecodableImage as error:
            reason = f"{self._data.samples.sample(number)[0]}: {error.reason}"
            return look | {"unreadable": reason, "without_map": self._data.label_alone(number) is None}
        except UserError as error:
            return look | {"problem": str(error)}
        pixels = torch.bincount(label[label != VOID].flatten().long(), minlength=count)
        return look | {"pixels": pixels, "turned": turn != UPRIGHT}


def _read_census(file: Path, data: SegmentationSamples) -> LabelCensus | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_bytes())
        return LabelCensus(**content["census"]) if content["of"] == _census_identity(data) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # damaged: the look is taken again


def _write_census(file: Path, data: SegmentationSamples, census: LabelCensus) -> None:
    make_folder(file.parent)
    with atomic_write(file) as stream:
        stream.write(json.dumps({"of": _census_identity(data), "census": asdict(census)}).encode())


def _census_identity(data: SegmentationSamples) -> list[str | None]:
    """What a census is of; a list, as JSON gives it back."""
    return [data.fingerprint, data.drawn_on]
