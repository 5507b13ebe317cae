"""Data sets of transfer tasks: numbered samples of files, from shards, folders or torchvision's data sets alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from sar_dist.config import DataSettings
from sar_dist.data import Manifest, check_shards, load_manifest
from sar_dist.data.images import UndecodableImage
from sar_dist.data.layout import CLASSES_NAME, Split, image_member, refuse_numbers_as_names, split_folders
from sar_dist.data.making.sources import (
    FileSource,
    Source,
    how_it_is_read,
    imagefolder_sources,
    nested_splits,
    open_torchvision_source,
    shared_files,
)
from sar_dist.data.shards import (
    LABEL_EXTENSION,
    LABEL_MAX_BYTES,
    MANIFEST_NAME,
    NO_LABEL,
    TIMM_INFO_NAME,
    ShardReader,
    SharedImages,
    labels_in,
    open_index,
    open_shards,
    parse_label,
    shared_images,
    shared_shards,
)
from sar_dist.errors import UserError
from sar_dist.output import is_main_process, warn
from sar_dist.randomness import seed_generators
from sar_dist.transfer.backbone import Transform
from sar_dist.transfer.file_states import digest_of_files


class SampleSet(Protocol):
    """Numbered samples of named files. ``classes``: class names by label, or None; ``fingerprint``: of its content."""

    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int: ...

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        """Key and members ``{extension: data}``, such as ``jpg``, ``cls``, ``seg.png``, ``mask.png``. Raises UserError."""


class SourceSamples:
    """The samples of a source of ``tools/make_shards.py`` read from where they lie, without shards."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.classes = source.classes
        self.fingerprint = digest_of_files(source.digest(), source.files())

    def __len__(self) -> int:
        return len(self._source)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        return self._source.sample(number)

    def shared_with(self, other: SourceSamples) -> SharedImages:
        """How many images are in ``other`` too, as far as both are files."""
        if isinstance(self._source, FileSource) and isinstance(other._source, FileSource):
            return shared_files(self._source, other._source)
        return SharedImages(0, 0)


