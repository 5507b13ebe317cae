"""Object masks for scoring attention: opened from VOC, ADE20K or demo data, resized, and counted patch by patch.

Attention is constant on a patch, so an intersection over union of whole images needs no more of an object than how many
of its pixels lie in each patch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, from_numpy

from sar_dist.data.images import UndecodableImage, decode_pil
from sar_dist.data.layout import image_member
from sar_dist.data.making.sources import SEGMENTATION_EXTENSION, Source, ade20k_sources, voc_sources
from sar_dist.errors import UserError
from sar_dist.transfer import (
    MAX_PIXELS,
    UPRIGHT,
    DrawnOn,
    SampleSet,
    SourceSamples,
    open_shard_samples,
    shown_size,
    turn_to_map,
    turned_back,
)
from sar_dist.transfer.tasks.attention.exact_masks import MASK, WHITE, check_some_white, decode_mask
from sar_dist.transfer.tasks.segmentation import VOID, check_class_count, check_labels, decode_labels, has_voc_labels

Layout = Literal["voc", "ade20k", "mask"]
Void = Literal["reference", "ignore"]
IntArray = NDArray[np.int64]

BACKGROUND = 0
_EXTENSIONS: dict[Layout, str] = {"voc": SEGMENTATION_EXTENSION, "ade20k": SEGMENTATION_EXTENSION, "mask": MASK}


@dataclass(frozen=True)
class MaskedSamples:
    """The validation split of a set with object masks.

    Attributes:
        samples: the files.
        layout: ``voc``: labels 0 background, k classes, 255 void; ``ade20k``: 0 is "other" and counts as void, k classes;
            ``mask``: one object, grey levels from 128.
        names: class names by the labels that ``labels`` gives; None where there are none.
        drawn_on: which pixels masks were drawn on where sizes do not tell, see ``mask_turn``.
    """

    samples: SampleSet
    layout: Layout
    names: tuple[str, ...] | None
    drawn_on: DrawnOn | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the files and of what their masks mean."""
        return {"val": f"{self.samples.fingerprint} {self.layout}"}

    def labels(self, number: int, size: int) -> NDArray[np.uint8]:
        """(size, size): 0 background, k objects of class k, 255 void; resized with NEAREST, which invents no label.

        Raises:
            UserError: the sample has no such mask, or it is damaged.
        """
        key, members = self.samples.sample(number)
        stored = self._lying_as_image(key, members)
        resized = np.asarray(Image.fromarray(stored).resize((size, size), Image.Resampling.NEAREST))
        if self.layout == "mask":
            return (resized >= WHITE).astype(np.uint8)
        return np.where(resized == 0, np.uint8(VOID), resized) if self.layout == "ade20k" else resized

    def check(self) -> int:
        """Read every mask, so that what is wrong with one is found before anything is computed.

        Returns:
            How many masks are turned by the EXIF orientation of their images.

        Raises:
            UserError: a mask is missing, damaged, of another image, or of other classes.
        """
        turned = highest = 0
        zero_is_void = self.layout == "ade20k"
        classes = None if self.names is None or self.layout == "mask" else len(self.names) - int(zero_is_void)
        if classes is not None:
            check_class_count(classes, zero_is_void=zero_is_void)
        for number in range(len(self.samples)):
            key, members = self.samples.sample(number)
            labels, turn = self._stored(key, members)
            check_size(key, members, labels.shape, turn)
            turned += turn != UPRIGHT
            highest = max(highest, int(labels.max(initial=0)))
            if classes is not None:
                check_labels(key, from_numpy(labels), classes, zero_is_void=zero_is_void)
        if self.layout == "mask":
            check_some_white(highest, "the set")
        return turned

    def _lying_as_image(self, key: str, members: Mapping[str, bytes]) -> NDArray[np.uint8]:
        """The labels over the image's pixels as the model sees them. Raises UserError."""
        labels, turn = self._stored(key, members)
        return np.asarray(turned_back(from_numpy(labels), turn).numpy())

    def _stored(self, key: str, members: Mapping[str, bytes]) -> tuple[NDArray[np.uint8], int]:
        """The stored labels, and by what they must be turned back to lie as the image. Raises UserError."""
        extension = _EXTENSIONS[self.layout]
        labels = _stored_labels(key, members, extension)
        return labels, mask_turn(key, members, members[extension], labels.shape, self.drawn_on)

    def name(self, label: int) -> str:
        """What a picture calls a class."""
        return self.names[label] if self.names is not None and label < len(self.names) else f"class {label}"


@dataclass(frozen=True)
class PatchRegions:
    """How many pixels of each object, and how many that count at all, lie in each patch of an image.

    Attributes:
        classes: labels of the K classes in the image, by falling number of pixels.
        objects: (K, gh, gw) pixels of each class.
        valid: (gh, gw) pixels that count.
    """

    classes: tuple[int, ...]
    objects: IntArray
    valid: IntArray


@dataclass(frozen=True)
class SquareResize:
    """Image file to uint8 (3, size, size), stretched with Pillow's bilinear filter as the reference does."""

    size: int

    def __call__(self, data: bytes) -> Tensor:
        image = decode_pil(data, MAX_PIXELS).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return rearrange(from_numpy(np.array(image)), "y x c -> c y x").contiguous()


