"""Strict index of one WebDataset tar shard: where every sample lies and what its bytes are, found without trusting the file.

A shard is a plain tar whose members are called KEY.EXTENSION (the key ends at the first dot of the base name). Members of
one key are one sample, also where all labels lie behind all images; samples are in the order of their first members. Members that belong to no sample
(hidden files, leftovers, README) are passed over and counted. Besides the damage that ``tar_members`` finds, a shard is
refused where a key has a member twice, or where dots inside names make one sample of several.

A sample without an image or without a readable label is not damage of the shard: it is indexed as such and the
bad-sample policy of ``sar_dist.data.order.stream`` deals with it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from sar_dist.data.layout import IMAGE_EXTENSIONS, image_member, is_image_name, no_plain_tar, path_parts, split_of_word
from sar_dist.data.shards.checksums import RECORD, checksum_of_range, checksums_of_image, digest_of, image_checksum
from sar_dist.data.shards.file_identity import identity_of_file
from sar_dist.data.shards.label_source import LABEL_EXTENSION, LABEL_MAX_BYTES, LabelSource
from sar_dist.data.shards.second_images import SecondImages, joined_images, second_images
from sar_dist.data.shards.tar_members import BLOCK, DamagedShard, Member, ReadAt, is_meta, key_of_member, walk_members

NO_IMAGE = -1
NO_LABEL = -1

_MAX_IMAGE_BYTES = np.iinfo(RECORD["image_size"]).max
_MAX_DIGITS = 20
_MAX_LABEL = np.iinfo(RECORD["label"]).max
_NAMES_SHOWN = 2

_NUMBERS = LabelSource()


class IndexedShard(NamedTuple):
    """What the index knows of one shard file.

    ``bytes``, ``mtime_ns``, ``device`` and ``inode`` (see ``file_identity``) are its state when it was indexed,
    ``checksums`` the digest of its samples' checksums, ``sha256`` that of the whole file if it was compared then.
    ``passed_over`` counts members of no sample, ``joined`` images that look like another sample's, each with the name of the
    first, and ``second`` further images of samples; ``scattered`` says that the members of some sample do not follow each other.
    """

    name: str
    bytes: int
    mtime_ns: int
    samples: int
    long_names: bool
    device: int
    inode: int
    checksums: str
    scattered: bool = False
    passed_over: tuple[int, str] = (0, "")
    joined: tuple[int, str] = (0, "")
    sha256: str | None = None
    second: SecondImages = SecondImages()


class _Image(NamedTuple):
    """Where an image's data are, and the crc32 of its header block and data, and of its data alone."""

    data: int
    size: int
    checksum: int
    content: int


@dataclass(slots=True)
class _Sample:
    start: int
    checksum: int = 0
    label: int = NO_LABEL
    extensions: list[str] = field(default_factory=list)
    images: dict[str, _Image] = field(default_factory=dict)


def index_shard(
    path: str | os.PathLike, name: str | None = None, labels: LabelSource = _NUMBERS
) -> tuple[IndexedShard, np.ndarray]:
    """Index the tar at ``path``: every byte of its samples is read. Returns its entry and its records (dtype RECORD, one a sample).

    ``name`` is how messages and the entry call the shard (default: the file name); ``labels`` says where labels are. Raises DamagedShard.
    """
    name = name or PurePosixPath(path).name
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = os.fstat(fd)
        if state.st_size == 0:
            raise DamagedShard(f"shard {name}: the file is empty (0 bytes); fetch or make it again")
        first = os.pread(fd, BLOCK, 0)
        other = no_plain_tar(first)
        if other is not None:
            raise DamagedShard(f"shard {name} {other}")

        def read_at(offset: int, count: int) -> bytes:
            return os.pread(fd, count, offset)

        collector = _Collector(name, read_at, labels)
        for member in walk_members(read_at, state.st_size, name):
            collector.add(member)
    finally:
        os.close(fd)
    records = _records(collector.samples.values())
    return _entry(name, state, collector, records), records


