"""Reading single samples out of shards by position: one ``pread`` each, no streaming through the tar.

What is read is compared with the checksum that the index has of it. Bytes that differ are looked for once more, on the disk
behind the page cache or in a fresh copy of a staged shard, and are never given out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from sar_dist.data.shards.checksums import is_unaltered
from sar_dist.data.shards.manifest import Manifest
from sar_dist.data.shards.shard_index import ShardIndex, damage_of_index, refuse_cut_index
from sar_dist.data.shards.tar_index import NO_IMAGE, IndexedShard, key_at, read_members
from sar_dist.data.shards.tar_members import BLOCK, DamagedShard, ReadAt, key_of_member
from sar_dist.output import warn

T = TypeVar("T")


READ_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.5
_MAX_OPEN_SHARDS = 2048
_MIN_OPEN_SHARDS = 4
# Descriptors that are left to the rest of the process, batches on their way among them.
_OTHER_FILES = 64
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_NOT_AS_INDEXED = "altered since it was indexed (its checksum is another one)"


class _LostShard(DamagedShard):
    """A shard file was replaced, cut off or became unreadable while it was in use: none of its samples can be had."""


class OpenShard(NamedTuple):
    """A shard file open for reading, with its records (samples,) of dtype RECORD."""

    fd: int
    entry: IndexedShard
    records: np.ndarray


class Shards(Protocol):
    """Where the shards of a manifest are: a local folder, or a remote store with a local stage.

    ``remote`` says that opening a shard that was not prefetched means to wait for it.
    """

    remote: bool
    # Digest of all samples' checksums, or of the store's versions, where the manifest has no sha256; None: it has, or they are not known.
    content: str | None

    def open(self, shard: int) -> OpenShard:
        """Open a shard that is as it was when it was indexed. Raises DamagedShard, OSError."""

    def url(self, shard: int) -> str:
        """How messages call the shard."""

    def prefetch(self, shards: Iterable[int]) -> None:
        """Get ready to open these shards, without waiting for it; does nothing where they are at hand."""

    def discard(self, shard: int, fd: int) -> bool:
        """Give up the copy of a shard that is open as ``fd``, so that opening it gets another; False: it is no copy."""


class LocalShards:
    """Shards in a folder of this machine or of a mounted file system."""

    remote = False

    def __init__(self, manifest: Manifest, index: ShardIndex) -> None:
        self._root = Path(manifest.root)
        self._folder = str(self._root)
        self._index = index
        hashed = all(entry.sha256 for entry in manifest.shards)
        digests = "".join(shard.checksums for shard in index.shards)
        self.content = None if hashed else hashlib.sha256(digests.encode()).hexdigest()

    def url(self, shard: int) -> str:
        return os.path.join(self._folder, self._index.shards[shard].name)

    def prefetch(self, shards: Iterable[int]) -> None:
        """Nothing to do: single samples are read ahead, see ``ShardReader.will_need``."""

    def discard(self, shard: int, fd: int) -> bool:
        return False

    def open(self, shard: int) -> OpenShard:
        entry = self._index.shards[shard]
        fd = os.open(self._root / entry.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _refuse_changed(os.fstat(fd), entry, self.url(shard))
        except BaseException:
            os.close(fd)
            raise
        return OpenShard(fd, entry, self._index.of_shard(shard))


def _refuse_changed(state: os.stat_result, entry: IndexedShard, url: str) -> None:
    """Raises DamagedShard if a file's size or time of modification is not what it was when the shard was indexed."""
    if (state.st_size, state.st_mtime_ns) != (entry.bytes, entry.mtime_ns):
        raise _LostShard(f"shard {url} was changed while it was in use; start the run again to check it")


class RawSample(NamedTuple):
    """One sample as stored: its key, its undecoded image (None: it has none) and its label (-1: none that is a number).

    ``damage`` says what is wrong with the sample's bytes, if anything is; then there is no image.
    """

    key: str
    image: bytes | None
    label: int
    damage: str | None = None