def count_patches(labels: NDArray[np.uint8], patch: int, void: Void) -> PatchRegions:
    """Pixels by patch.

    Args:
        labels: (S, S), see ``MaskedSamples.labels``; S is a multiple of ``patch``.
        patch: side of a patch, pixels.
        void: "ignore" leaves void pixels out of intersections and unions; with "reference" they are background.
    """
    found, pixels = np.unique(labels, return_counts=True)
    order = np.argsort(-pixels, kind="stable")
    classes = tuple(int(label) for label in found[order] if label not in (BACKGROUND, VOID))
    objects = [_block_sums(labels == label, patch) for label in classes]
    valid = _block_sums(labels != VOID if void == "ignore" else np.ones_like(labels, dtype=bool), patch)
    return PatchRegions(classes, np.array(objects, dtype=np.int64).reshape(len(classes), *valid.shape), valid)


def image_size(image: bytes) -> tuple[int, int] | None:
    """(height, width) that an image's header states; None where it cannot be read, which whoever decodes it counts."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.height, opened.width
    except Exception:  # noqa: BLE001 - Pillow's plugins raise nearly every type there is on damaged files
        return None


def mask_turn(
    key: str, members: Mapping[str, bytes], mask: bytes, size: tuple[int, ...], drawn_on: DrawnOn | None
) -> int:
    """By which EXIF orientation a mask must be ``turned_back`` to lie over its image's pixels as the model sees them (1: not).

    Args:
        key, members: the sample.
        mask: the mask's file.
        size: its height and width.
        drawn_on: what the user said.

    Raises:
        UserError: it cannot be told how the mask lies.
    """
    extension = image_member(members)
    image = None if extension is None else image_size(members[extension])
    if extension is None or image is None:
        return UPRIGHT
    return turn_to_map(key, members[extension], image, (mask, (size[0], size[1])), drawn_on)


def check_size(key: str, members: Mapping[str, bytes], mask: tuple[int, ...], turn: int = UPRIGHT) -> None:
    """Raise UserError if a mask of the shape (height, width) is of another image than its sample's, ``turned`` by ``turn``."""
    extension = image_member(members)
    image = None if extension is None else image_size(members[extension])
    if image is not None and shown_size(image, turn) != mask:
        raise UserError(
            f"sample {key}: the image has {image[1]}x{image[0]} pixels, its mask {mask[1]}x{mask[0]}; repair it, or remove "
            "both"
        )


def say_turned(say: Callable[[str], None], count: int) -> None:
    """Say how many masks are turned, if any."""
    if count:
        say(f"{count} masks are turned by the EXIF orientation of their images, as the model sees the stored pixels")


def open_masked_samples(root: Path, layout: Layout | Literal["auto"], data_help: str) -> MaskedSamples:
    """The validation split at ``root``: shards, VOC's folders, or ADE20K's.

    Raises:
        UserError: there is none of these, or what is there has no masks of the given layout.
    """
    # Folders first: where torchvision unpacked VOC its archive lies too, which is no shard.
    source = _open_folders(root, layout)
    samples: SampleSet | None = open_shard_samples(root, "val") if source is None else SourceSamples(source)
    if samples is None:
        raise UserError(f"{root} has no images with object masks; expected {data_help}")
    _, members = samples.sample(0)
    chosen: Layout = _layout_of(members, samples) if layout == "auto" else layout
    if _EXTENSIONS[chosen] not in members:
        wanted = "object masks" if layout == "auto" else f"masks of layout {layout}"
        raise UserError(f"{root} has no {wanted} (members: {', '.join(sorted(members))}); expected {data_help}")
    return MaskedSamples(samples, chosen, _names_of(chosen, samples.classes))


def _layout_of(members: Mapping[str, bytes], samples: SampleSet) -> Layout:
    if SEGMENTATION_EXTENSION not in members:
        return "mask"
    return "voc" if has_voc_labels(samples.classes) else "ade20k"


def _names_of(layout: Layout, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if layout == "mask":
        return None
    return classes if classes is None or layout == "voc" else ("other", *classes)


def _open_folders(root: Path, layout: Layout | Literal["auto"]) -> Source | None:
    folders = {
        "voc": (voc_sources, ("ImageSets", "VOC2012", "VOCdevkit")),
        "ade20k": (ade20k_sources, ("images", "ADEChallengeData2016")),
    }
    for name, (sources, marks) in folders.items():
        if layout in ("auto", name) and any((root / mark).is_dir() for mark in marks):
            nested = root / "ADEChallengeData2016"
            splits = sources(nested if name == "ade20k" and nested.is_dir() else root)
            return next(source for source in splits if source.split == "val")
    return None


def _stored_labels(key: str, members: Mapping[str, bytes], extension: str) -> NDArray[np.uint8]:
    if extension not in members:
        raise UserError(f"sample {key} has no {extension}; make the shards again with tools/make_shards.py")
    try:
        labels: NDArray[np.uint8] = (
            decode_mask(members[extension], key)
            if extension == MASK
            else decode_labels(members[extension], key).numpy()
        )
    except UndecodableImage as error:
        raise UserError(f"sample {key}: {error.reason}; repair it, or remove its image and its mask") from error
    return labels


def _block_sums(pixels: NDArray[np.bool_], patch: int) -> IntArray:
    """(S, S) to (S / patch, S / patch): number of true pixels in each patch."""
    sums: IntArray = reduce(pixels.astype(np.int64), "(y down) (x right) -> y x", "sum", down=patch, right=patch)
    return sums