def _entry(name: str, state: os.stat_result, found: _Collector, records: np.ndarray) -> IndexedShard:
    if not found.samples:
        passed_over, first = found.passed_over
        others = f", only {passed_over} other files such as {first!r}" if passed_over else ""
        raise DamagedShard(
            f"shard {name}: holds no sample{others}; members of a sample are called KEY.jpg and KEY.cls, say: make it again, or remove it if "
            "nothing is missing"
        )
    _refuse_tars(found.samples, name)
    _refuse_strays(found, name)
    _refuse_dots(found.samples, name)
    _refuse_splits(found.samples, name)
    members = {key: sample.extensions for key, sample in found.samples.items()}
    return IndexedShard(
        name,
        state.st_size,
        state.st_mtime_ns,
        len(found.samples),
        found.long_names,
        *identity_of_file(state),
        digest_of(records),
        bool(found.apart),
        found.passed_over,
        joined_images(members),
        second=second_images(members),
    )


class _Collector:
    """The samples of a shard by key, from its members in the order of the file."""

    def __init__(self, shard: str, read_at: ReadAt, labels: LabelSource) -> None:
        self.samples: dict[str, _Sample] = {}
        self.passed_over = (0, "")
        self.long_names = False
        # Byte of the first member that does not follow its sample's others, by key.
        self.apart: dict[str, int] = {}
        self._shard = shard
        self._read_at = read_at
        self._labels = labels
        self._last: str | None = None

    def add(self, member: Member) -> None:
        if is_meta(member.name):
            return
        parts = key_of_member(member.name)
        if parts is None:
            count, first = self.passed_over
            self.passed_over = (count + 1, first or member.name)
            return
        self.long_names |= member.long_name
        key, extension = parts
        sample = self.samples.setdefault(key, _Sample(member.header))
        if sample.extensions and key != self._last:
            self.apart.setdefault(key, member.header)
        self._last = key
        if extension in sample.extensions:
            raise DamagedShard(
                f"shard {self._shard}: key {key!r} has two members .{extension}, the second at byte {member.header}: the key "
                "is there twice"
            )
        sample.extensions.append(extension)
        sample.checksum = checksum_of_range(self._read_at, member.header, member.end, sample.checksum)
        if extension in IMAGE_EXTENSIONS:
            end = member.data + member.size
            checksums = checksums_of_image(self._read_at, member.data - BLOCK, member.data, end)
            sample.images[extension] = _Image(member.data, member.size, *checksums)
        if extension == self._labels.member and member.size <= LABEL_MAX_BYTES:
            sample.label = self._labels.label(self._read_at(member.data, member.size), parse_label, NO_LABEL)


def _records(samples: Iterable[_Sample]) -> np.ndarray:
    rows = []
    for sample in samples:
        extension = image_member(sample.images)
        image = None if extension is None else sample.images[extension]
        if image is None or image.size == 0 or image.size > _MAX_IMAGE_BYTES:
            image = _Image(NO_IMAGE, 0, 0, 0)
        place = (sample.start, image.data, image.size, sample.label)
        rows.append((*place, image.content, image.checksum, sample.checksum))
    records = np.array(rows, dtype=RECORD)
    for record in records:
        record["checksum"] = image_checksum(record, int(record["checksum"]))
    return records


def _refuse_tars(samples: dict[str, _Sample], shard: str) -> None:
    """Raises DamagedShard for a tar of tars, as ImageNet's is."""
    if all(sample.extensions == ["tar"] for sample in samples.values()):
        raise DamagedShard(
            f"shard {shard}: holds tars, such as {next(iter(samples))}.tar, and no samples; unpack it, or give "
            "`make_shards.py imagenet` the folder of ImageNet-1k's archives"
        )