class ShardSamples:
    """The samples of checked shards, by global id.

    Wherever the manifest finds the label, as a number or a word, the sample's ``cls`` member is its number, as in training.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._shards = open_shards(manifest, DataSettings())
        self._reader: ShardReader | None = None
        self.classes = manifest.classes
        self.fingerprint = manifest.fingerprint
        if self._shards.content is not None:  # the manifest does not know it
            self.fingerprint = hashlib.sha256(f"{manifest.fingerprint} {self._shards.content}".encode()).hexdigest()

    def __len__(self) -> int:
        return self._manifest.total

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        if self._reader is None:
            self._reader = ShardReader(self._shards)
        key, members = self._reader.members(*self._manifest.locate(number))
        return key, self._with_label(members)

    def _with_label(self, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        source = self._manifest.labels
        if not source.tag:  # cls holds the number already
            return members
        found = members.get(source.member, b"")
        label = source.label(found, parse_label, NO_LABEL) if len(found) <= LABEL_MAX_BYTES else NO_LABEL
        others = {extension: data for extension, data in members.items() if extension != LABEL_EXTENSION}
        return others if label == NO_LABEL else {**others, LABEL_EXTENSION: str(label).encode()}

    def refuse_samples_of(self, train: ShardSamples) -> None:
        """Raise UserError if shards of ``train`` are among these: a model would be scored on what it was trained on."""
        shared = shared_shards(self._manifest, train._manifest)
        if shared:
            raise UserError(
                f"{len(shared)} shards with the same samples are in the train and in the val split of {self._manifest.root}, such as "
                f"{shared[0]}; put the splits into folders train and val, or name the tars for them"
            )

    def shared_with(self, other: ShardSamples) -> SharedImages:
        """How many images are in ``other`` too."""
        return shared_images(self._manifest, other._manifest)

    def labels(self) -> set[int]:
        """The class numbers that samples have."""
        return labels_in(self._manifest)

    def check_labels(self) -> None:
        """Raise UserError if not one of the samples has a label: all would count as wrong, or nothing be trained."""
        if len(self) and (open_index(self._manifest).records["label"] == NO_LABEL).all():
            source = self._manifest.labels
            raise UserError(
                f"none of the {len(self)} samples in {self._manifest.root} has a label in "
                f"{'.'.join([source.member, *source.fields])}; say where labels are, such as label=json.label, and what "
                f"words mean in a {CLASSES_NAME} beside the shards"
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}  # open files stay with their process


class SelectedSamples:
    """Some samples of a set, in the given order."""

    def __init__(self, samples: SampleSet, numbers: Sequence[int]) -> None:
        self._samples = samples
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.classes = samples.classes
        chosen = hashlib.sha256(self.numbers.tobytes()).hexdigest()
        self.fingerprint = hashlib.sha256(f"{samples.fingerprint} {chosen}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        return self._samples.sample(int(self.numbers[number]))


def limited(samples: SampleSet, limit: int | None) -> SampleSet:
    """``limit`` evenly spread samples (sets are often ordered by class), or all."""
    if limit is None or limit >= len(samples):
        return samples
    return SelectedSamples(samples, np.linspace(0, len(samples) - 1, limit).round().astype(np.int64).tolist())


def open_shard_samples(root: Path, split: Split, label: str = LABEL_EXTENSION) -> ShardSamples | None:
    """Checked shards of a split at ``root``, or None where there are none. Raises UserError for damaged ones.

    ``label`` is where their labels are, as ``data.label`` of a training run.
    """
    if not _has_shards(root, split):
        return None
    manifest = load_manifest(root, split, label)
    check_shards(manifest)
    return ShardSamples(manifest)


def open_labelled_samples(root: Path, split: Split, data_help: str, label: str = LABEL_EXTENSION) -> SampleSet:
    """A split of a classification set: shards, ``train/CLASS/*.jpg`` folders, or a set as torchvision stores it.

    Raises:
        UserError: none of these is at ``root``, where the message ends with ``data_help``; or ``label`` says where shards
            have their labels and the set is none of shards, or no sample has a label there.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; expected {data_help}")
    shards = open_shard_samples(root, split, label)
    if shards is not None:
        shards.check_labels()
        return shards
    if label != LABEL_EXTENSION:
        raise UserError(
            f"label={label} says where shards have their labels, but there are none at {root}; leave it out"
        )
    found = open_torchvision_source(root, split)
    if found is not None:
        return SourceSamples(found)
    if split not in split_folders(root):
        other, inner = how_it_is_read(root), nested_splits(root)
        advice = f"expected {data_help}" if inner is None else f"give {inner}, which holds splits, or {data_help}"
        if other is not None:
            advice = f"{other}, and --data OUT takes that"
        raise UserError(f"{root} has no {split} split; {advice}")
    return SourceSamples(imagefolder_sources(root, split)[0])


def open_both_splits(root: Path, data_help: str, label: str = LABEL_EXTENSION) -> tuple[SampleSet, SampleSet]:
    """Training and validation split of a classification set, as ``open_labelled_samples`` opens them.

    Raises UserError also where they hold the same shards, as with bare tars whose names tell no split, and where the names of
    classes in one are numbers and the other has none.
    """
    train, val = (open_labelled_samples(root, split, data_help, label) for split in ("train", "val"))
    if isinstance(train, ShardSamples) and isinstance(val, ShardSamples):
        val.refuse_samples_of(train)
    if train.classes is None or val.classes is None:
        refuse_numbers_as_names(train.classes, "the train split", f"the val split of {root}")
        refuse_numbers_as_names(val.classes, "the val split", f"the train split of {root}")
    if is_main_process():
        _warn_of_shared_images(root, train, val)
    return train, val


def _warn_of_shared_images(root: Path, train: SampleSet, val: SampleSet) -> None:
    """Say that images which are scored were learned, too."""
    shared = SharedImages(0, 0)
    if isinstance(val, ShardSamples):
        shared = val.shared_with(train) if isinstance(train, ShardSamples) else shared
    elif isinstance(val, SourceSamples) and isinstance(train, SourceSamples):
        shared = val.shared_with(train)
    if shared.found:
        warn(
            f"{root}: {shared.found} of the {shared.looked_at} validation images are training images too; a result on images that "
            "were learned says nothing about others"
        )


def _has_shards(root: Path, split: Split) -> bool:
    own = split_folders(root).get(split) if root.is_dir() else None
    folders = [root] if own is None else [root, own]
    marks = (MANIFEST_NAME, TIMM_INFO_NAME)
    return any((folder / mark).is_file() for folder in folders for mark in marks) or any(
        next(folder.glob("*.tar"), None) is not None for folder in folders if folder.is_dir()
    )


def image_of(members: Mapping[str, bytes]) -> bytes:
    """The image among a sample's members. Raises UndecodableImage."""
    extension = image_member(members)
    if extension is None:
        raise UndecodableImage("no image")
    return members[extension]


def why_unusable(samples: SampleSet, number: int, transform: Transform) -> str:
    """Key of a sample that is marked as bad, and what is wrong with it."""
    key, members = samples.sample(number)
    try:
        transform(image_of(members))
    except UndecodableImage as error:
        return f"{key}: {error.reason}"
    return f"{key}: no label"


class LabelledImages(Dataset[tuple[int, Tensor, int, bool]]):
    """Samples as a map-style data set of (number, uint8 image (3, S, S), label, whether it could not be read).

    A sample that cannot be read is a black image with its label where that is known (-1: not), so that nothing shifts;
    whoever scores counts it as wrong, whoever trains leaves it out.

    Args:
        samples: the data set.
        transform: bytes to uint8 (3, S, S).
        blank: image in the place of what cannot be read, uint8 (3, S, S).
        key: with the number, the key of a random transform's random numbers; the same image at the same key.
    """

    def __init__(self, samples: SampleSet, transform: Transform, blank: Tensor, key: tuple[int, ...] = (0,)) -> None:
        self.samples = samples
        self.transform = transform
        self.blank = blank
        self.key = key

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[int, Tensor, int, bool]:
        _, members = self.samples.sample(number)
        label = parse_label(members["cls"]) if "cls" in members else -1
        seed_generators(*self.key, number)
        try:
            return number, self.transform(image_of(members)), label, label < 0
        except UndecodableImage:
            return number, self.blank, label, True
