"""Reading single samples out of shards by position: one ``pread`` each, no streaming through the tar."""

from __future__ import annotations

import os
import resource
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from sar_dist.output import warn
from sar_dist.data.shards.manifest import Manifest
from sar_dist.data.shards.shard_index import ShardIndex
from sar_dist.data.shards.tar_index import BLOCK, NO_IMAGE, DamagedShard, IndexedShard, read_members, split_key

T = TypeVar("T")


READ_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.5
_MAX_OPEN_SHARDS = 2048


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

    def open(self, shard: int) -> OpenShard:
        """Open a shard that is as it was when it was indexed. Raises DamagedShard, OSError."""

    def url(self, shard: int) -> str:
        """How messages call the shard."""

    def prefetch(self, shards: Iterable[int]) -> None:
        """Get ready to open these shards, without waiting for it; does nothing where they are at hand."""


class LocalShards:
    """Shards in a folder of this machine or of a mounted file system."""

    remote = False

    def __init__(self, manifest: Manifest, index: ShardIndex) -> None:
        self._root = Path(manifest.root)
        self._folder = str(self._root)
        self._index = index

    def url(self, shard: int) -> str:
        return os.path.join(self._folder, self._index.shards[shard].name)

    def prefetch(self, shards: Iterable[int]) -> None:
        """Nothing to do: single samples are read ahead, see ``ShardReader.will_need``."""

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
        raise DamagedShard(f"shard {url} was changed while it was in use; start the run again to check it")


class RawSample(NamedTuple):
    """One sample as stored: its key, its undecoded image (None: it has none) and its label (-1: none that is a number)."""

    key: str
    image: bytes | None
    label: int


class ShardReader:
    """Reads samples by (shard, index), keeping the most recently used shards open. Not shared between processes."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        # Some descriptors are left to the rest of the process.
        self._max_open = max(8, min(_MAX_OPEN_SHARDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))

    def read(self, shard: int, index: int) -> RawSample:
        """The sample, its tar header checked again. Raises DamagedShard, also after repeated I/O errors."""
        source = self._get(shard)
        start, image, size, label = source.records[index].item()
        if image == NO_IMAGE:
            return RawSample(self._key_from_start(shard, start), None, label)
        data = self._pread(shard, image - BLOCK, BLOCK + size)
        header = data[:BLOCK]
        name = _plain_name(header, size)
        parts = split_key(_name_in_header(header, size, self.url(shard)) if name is None else name)
        # A header holds 100 bytes of a name; longer ones are in an extended header before it.
        key = self._key_from_start(shard, start) if source.entry.long_names or parts is None else parts[0]
        return RawSample(key, data[BLOCK:], label)

    def url(self, shard: int) -> str:
        """How messages call the shard."""
        return self._shards.url(shard)

    def members(self, shard: int, index: int) -> tuple[str, dict[str, bytes]]:
        """Key and all members ``{extension: data}`` of a sample, such as ``mask.png``. Raises DamagedShard."""
        return self._members_from(shard, int(self._get(shard).records["start"][index]))

    def will_need(self, shard: int, index: int) -> None:
        """Ask the kernel to read a sample ahead, without waiting for it."""
        entry = self._get(shard)
        _, image, size, _ = entry.records[index].item()
        if image != NO_IMAGE:
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
            raise DamagedShard(f"shard {self.url(shard)} was truncated while it was in use; restore it")
        _refuse_changed(state, self._get(shard).entry, self.url(shard))
        return data

    def _retrying(self, shard: int, action: Callable[[], T]) -> T:
        """Network file systems fail for a moment (a server restarts, a handle goes stale): reopen and try again."""
        for attempt in range(READ_ATTEMPTS):
            try:
                return action()
            except OSError as error:
                last = error
                warn(f"reading shard {self.url(shard)} failed ({error}), attempt {attempt + 1}")
                if shard in self._open:
                    os.close(self._open.pop(shard).fd)
                if attempt + 1 < READ_ATTEMPTS:
                    time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        raise DamagedShard(f"cannot read shard {self.url(shard)}: {last} ({READ_ATTEMPTS} attempts)")

    def _key_from_start(self, shard: int, start: int) -> str:
        return self._members_from(shard, start)[0]

    def _members_from(self, shard: int, start: int) -> tuple[str, dict[str, bytes]]:
        entry = self._get(shard).entry
        return read_members(lambda offset, count: self._pread(shard, offset, count), entry.bytes, entry.name, start)


def _plain_name(block: bytes, size: int) -> str | None:
    """The name in a sound header of ``size`` bytes of data; None where only ``_name_in_header`` can tell, or say what is wrong.

    A tenth of the time of ``tarfile``'s parser, which interprets every field.
    """
    try:
        checksum, found = int(block[148:156].strip(b"\0 "), 8), int(block[124:136].strip(b"\0 "), 8)
    except ValueError:  # damage, or a size in base 256
        return None
    # The checksum is of all bytes, with its own field as spaces; a name that has a prefix is put together elsewhere.
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != checksum or found != size or block[345]:
        return None
    return block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name_in_header(block: bytes, size: int, shard: str) -> str:
    """The member's name in the tar header right before its data, if it is still the header of ``size`` bytes."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedShard(f"shard {shard} was damaged while it was in use ({error}); restore it") from None
    if info.size != size:
        raise DamagedShard(
            f"shard {shard} was changed while it was in use ({info.name!r} has another size); restore it"
        )
    return info.name