def _refuse_strays(found: _Collector, shard: str) -> None:
    """Raises DamagedShard where a few samples lie in two places, as moved blocks and merged shards leave them.

    Where most of them do, as with all labels behind all images, it is how the shard was made.
    """
    several = sum(len(sample.extensions) > 1 for sample in found.samples.values())
    if found.apart and 2 * len(found.apart) <= several:
        key, place = next(iter(found.apart.items()))
        raise DamagedShard(
            f"shard {shard}: key {key!r} occurs twice (again at byte {place}), while the members of most samples follow each other"
        )


def _refuse_dots(samples: dict[str, _Sample], shard: str) -> None:
    """Raises DamagedShard where several images became one sample because a key ends at the first dot.

    ``a.mask.png`` beside ``a.png`` is a member of its own kind, and so is it where only the image is missing.
    """
    companions = {name for sample in samples.values() if sample.images for name in sample.extensions}
    for key, sample in samples.items():
        images = [name for name in sample.extensions if "." in name and is_image_name(name)]
        labelled = {name.rpartition(".")[0] for name in sample.extensions if name.endswith(f".{LABEL_EXTENSION}")}
        strange = [name for name in images if name.rpartition(".")[0] in labelled]
        if not sample.images:
            strange += [name for name in images if name not in companions]
        if strange:
            shown = [f"{key}.{name}" for name in dict.fromkeys([*strange, *sample.extensions])][:_NAMES_SHOWN]
            share = f"members {shown[0]!r} and {shown[1]!r} share" if len(shown) > 1 else f"member {shown[0]!r} has"
            raise DamagedShard(
                f"shard {shard}: {share} the key {key!r}, which ends at the first dot: names must have no dot before the "
                "extension; rename them, or make the shards with tools/make_shards.py"
            )


def _refuse_splits(samples: Iterable[str], shard: str) -> None:
    """Raises DamagedShard where the folders in which samples lie are those of several splits: a folder with all was packed."""
    first: dict[str, str] = {}
    for key in samples:
        folders = map(split_of_word, path_parts(key)[:-1])
        split = next((split for split in folders if split is not None), None)
        if split is not None:
            first.setdefault(split, key)
    if len(first) > 1:
        (split, key), (other, other_key), *_ = first.items()
        raise DamagedShard(
            f"shard {shard}: holds the splits {split} and {other}, as {key} and {other_key}; pack each split in tars of its own"
        )


def parse_label(data: bytes) -> int:
    """The class index in a ``.cls`` member: ASCII digits, white space around them allowed; NO_LABEL if it is not that."""
    text = data.strip()
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        return NO_LABEL
    label = int(text)
    return label if label <= _MAX_LABEL else NO_LABEL


class Members(NamedTuple):
    """All members of a sample, ``{extension: data}``, its key, and the checksum of all their bytes."""

    key: str
    data: dict[str, bytes]
    checksum: int


def read_members(read_at: ReadAt, size: int, shard: str, start: int, *, scattered: bool = False) -> Members:
    """The sample whose first header is at byte ``start``; ``scattered``: look for its members up to the end of the shard."""
    key: str | None = None
    members: dict[str, bytes] = {}
    checksum = 0
    for member in walk_members(read_at, size, shard, start):
        parts = key_of_member(member.name)
        if parts is None or is_meta(member.name):
            continue
        if key is not None and parts[0] != key:
            if scattered:
                continue
            break
        key = parts[0]
        whole = read_at(member.header, member.end - member.header)
        checksum = zlib.crc32(whole, checksum)
        members[parts[1]] = whole[member.data - member.header :][: member.size]
    if key is None:
        raise DamagedShard(f"shard {shard}: no sample at byte {start}")
    return Members(key, members, checksum)


def key_at(read_at: ReadAt, size: int, shard: str, start: int) -> str:
    """Key of the sample whose first header is at byte ``start``. Raises DamagedShard."""
    member = next(walk_members(read_at, size, shard, start), None)
    parts = None if member is None else key_of_member(member.name)
    if parts is None:
        raise DamagedShard(f"shard {shard}: no sample at byte {start}")
    return parts[0]
