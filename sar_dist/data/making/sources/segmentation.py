"""Images with a map of labels: ADE20K's and Pascal VOC's folders.

The maps are kept as they are, in members ``seg.png``; whoever reads them remaps the labels. These samples have no class,
hence no ``cls`` member.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.data.layout import IMAGE_EXTENSIONS, Split, is_image_name, is_left_over, member_extension, split_folders
from sar_dist.data.making.sources.base import FileSample, FileSource, read_bytes, unique_keys
from sar_dist.data.making.sources.command import SourceCommand, no_arguments
from sar_dist.data.making.sources.map_palettes import refuse_different_palettes
from sar_dist.errors import UserError
from sar_dist.files import read_regular
from sar_dist.output import warn

SEGMENTATION_EXTENSION = "seg.png"
_ADE20K_SPLITS: dict[Split, str] = {"train": "training", "val": "validation"}
_VOID_NAMES = frozenset(
    ("background", "ignore", "ignored", "other", "others", "unknown", "unlabeled", "unlabelled", "void")
)
VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


def ade20k_sources(root: Path) -> list[FileSource]:
    """Both splits of ``ADEChallengeData2016`` or a data set in its layout.

    ``images/{training,validation}/KEY.jpg``, or another image format, with ``annotations/{training,validation}/KEY.png``,
    whose labels are 0 for "other" and k for the k-th class of ``objectInfo*.txt``. Raises UserError, also if an image or
    a map lacks the other.
    """
    classes = _ade20k_classes(root)
    expected = "expected the layout of ADEChallengeData2016"
    if not (root / "images").is_dir() or not (root / "annotations").is_dir():
        raise UserError(f"{root} has no folders images and annotations; {expected}")
    images, maps = split_folders(root / "images"), split_folders(root / "annotations")
    if "test" in images:
        warn(f"{images['test']}: not used; there are no maps to compare with")
    sources, all_maps = [], []
    for split, name in _ADE20K_SPLITS.items():
        for parent, folders in (("images", images), ("annotations", maps)):
            if split not in folders:
                raise UserError(f"{root / parent} has no folder {name}; {expected}")
        pairs = _pairs(images[split], maps[split])
        if not pairs:
            raise UserError(f"no images in {images[split]} ({', '.join(IMAGE_EXTENSIONS)}); {expected}")
        sources.append(_source("ade20k", root, split, pairs, classes))
        all_maps += [pair.map for pair in pairs]
    refuse_different_palettes(all_maps)
    return sources


class _Pair(NamedTuple):
    """An image and its map of labels."""

    image: Path
    map: Path


def _pairs(images: Path, maps: Path) -> list[_Pair]:
    """The images in a folder with the maps of the same names in another, sorted. Raises UserError if one lacks the other."""
    by_name, maps_by_name = _by_name(images, is_image_name), _by_name(maps, _is_map_name)
    alone = sorted(by_name.keys() - maps_by_name.keys())
    unused = sorted(maps_by_name.keys() - by_name.keys())
    problems = [
        f"{len(names)} {what}, such as {where[names[0]].name}"
        for names, what, where in (
            (alone, f"images in {images} have no map of the same name", by_name),
            (unused, f"maps in {maps} have no image of the same name", maps_by_name),
        )
        if names
    ]
    if problems:
        raise UserError(f"{'; '.join(problems)}: move them away, or add what is missing (maps are KEY.png)")
    return [_Pair(by_name[name], maps_by_name[name]) for name in sorted(by_name)]


def _is_map_name(name: str) -> bool:
    return name.lower().endswith(".png")


def _by_name(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Path]:
    """The wanted files of a folder by their name without extension; what else is there is counted and said."""
    found: dict[str, Path] = {}
    others: list[str] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None
    for name in names:
        if is_left_over(name):
            continue
        if not wanted(name):
            others.append(name)
            continue
        path = folder / name
        first = found.setdefault(path.stem, path)
        if first is not path:
            raise UserError(f"{folder} has {first.name} and {name}, which would be one sample; move one of them away")
    if others:
        warn(f"{folder}: left out {len(others)} files that are of no use here by name, such as {others[0]}")
    return found


def _source(kind: str, root: Path, split: Split, pairs: Sequence[_Pair], classes: tuple[str, ...] | None) -> FileSource:
    images = [pair.image.relative_to(root).as_posix() for pair in pairs]
    samples = [
        FileSample(
            key,
            {member_extension(image): image, SEGMENTATION_EXTENSION: pair.map.relative_to(root).as_posix()},
            None,
        )
        for key, image, pair in zip(unique_keys(images), images, pairs, strict=True)
    ]
    return FileSource(kind, root, split, samples, classes, prefix=f"{kind}-{split}")


def _ade20k_classes(root: Path) -> tuple[str, ...] | None:
    tables = sorted(root.glob("objectInfo*.txt"))
    if not tables:
        return None
    if len(tables) > 1:
        raise UserError(f"{root} has {tables[0].name} and {tables[1].name}; move one of them away")
    try:
        text = read_regular(tables[0]).decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t", skipinitialspace=True, strict=True))
        names = [(row.get("Name") or "").strip() for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {tables[0]}: {error}; repair or remove it") from None
    if not names or not all(names):
        raise UserError(f"{tables[0]} is not a table with a Name for each class; repair or remove it")
    numbers = [(row.get("Idx") or "").strip() for row in rows]
    if any(numbers) and numbers != [str(number) for number in range(1, len(rows) + 1)]:
        raise UserError(
            f"{tables[0]} must list its {len(rows)} classes in the order of Idx, from 1; sort or complete it"
        )
    if not any(numbers) and names[0].lower() in _VOID_NAMES:
        raise UserError(
            f"{tables[0]}: its first class is {names[0]!r}, which without a column Idx is the label 1, as 0 is void and has no row; remove "
            "the row, or add Idx if it is label 1"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        warn(f"{tables[0]} names {len(twice)} classes twice, such as {twice[0]}; they are scored apart")
    return tuple(names)


def voc_sources(root: Path) -> list[FileSource]:
    """The segmentation splits of Pascal VOC.

    ``root`` is VOC2012 or a folder above it: ``ImageSets/Segmentation/{train,val}.txt``, ``JPEGImages/KEY.jpg``,
    or another image format, and ``SegmentationClass/KEY.png`` (labels 0..20 and 255 for void as palette indices). Raises UserError.
    """
    candidates = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
    base = next((folder for folder in candidates if (folder / "ImageSets" / "Segmentation").is_dir()), None)
    if base is None:
        raise UserError(f"{root} has no ImageSets/Segmentation; give the folder VOCdevkit/VOC2012")
    images = _by_name(base / "JPEGImages", is_image_name)
    maps = _by_name(base / "SegmentationClass", _is_map_name)
    sources, all_maps = [], []
    listed = {split: _listed(base / "ImageSets" / "Segmentation" / f"{split}.txt") for split in _ADE20K_SPLITS}
    both = sorted(set(listed["train"]) & set(listed["val"]))
    if both:
        warn(
            f"{base / 'ImageSets' / 'Segmentation'}: {len(both)} keys are in train.txt and in val.txt, such as {both[0]}; what is "
            "trained on says nothing about others"
        )
    for split, keys in listed.items():
        table = base / "ImageSets" / "Segmentation" / f"{split}.txt"
        lacking = [key for key in keys if key not in images or key not in maps]
        if lacking:
            raise UserError(
                f"{len(lacking)} of the {len(keys)} keys in {table} have no image in {base / 'JPEGImages'} or no map in "
                f"{base / 'SegmentationClass'}, such as {lacking[0]}; add the files, or take the keys out (a key is a name without extension)"
            )
        pairs = [_Pair(images[key], maps[key]) for key in keys]
        sources.append(_source("voc", base, split, pairs, tuple(VOC_CLASSES)))
        all_maps += [pair.map for pair in pairs]
    refuse_different_palettes(all_maps)
    return sources


def _listed(table: Path) -> list[str]:
    """The keys in one of VOC's lists. Raises UserError."""
    try:
        lines = read_bytes(table).decode("utf-8-sig").splitlines()
    except ValueError:
        raise UserError(f"{table} is no list of keys: it is not UTF-8 text; restore it") from None
    keys = [line.strip() for line in lines if line.strip()]
    columns = [key for key in keys if len(key.split()) > 1]
    if columns:
        raise UserError(
            f"{table}: {len(columns)} lines hold more than a key, such as {columns[0]!r}; give one name without extension a line"
        )
    if not keys:
        raise UserError(f"{table} is empty; restore it")
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise UserError(f"{table} names {len(twice)} keys twice, such as {twice[0]}; each must be there once")
    return keys


ADE20K_COMMAND: SourceCommand = SourceCommand(
    name="ade20k",
    usage="ade20k SRC OUT",
    summary="ADEChallengeData2016: images with label maps",
    add_arguments=no_arguments,
    sources=lambda given: ade20k_sources(given.source),
    chooses_split=False,
)
VOC_COMMAND: SourceCommand = SourceCommand(
    name="voc",
    usage="voc SRC OUT",
    summary="VOCdevkit/VOC2012: images with label maps",
    add_arguments=no_arguments,
    sources=lambda given: voc_sources(given.source),
    chooses_split=False,
)
