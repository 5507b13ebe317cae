"""Existing WebDataset tars, img2dataset's too, as a source: written anew with a manifest, shuffled, labels as numbers."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from sar_dist.config import DataSettings
from sar_dist.data.layout import CLASSES_NAME, Split, SplitChoice, chosen_split, class_word, splits_by_name
from sar_dist.data.making.sources.base import Source, choose_splits, own_split, unnamed_split
from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.data.shards import (
    LABEL_EXTENSION,
    MANIFEST_NAME,
    NO_IMAGE,
    NO_LABEL,
    TIMM_INFO_NAME,
    Manifest,
    ShardReader,
    check_shards,
    counted,
    held_instead,
    key_of_member,
    load_manifest,
    manifests_at,
    open_index,
    open_shards,
    walk_members,
)
from sar_dist.errors import UserError
from sar_dist.output import warn

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_KEY = 60


def tar_sources(
    root: Path, label: str, split: Split | SplitChoice | None, *, leave_out_bad: bool = False
) -> list[TarSource]:
    """The splits of existing shards: bare tars, timm's layout, or our own.

    Args:
        root: folder of the tars, or of train/ and val/ with tars.
        label: where labels are, as ``data.label`` of a training run; a ``classes.json`` beside the tars gives words a number.
        split: the one to make, or what bare tars whose names say nothing are.
        leave_out_bad: leave out samples without image or label, counted and said, instead of refusing them.

    Raises:
        UserError: no such shards, damaged ones, or samples without image or label.
    """
    made = manifests_of_splits(root, label, split)
    return [TarSource(manifest, name, label, leave_out_bad=leave_out_bad) for name, manifest in made.items()]


def manifests_of_splits(root: Path, label: str, split: Split | SplitChoice | None) -> dict[Split, Manifest]:
    """The manifests of existing shards by the split that is to be made of them; arguments and errors as of ``tar_sources``."""
    choice = chosen_split(split)
    if choice is not None and not (root / MANIFEST_NAME).is_file():
        # Also a split such as test, or tars that do not say what they are.
        manifest = load_manifest(root, cast("Split", choice.source), label)
        names = [shard.name for shard in manifest.shards]
        if (
            manifest.root == str(root)
            and not os.path.lexists(root / TIMM_INFO_NAME)
            and not splits_by_name(names, str(root), choice.source)
        ):
            unnamed_split(root, choice)
        return {choice.wanted: manifest}
    found: dict[str, Manifest] = {manifest.split: manifest for manifest in manifests_at(root, label, test=True)}
    here = [shard.name for manifest in found.values() if manifest.root == str(root) for shard in manifest.shards]
    if choice is None and here and not splits_by_name(here, str(root)):
        own_split(root)  # refuses a folder of test shards, which would be taken for training shards
    made = choose_splits(found, choice, root)
    _refuse_other_classes([*made.values()])
    return {name: counted(manifest) for name, manifest in made.items()}


def _refuse_other_classes(manifests: Sequence[Manifest]) -> None:
    """Raise UserError where two splits number or name their classes differently: a label would be two classes."""
    for one, other in itertools.combinations(manifests, 2):
        if one.classes and other.classes and [*map(class_word, one.classes)] != [*map(class_word, other.classes)]:
            raise UserError(
                f"{one.root} and {other.root} number or name their classes differently; both need the same {CLASSES_NAME}, which "
                "may lie in the folder above them"
            )


class StoredSource(Source):
    """What sources that read checked shards have in common. ``cls`` becomes the label as a number, wherever it is found."""

    def __init__(self, manifest: Manifest, split: Split, label: str) -> None:
        check_shards(manifest)
        self.split = split
        self.classes = manifest.classes
        self.resized = manifest.resized
        self._manifest = manifest
        self._label = label
        self._records = open_index(manifest).records
        self._shards = open_shards(manifest, DataSettings())
        self._reader: ShardReader | None = None

    def _members(self, place: int) -> tuple[str, dict[str, bytes]]:
        """Key and members of the sample that is at ``place`` in the order of the shards."""
        if self._reader is None:
            self._reader = ShardReader(self._shards)
        return self._reader.members(*self._manifest.locate(place))

    def description(self) -> dict[str, Any]:
        return {"kind": "tars", "folder": Path(self._manifest.root).resolve().name, "label": self._label}

    def size(self) -> int:
        return sum(path.stat().st_size for path in (Path(self._manifest.root, s.name) for s in self._manifest.shards))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}  # open files stay with their process


class TarSource(StoredSource):
    """The samples of checked shards with all their members.

    Keys begin with the sample's number, since two tars may use the same ones.
    """

    def __init__(self, manifest: Manifest, split: Split, label: str, *, leave_out_bad: bool = False) -> None:
        super().__init__(manifest, split, label)
        records = self._records
        self._labels = np.array(records["label"])
        self._labelled = label != LABEL_EXTENSION or bool((self._labels != NO_LABEL).any()) or self._any_has_label()
        bad = records["image"] == NO_IMAGE
        if self._labelled:
            bad = bad | (self._labels == NO_LABEL) | (self._labels >= (manifest.num_classes or np.inf))
        else:
            warn(
                f"{manifest.root}: the samples have no labels in {label}; if they have some elsewhere, say where with --label json.FIELD"
            )
        self._numbers = np.flatnonzero(~bad)
        self._refuse_bad(np.flatnonzero(bad), leave_out_bad)

    def _any_has_label(self) -> bool:
        """Whether there are labels that could not be read, rather than none, as in sets of images with maps."""
        return any(_has_label(Path(self._manifest.root, shard.name)) for shard in self._manifest.shards)

    def _refuse_bad(self, bad: np.ndarray, leave_out: bool) -> None:
        if not len(bad):
            return
        shard, place = self._manifest.locate(int(bad[0]))
        named = "" if self.classes is None else f" in 0..{len(self.classes) - 1}"
        wanted = f"an image or a label{named} in {self._label}" if self._labelled else "an image"
        found = (
            f"{len(bad)} of the {self._manifest.total} {self.split} samples in {self._manifest.root} are without {wanted}, the "
            f"first is sample {place} of {self._manifest.shards[shard].name}"
        )
        members = self._members(int(bad[0]))[1]
        held = self._manifest.labels.found(members) if self._labels[bad[0]] == NO_LABEL else None
        if self._labelled and held is not None:
            found += f", with label {held}"
        if self._records["image"][bad[0]] == NO_IMAGE:
            found += f", which holds {held_instead(members)}"
        if not leave_out and all(self._labels[bad] != NO_LABEL) and all(self._records["image"][bad] == NO_IMAGE):
            raise UserError(f"{found}; or leave such samples out with --leave-out-bad")
        if not leave_out:
            raise UserError(
                f"{found}; say where labels are with --label, and what words mean in a {CLASSES_NAME} beside the tars, or "
                "leave such samples out with --leave-out-bad"
            )
        warn(f"{found}: left out")

    def __len__(self) -> int:
        return len(self._numbers)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        place = int(self._numbers[number])
        key, members = self._members(place)
        if self._labelled:
            members[LABEL_EXTENSION] = str(self._labels[place]).encode()
        name = _UNSAFE.sub("_", key.rpartition("/")[2])[-_MAX_KEY:]
        return f"{place:08d}-{name}", members

    def digest(self) -> str:
        shards = [[shard.name, shard.samples, shard.bytes] for shard in self._manifest.shards]
        content = [self._manifest.fingerprint, shards, self._numbers.tolist(), self._labels.tolist()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _has_label(shard: Path) -> bool:
    """Whether some sample of a shard has a member for its label; reads headers alone."""
    try:
        with shard.open("rb", buffering=0) as file:
            members = walk_members(
                lambda offset, count: os.pread(file.fileno(), count, offset), shard.stat().st_size, shard.name
            )
            keys = (key_of_member(member.name) for member in members)
            return any(key is not None and key[1] == LABEL_EXTENSION for key in keys)
    except OSError as error:
        raise UserError(f"cannot read {shard}: {error.strerror}; give the same command again") from None


def add_label_argument(parser: argparse.ArgumentParser) -> None:
    """``--label``, for what reads shards."""
    parser.add_argument(
        "--label",
        default=LABEL_EXTENSION,
        help="where labels are: cls, or a JSON field such as json.label (default: %(default)s)",
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_label_argument(parser)
    parser.add_argument(
        "--leave-out-bad", action="store_true", help="leave out samples without image or label instead of refusing them"
    )


def _sources(given: argparse.Namespace) -> list[TarSource]:
    return tar_sources(given.source, given.label, given.split, leave_out_bad=given.leave_out_bad)


COMMAND: SourceCommand = SourceCommand(
    name="tars",
    usage="tars SRC OUT",
    summary="existing WebDataset tars, img2dataset's too, shuffled anew; --label json.FIELD",
    add_arguments=_add_arguments,
    sources=_sources,
)
