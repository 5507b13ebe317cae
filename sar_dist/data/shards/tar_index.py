"""Strict index of one WebDataset tar shard: where every sample lies, found without trusting the file.

A shard is a plain tar whose members are called KEY.EXTENSION (the key ends at the first dot of the base name), the
members of one sample following each other. ``tarfile`` in stream mode, and with it WebDataset, ends silently at damage;
``index_shard`` instead walks every header and refuses a shard with a bad checksum, a member that reaches past the end,
no end marker, data behind it, a key that occurs twice or in two places, or members that are neither files nor folders.

A sample without an image or without a readable label is not damage of the shard: it is indexed as such and the
bad-sample policy of ``sar_dist.data.order.stream`` deals with it.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from sar_dist.data.layout import compression, how_to_unpack, image_member
from sar_dist.data.shards.label_source import LABEL_MAX_BYTES, LabelSource
from sar_dist.errors import UserError

BLOCK = 512
NO_IMAGE = -1
NO_LABEL = -1

# 24 bytes a sample: byte offset of the sample's first header, offset and size of the image's data, class label.
RECORD = np.dtype([("start", "<i8"), ("image", "<i8"), ("image_size", "<u4"), ("label", "<i4")])

_MAX_IMAGE_BYTES = np.iinfo(RECORD["image_size"]).max
_MAX_DIGITS = 20
_MAX_LABEL = np.iinfo(RECORD["label"]).max
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META_MEMBER = re.compile(r"__[^/]*__($|/)")

_NUMBERS = LabelSource()

ReadAt = Callable[[int, int], bytes]


class DamagedShard(UserError):
    """A shard cannot be trusted. The message says which one, at which byte, and what is wrong."""


class Member(NamedTuple):
    """One file in a tar. ``header`` is the offset of its first header block (extended headers included), in bytes."""

    name: str
    header: int
    data: int
    size: int
    long_name: bool


def split_key(name: str) -> tuple[str, str] | None:
    """``("dir/key", "extension")`` of a member name as WebDataset splits it, extension in lower case; None: neither."""
    match = _KEY_AND_EXTENSION.match(name)
    return (match.group(1), match.group(2).lower()) if match else None


def walk_members(read_at: ReadAt, size: int, shard: str, start: int = 0) -> Iterator[Member]:
    """The regular files of a tar of ``size`` bytes in order, from the header at byte ``start`` to the end marker.

    ``read_at(offset, count)`` returns up to ``count`` bytes. Raises DamagedShard at the first thing that a sound
    archive does not have.
    """
    offset = header = start
    overrides: dict[str, str] = {}
    while True:
        info = _header_at(read_at, offset, size, shard)
        if info is None:
            if overrides:
                raise DamagedShard(f"shard {shard}: an extended header at byte {header} has no member after it")
            return
        data = offset + BLOCK
        following = data + -(-info.size // BLOCK) * BLOCK
        if info.size < 0 or following > size:
            raise DamagedShard(
                f"shard {shard}: truncated: member {info.name!r} reaches to byte {following} of a file of {size} bytes"
            )
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            overrides |= _pax_records(read_at(data, info.size), shard, offset)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            overrides["path"] = read_at(data, info.size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type == tarfile.XGLTYPE:
            _refuse_global_overrides(_pax_records(read_at(data, info.size), shard, offset), shard, offset)
        else:
            name = overrides.get("path", info.name)
            if info.type in tarfile.REGULAR_TYPES and info.type != tarfile.GNUTYPE_SPARSE:
                yield Member(name, header, data, info.size, "path" in overrides)
            elif info.type != tarfile.DIRTYPE:
                raise DamagedShard(f"shard {shard}: member {name!r} at byte {offset} is a link or a device, not a file")
            overrides = {}
            header = following
        offset = following


def _header_at(read_at: ReadAt, offset: int, size: int, shard: str) -> tarfile.TarInfo | None:
    """The header at ``offset``, or None at a sound end of the archive (two or more zero blocks up to the file's end)."""
    block = read_at(offset, BLOCK)
    if len(block) < BLOCK:
        raise DamagedShard(f"shard {shard}: truncated: it ends at byte {size} without the end-of-archive marker")
    if block.strip(b"\0"):
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedShard(f"shard {shard}: damaged tar header at byte {offset} ({error})") from None
    rest = read_at(offset, size - offset)
    if len(rest) < 2 * BLOCK:
        raise DamagedShard(f"shard {shard}: truncated inside the end-of-archive marker at byte {size}")
    if rest.strip(b"\0"):
        raise DamagedShard(f"shard {shard}: there is data after the end-of-archive marker at byte {offset}")
    return None


def _pax_records(data: bytes, shard: str, offset: int) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE\\n`` of a pax extended header that change how the archive is read."""
    records = {}
    position = 0
    while position < len(data):
        match = re.compile(rb"(\d{1,9}) ([^=]+)=").match(data, position)
        length = int(match.group(1)) if match else 0
        end = position + length
        if not match or length < match.end() - position + 1 or end > len(data) or data[end - 1 : end] != b"\n":
            raise DamagedShard(f"shard {shard}: damaged extended header at byte {offset}")
        key = match.group(2).decode("utf-8", "surrogateescape")
        if key == "path":
            records[key] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        elif key == "size" or key.startswith("GNU.sparse"):
            raise DamagedShard(
                f"shard {shard}: unsupported extended header {key!r} at byte {offset} (huge or sparse file)"
            )
        position = end
    return records


def _refuse_global_overrides(records: dict[str, str], shard: str, offset: int) -> None:
    if records:
        raise DamagedShard(f"shard {shard}: unsupported global header at byte {offset} that renames members")


class IndexedShard(NamedTuple):
    """What the index knows of one shard file: its state when it was indexed, and how many samples it holds."""

    name: str
    bytes: int
    mtime_ns: int
    samples: int
    long_names: bool


def index_shard(
    path: str | os.PathLike, name: str | None = None, labels: LabelSource = _NUMBERS
) -> tuple[IndexedShard, np.ndarray]:
    """Index the tar at ``path``. Returns its entry and its records (dtype RECORD, one a sample, in file order).

    ``name`` is how messages and the entry call the shard (default: the file name); ``labels`` says where labels are. Raises DamagedShard.
    """
    name = name or PurePosixPath(path).name
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = os.fstat(fd)
        if state.st_size == 0:
            raise DamagedShard(f"shard {name}: the file is empty (0 bytes)")
        packed = compression(os.pread(fd, 6, 0))
        if packed is not None:
            raise DamagedShard(f"shard {name} is compressed with {packed}; {how_to_unpack(packed)}")

        def read_at(offset: int, count: int) -> bytes:
            return os.pread(fd, count, offset)

        rows, long_names = _index_rows(walk_members(read_at, state.st_size, name), read_at, name, labels)
    finally:
        os.close(fd)
    if not rows:
        raise DamagedShard(f"shard {name}: holds no sample")
    entry = IndexedShard(name, state.st_size, state.st_mtime_ns, len(rows), long_names)
    return entry, np.array(rows, dtype=RECORD)


def _index_rows(
    members: Iterator[Member], read_at: ReadAt, shard: str, labels: LabelSource
) -> tuple[list[tuple[int, ...]], bool]:
    rows: list[tuple[int, ...]] = []
    seen: set[str] = set()
    long_names = False
    key: str | None = None
    start = 0
    sample: dict[str, Member] = {}
    for member in members:
        if _META_MEMBER.match(member.name):
            continue
        parts = split_key(member.name)
        if parts is None:
            raise DamagedShard(f"shard {shard}: member {member.name!r} is not called KEY.EXTENSION")
        long_names |= member.long_name
        if parts[0] != key:
            if key is not None:
                rows.append(_row(start, sample, read_at, labels))
            key, start, sample = parts[0], member.header, {}
            if key in seen:
                raise DamagedShard(f"shard {shard}: key {key!r} occurs twice (again at byte {member.header})")
            seen.add(key)
        if parts[1] in sample:
            raise DamagedShard(f"shard {shard}: key {key!r} has two members .{parts[1]} (duplicate key?)")
        sample[parts[1]] = member
    if key is not None:
        rows.append(_row(start, sample, read_at, labels))
    return rows, long_names


def _row(start: int, sample: dict[str, Member], read_at: ReadAt, labels: LabelSource) -> tuple[int, int, int, int]:
    extension = image_member(sample)
    image = None if extension is None else sample[extension]
    label = NO_LABEL
    member = sample.get(labels.member)
    if member is not None and member.size <= LABEL_MAX_BYTES:
        label = labels.label(read_at(member.data, member.size), parse_label, NO_LABEL)
    if image is None or image.size == 0 or image.size > _MAX_IMAGE_BYTES:
        return start, NO_IMAGE, 0, label
    return start, image.data, image.size, label


def parse_label(data: bytes) -> int:
    """The class index in a ``.cls`` member: ASCII digits, white space around them allowed; NO_LABEL if it is not that."""
    text = data.strip()
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        return NO_LABEL
    label = int(text)
    return label if label <= _MAX_LABEL else NO_LABEL


def read_members(read_at: ReadAt, size: int, shard: str, start: int) -> tuple[str, dict[str, bytes]]:
    """Key and all members ``{extension: data}`` of the sample whose first header is at byte ``start``."""
    key: str | None = None
    members: dict[str, bytes] = {}
    for member in walk_members(read_at, size, shard, start):
        parts = split_key(member.name)
        if parts is None or (key is not None and parts[0] != key):
            break
        key = parts[0]
        members[parts[1]] = read_at(member.data, member.size)
    if key is None:
        raise DamagedShard(f"shard {shard}: no sample at byte {start}")
    return key, members