class ShardReader:
    """Reads samples by (shard, index), keeping the most recently used shards open. Not shared between processes.

    ``readers`` is how many of them share the process's limit of open files.
    """

    def __init__(self, shards: Shards, readers: int = 1) -> None:
        self._shards = shards
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._blamed: dict[int, str] = {}  # what is to be done about altered samples, by shard
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_open = max(_MIN_OPEN_SHARDS, min(_MAX_OPEN_SHARDS, (limit - _OTHER_FILES) // (2 * readers)))

    def read(self, shard: int, index: int) -> RawSample:
        """The sample, compared with its checksum. Raises DamagedShard for a changed file and after repeated I/O errors."""
        data = self._unaltered(shard, index)
        if data is None:
            self._look_again(shard)
            data = self._unaltered(shard, index)
        source = self._get(shard)
        start, _, _, label, *_ = source.records[index].item()
        if data is None:
            return RawSample(self._key(shard, index, start), None, label, self._altered(shard))
        if not data:
            return RawSample(self._key(shard, index, start), None, label)
        # A header holds 100 bytes of a name; longer ones are in an extended header before it.
        parts = None if source.entry.long_names else key_of_member(_name_in(data[:BLOCK]))
        return RawSample(self._key(shard, index, start) if parts is None else parts[0], data[BLOCK:], label)

    def url(self, shard: int) -> str:
        """How messages call the shard."""
        return self._shards.url(shard)

    def members(self, shard: int, index: int) -> tuple[str, dict[str, bytes]]:
        """Key and all members ``{extension: data}`` of a sample, such as ``mask.png``. Raises DamagedShard, also if altered."""
        for last in (False, True):
            source = self._with_whole_index(shard)
            start, *_, checksum = source.records[index].item()
            parse = partial(read_members, start=start, scattered=source.entry.scattered)
            found = self._parsed(shard, parse)
            if found is not None and found.checksum == checksum:
                return found.key, found.data
            if not last:
                self._look_again(shard)
        raise DamagedShard(f"shard {self.url(shard)}: sample {index} was {self._altered(shard)}")

    def will_need(self, shard: int, index: int) -> None:
        """Ask the kernel to read a sample ahead, without waiting for it."""
        entry = self._with_whole_index(shard)
        _, image, size, *_ = entry.records[index].item()
        if 0 < image < entry.entry.bytes:
            os.posix_fadvise(entry.fd, image - BLOCK, BLOCK + size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1].fd)

    def _get(self, shard: int) -> OpenShard:
        entry = self._open.get(shard)
        if entry is None:
            entry = self._retrying(shard, lambda: self._shards.open(shard))
            self._open[shard] = entry
            if len(self._open) > self._max_open:
                os.close(self._open.popitem(last=False)[1].fd)
        self._open.move_to_end(shard)
        return entry

    def _pread(self, shard: int, offset: int, count: int) -> bytes:
        def read() -> tuple[bytes, os.stat_result]:
            source = self._get(shard)
            # In this order: a writer sets the time before it writes, so altered data never come with the old time.
            return os.pread(source.fd, count, offset), os.fstat(source.fd)

        data, state = self._retrying(shard, read)
        if len(data) < count:
            raise _LostShard(f"shard {self.url(shard)} was truncated while it was in use; restore it")
        _refuse_changed(state, self._get(shard).entry, self.url(shard))
        return data

    def _retrying(self, shard: int, action: Callable[[], T]) -> T:
        """Network file systems fail for a moment (a server restarts, a handle goes stale): reopen and try again."""
        for attempt in range(READ_ATTEMPTS):
            try:
                return action()
            except OSError as error:
                if error.errno in _TOO_MANY_FILES and self._make_room(shard):
                    return self._retrying(shard, action)
                last = error
                warn(f"reading shard {self.url(shard)} failed ({error}), attempt {attempt + 1}")
                if shard in self._open:
                    os.close(self._open.pop(shard).fd)
                if attempt + 1 < READ_ATTEMPTS:
                    time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        raise _LostShard(f"cannot read shard {self.url(shard)}: {last} ({READ_ATTEMPTS} attempts)")

    def _make_room(self, keep: int) -> bool:
        """Where no more files may be open: keep half as many, and close the others. False if there is none to close."""
        others = [shard for shard in self._open if shard != keep]
        self._max_open = max(1, len(others) // 2)
        for shard in others[: len(others) - len(others) // 2]:
            os.close(self._open.pop(shard).fd)
        return bool(others)

    def _unaltered(self, shard: int, index: int) -> bytes | None:
        """Header block and data of a sample's image, empty if it has none; None if they, or the record, are not as indexed."""
        record = self._with_whole_index(shard).records[index]
        _, image, size, *_ = record.item()
        if image == NO_IMAGE:
            return b"" if is_unaltered(record, b"") else None
        if not BLOCK <= image <= self._get(shard).entry.bytes - size:  # it is the index that was altered
            return None
        data = self._pread(shard, image - BLOCK, BLOCK + size)
        return data if is_unaltered(record, data) else None

    def _with_whole_index(self, shard: int) -> OpenShard:
        source = self._get(shard)
        refuse_cut_index(source.records)
        return source

    def _altered(self, shard: int) -> str:
        """What to say of a sample whose bytes are not as indexed: the index or the shard is no longer what it was."""
        if shard not in self._blamed:  # each look reads the whole index
            self._blamed[shard] = damage_of_index(self._get(shard).records) or "restore the shard"
        return f"{_NOT_AS_INDEXED}; {self._blamed[shard]}"

    def _look_again(self, shard: int) -> None:
        """Before a second look at bytes that were altered: past the page cache, or at a fresh copy of a staged shard."""
        source = self._get(shard)
        if not self._shards.discard(shard, source.fd):
            os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return
        warn(f"the staged copy of {self.url(shard)} was altered since it was fetched; fetching it again")
        os.close(self._open.pop(shard).fd)
        if not np.array_equal(self._get(shard).records["members"], source.records["members"]):
            raise _LostShard(
                f"shard {self.url(shard)} was replaced by another one while it was in use; start the run again"
            )

    def _key(self, shard: int, index: int, start: int) -> str:
        """The key in the first header of a sample; its number where that header was altered."""
        return self._parsed(shard, partial(key_at, start=start)) or f"sample {index}"

    def _parsed(self, shard: int, parse: Callable[[ReadAt, int, str], T]) -> T | None:
        """What ``parse`` makes of the tar; None where the bytes that it comes across were altered."""
        entry = self._get(shard).entry

        def read_at(offset: int, count: int) -> bytes:
            if not 0 <= offset <= entry.bytes - count:
                raise DamagedShard(f"shard {entry.name}: nothing at byte {offset}")
            return self._pread(shard, offset, count)

        try:
            return parse(read_at, entry.bytes, entry.name)
        except _LostShard:
            raise
        except DamagedShard:
            return None


def _name_in(header: bytes) -> str:
    """The member's name in a header block that is as it was indexed."""
    if header[345]:  # the beginning of a ustar name, or times of GNU's format: tarfile tells them apart
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    return header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
