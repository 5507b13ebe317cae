"""Walking the members of a tar without trusting it: every header is checked, and damage is an error, never an early end.

``tarfile`` in stream mode, and with it WebDataset, ends silently at damage. Here a bad checksum, a member that reaches past
the end, a missing end marker, data behind it, and members that are neither files nor folders are each a ``DamagedShard``; an
archive's label is read past.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sar_dist.data.layout import is_sample_member
from sar_dist.errors import UserError

BLOCK = 512

_KEY_AND_EXTENSION = re.compile(r"^((?:.*[/\\]|)[^.]+)[.]([^/\\]*)$", re.DOTALL)
# Folders, and the name of the archive that `tar --label` puts first.
_WITHOUT_CONTENT = (tarfile.DIRTYPE, b"V")
_META_MEMBER = re.compile(r"__[^/]*__($|/)")

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

    @property
    def end(self) -> int:
        """Where the next header begins: behind the data and its padding, in bytes."""
        return self.data + -(-self.size // BLOCK) * BLOCK


def split_key(name: str) -> tuple[str, str] | None:
    """``("dir/key", "extension")`` of a member name as WebDataset splits it, extension in lower case; None: neither.

    Unlike there, a backslash is a separator too: a dot in a folder's name does not end the key.
    """
    match = _KEY_AND_EXTENSION.match(name)
    return (match.group(1), match.group(2).lower()) if match else None


def key_of_member(name: str) -> tuple[str, str] | None:
    """As ``split_key``; None also for what belongs to no sample: hidden files and leftovers, README.

    ``./a.jpg`` and ``a.jpg`` are one path, and so of one sample.
    """
    return split_key(name.removeprefix("./")) if is_sample_member(name) else None


def is_meta(name: str) -> bool:
    """Whether a member is WebDataset's own, such as ``__meta__``: part of the format."""
    return _META_MEMBER.match(name) is not None


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
                f"shard {shard}: truncated: member {info.name!r} reaches to byte {following} of a file of {size} bytes; fetch or make it again"
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
            elif info.type not in _WITHOUT_CONTENT:
                raise DamagedShard(
                    f"shard {shard}: member {name!r} at byte {offset} is a link or a device, or sparse, not a plain file; pack the "
                    "files themselves, as `tar --dereference --hard-dereference` does"
                )
            overrides = {}
            header = following
        offset = following


def _header_at(read_at: ReadAt, offset: int, size: int, shard: str) -> tarfile.TarInfo | None:
    """The header at ``offset``, or None at a sound end of the archive (two or more zero blocks up to the file's end)."""
    block = read_at(offset, BLOCK)
    if len(block) < BLOCK:
        raise DamagedShard(
            f"shard {shard}: truncated: it ends at byte {size} without the end-of-archive marker; fetch or make it again"
        )
    if block.strip(b"\0"):
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedShard(
                f"shard {shard}: damaged tar header at byte {offset} ({error}); fetch or make it again"
            ) from None
    rest = read_at(offset, size - offset)
    if len(rest) < 2 * BLOCK:
        raise DamagedShard(
            f"shard {shard}: truncated inside the end-of-archive marker at byte {size}; fetch or make it again"
        )
    if rest.strip(b"\0"):
        raise DamagedShard(
            f"shard {shard}: there is data after the end-of-archive marker at byte {offset}, as where tars were joined by cat; "
            "give each as a file of its own, or join them with `tar --concatenate --file A.tar B.tar`"
        )
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
