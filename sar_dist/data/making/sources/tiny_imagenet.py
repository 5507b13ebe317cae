"""Tiny ImageNet-200 as it is downloaded, whose validation images lie beside each other; see ``sar_dist.data.layout``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sar_dist.data.layout import (
    Split,
    SplitChoice,
    TinyImage,
    chosen_split,
    is_tiny_imagenet,
    member_extension,
    tiny_imagenet_images,
    tiny_imagenet_words,
)
from sar_dist.data.making.sources.base import FileSample, FileSource, choose_splits, unique_keys
from sar_dist.data.making.sources.command import SourceCommand, no_arguments
from sar_dist.data.making.sources.imagenet_classes import class_names
from sar_dist.errors import UserError
from sar_dist.output import warn


def tiny_imagenet_sources(root: Path, split: Split | SplitChoice | None = None) -> list[FileSource]:
    """Training and validation images of Tiny ImageNet below ``root``; ``split``: that one alone.

    Labels are the places of the training images' synsets in alphabetical order. Validation images of other classes are left
    out and counted. Raises UserError.
    """
    if not is_tiny_imagenet(root):
        raise UserError(
            f"{root} is not Tiny ImageNet as it is downloaded, with wnids.txt and val/val_annotations.txt; `make_shards.py "
            "imagefolder` takes folders that are classes"
        )
    splits: tuple[Split, ...] = ("train", "val")
    found: dict[str, list[TinyImage]] = {name: tiny_imagenet_images(root, name) for name in splits}
    synsets = sorted({image.synset for image in found["train"]})
    names = class_names(synsets, tiny_imagenet_words(root))
    labels = {synset: label for label, synset in enumerate(synsets)}
    choice = chosen_split(split)
    return [_source(root, name, images, labels, names) for name, images in choose_splits(found, choice, root).items()]


def _source(
    root: Path, split: Split, images: list[TinyImage], labels: dict[str, int], names: tuple[str, ...]
) -> FileSource:
    foreign = [image for image in images if image.synset not in labels]
    if foreign:
        warn(f"{root}: left out {len(foreign)} images of classes without training images, such as {foreign[0].path}")
    kept = [image for image in images if image.synset in labels]
    samples = [
        FileSample(key, {member_extension(image.path): image.path}, labels[image.synset])
        for key, image in zip(unique_keys([image.path for image in kept]), kept, strict=True)
    ]
    return FileSource("tiny_imagenet", root, split, samples, names)


def _sources(given: argparse.Namespace) -> list[FileSource]:
    return tiny_imagenet_sources(given.source, given.split)


COMMAND: SourceCommand = SourceCommand(
    name="tiny_imagenet",
    usage="tiny_imagenet SRC OUT",
    summary="Tiny ImageNet-200 as downloaded: SRC/wnids.txt, train/ and val/",
    add_arguments=no_arguments,
    sources=_sources,
)
