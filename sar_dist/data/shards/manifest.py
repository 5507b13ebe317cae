"""Which shards make up a split: our ``manifest.json``, the public timm ``_info.json``, or a folder of bare tars."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sar_dist.data.layout import Split, split_of_word
from sar_dist.data.shards.label_source import LabelSource
from sar_dist.data.shards.resizing import Resizing, parse_resizing
from sar_dist.errors import UserError
from sar_dist.legible import legible

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "sar_dist-shards-1"
TIMM_INFO_NAME = "_info.json"
# Folder of the state of writing shards; where it is, they are not finished.
WRITING_STATE_NAME = ".making"
# Number of samples of a shard of which only the name is known.
UNCOUNTED = -1
HOW_TO_MAKE = "make shards with tools/make_shards.py"


class NoShards(UserError):
    """There are no shards of a split, as far as can be seen: nothing is wrong with any that are there."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard: file name below the root, number of samples; where they are known, size in bytes, sha256, and the digest of
    the samples' checksums (``checksums.digest_of``). ``version`` is what a store says of a shard without sha256, such as its
    ETag."""

    name: str
    samples: int
    bytes: int | None = None
    sha256: str | None = None
    checksums: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The shards of one split, in order. A sample's global id is its position in this order.

    ``root`` is the folder (or URL) of the shards, ``classes`` the class names by label where they are known,
    ``labels`` where the label of a sample is found, ``resized`` the steps in which images were made smaller (none: originals).
    """

    root: str
    split: Split
    classes: tuple[str, ...] | None
    shards: tuple[ShardEntry, ...]
    labels: LabelSource = field(default_factory=LabelSource)
    resized: tuple[Resizing, ...] = ()

    @property
    def num_classes(self) -> int | None:
        return None if self.classes is None else len(self.classes)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(shards + 1,) int64: global id of each shard's first sample, then the total."""
        return np.concatenate([[0], np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)])

    @property
    def uncounted(self) -> bool:
        """Whether it is of bare tars whose samples nobody has counted yet."""
        return bool(self.shards) and self.shards[0].samples == UNCOUNTED

    @property
    def total(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over names, counts and sha256 of the shards: what makes the order of samples what it is.

        Of shards without sha256 the index knows the content, see ``Shards.content``.
        """
        content: list[Any] = [[shard.name, shard.samples, shard.sha256] for shard in self.shards]
        if self.labels.tag:
            content.append(self.labels.tag)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, index within the shard) of a global sample id."""
        shard = int(np.searchsorted(self.offsets, sample, side="right")) - 1
        return shard, sample - int(self.offsets[shard])


def parse_manifest(content: Any, root: str, split: Split) -> Manifest:
    """Our own manifest from its JSON content. Raises UserError if it is not one or contradicts itself."""
    where = f"{root}/{MANIFEST_NAME}"
    try:
        if content["format"] != MANIFEST_FORMAT:
            raise UserError(f"{where} has format {content['format']!r}, expected {MANIFEST_FORMAT!r}; {HOW_TO_MAKE}")
        shards = tuple(map(_parse_entry, content["shards"]))
        total = int(content["total"])
        classes = _parse_classes(content["classes"])
        resized = parse_resizing(content.get("resized", ()))  # of resized images only
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} is not a valid manifest ({error!r}); {HOW_TO_MAKE}") from None
    manifest = Manifest(root, split, classes or None, shards, resized=resized)
    if manifest.total != total:
        raise UserError(f"{where} is inconsistent: total {total}, but its shards hold {manifest.total} samples")
    return manifest


def _parse_classes(content: Any) -> tuple[str, ...]:
    if content is not None and not isinstance(content, list):
        raise TypeError("classes are no list")
    return tuple(legible(str(name)) for name in content or ())


def _parse_entry(content: Any) -> ShardEntry:
    checksums = content.get("checksums")  # not in manifests of earlier versions
    return ShardEntry(
        str(content["name"]),
        int(content["samples"]),
        int(content["bytes"]),
        str(content["sha256"]),
        None if checksums is None else str(checksums),
    )


def parse_timm_info(content: Any, root: str, split: Split) -> Manifest:
    """The manifest of a timm WebDataset folder from the content of its ``_info.json``. Raises UserError."""
    where = f"{root}/{TIMM_INFO_NAME}"
    try:
        splits = content["splits"]
        named = [name for name in splits if (split_of_word(name) or name.strip().lower()) == split]
        if not named:
            raise NoShards(f"{where} has no {split} split, only {', '.join(sorted(splits))}")
        if len(named) > 1:
            raise UserError(f"{where} has the {split} split twice: {', '.join(sorted(named))}")
        name = named[0]
        info = splits[name]
        names, lengths = list(info["filenames"]), [int(length) for length in info["shard_lengths"]]
        total = int(info["num_samples"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} is not a timm WebDataset description ({error!r})") from None
    if len(names) != len(lengths) or sum(lengths) != total:
        raise UserError(
            f"{where} is inconsistent: {len(names)} file names, {len(lengths)} shard lengths of {sum(lengths)} samples, num_samples {total}"
        )
    return Manifest(root, split, None, tuple(ShardEntry(str(n), c) for n, c in zip(names, lengths, strict=True)))


def check_entries(manifest: Manifest) -> Manifest:
    """``manifest`` itself if it holds samples and its entries make sense. Raises UserError."""
    if not manifest.shards or manifest.total == 0:
        raise UserError(f"the {manifest.split} set in {manifest.root} is empty; {HOW_TO_MAKE}")
    for shard in manifest.shards:
        parts = shard.name.split("/")
        # One file has one name: "./a.tar" and "a//b.tar" would be counted beside "a.tar" and "a/b.tar".
        if shard.samples < 0 or "\0" in shard.name or any(part in ("", ".", "..") for part in parts):
            raise UserError(
                f"the manifest in {manifest.root} has an invalid entry {shard.name!r} with {shard.samples} samples"
            )
    names = [shard.name for shard in manifest.shards]
    if len(set(names)) != len(names):
        raise UserError(f"the manifest in {manifest.root} names a shard twice: {_first_duplicate(names)}")
    return manifest


def _first_duplicate(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
