"""The index of a whole split: one file of 36-byte records that all workers of a node share through the page cache.

The file is kept beside the shards as ``.train.index`` or ``.val.index``, or under ``$SAR_DIST_CACHE`` (default
``~/.cache/sar_dist``) where that folder is read-only. It remembers size, modification time, device and inode of each shard
and the sha256 that it was found to have. Only shards that are not the same file, or of which the manifest now states another
sha256, are indexed again; as such a shard is suspect, its sha256 is compared with the manifest's.

Layout: the records (``checksums.RECORD``) of all shards in order, a JSON footer, then the footer's length
and crc32 and a magic. An index with any bit altered, or of an older layout, is built again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sar_dist.data.shards.checksums import RECORD
from sar_dist.data.shards.file_identity import identity_of_file
from sar_dist.data.shards.label_source import LabelSource
from sar_dist.data.shards.manifest import UNCOUNTED, Manifest, ShardEntry
from sar_dist.data.shards.second_images import SecondImages
from sar_dist.data.shards.tar_index import IndexedShard, index_shard
from sar_dist.data.shards.tar_members import DamagedShard
from sar_dist.files import atomic_write, cache_folder, make_folder, sha256_of
from sar_dist.output import warn
from sar_dist.processes import available_cores
from sar_dist.progress import track
from sar_dist.worker_pool import forked_pool

_TRAILER = struct.Struct("<QI8s")
_MAGIC_OF_ANY_VERSION = b"SARINDX"
_MAGIC = _MAGIC_OF_ANY_VERSION + b"5"
_STAT_THREADS = 16
# Pipes of a pool to one of its processes, generously.
_FILES_PER_PROCESS = 8
_NUMBERS = LabelSource()

IndexedRecords = tuple[IndexedShard, np.ndarray]


@dataclass(frozen=True)
class ShardIndex:
    """Where every sample of a split lies.

    ``records`` is (total,) of dtype RECORD, memory-mapped: 36 bytes a sample, resident once a node and only where it is
    read. ``offsets`` is (shards + 1,) int64, the first record of each shard, then the total.
    """

    shards: tuple[IndexedShard, ...]
    records: np.ndarray
    offsets: np.ndarray

    def of_shard(self, shard: int) -> np.ndarray:
        """The records of one shard, a view."""
        return self.records[self.offsets[shard] : self.offsets[shard + 1]]


def write_index(path: Path, parts: Iterable[IndexedRecords]) -> None:
    """Write an index file atomically from the entries and records of its shards, in order."""
    shards: list[IndexedShard] = []
    checksum = 0
    with atomic_write(path) as file:
        for shard, records in parts:
            data = records.tobytes()
            checksum = zlib.crc32(data, checksum)
            file.write(data)
            shards.append(shard)
        footer = json.dumps({"crc32": checksum, "shards": shards}).encode()
        file.write(footer + _TRAILER.pack(len(footer), zlib.crc32(footer), _MAGIC))


def read_index(path: Path) -> ShardIndex | None:
    """The index at ``path``; None where there is none, it is of another version, or a bit of it changed."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TRAILER.size))
            length, footer_checksum, magic = _TRAILER.unpack(file.read(_TRAILER.size))
            if magic != _MAGIC or length > size - _TRAILER.size:
                return None
            file.seek(size - _TRAILER.size - length)
            content = file.read(length)
            if zlib.crc32(content) != footer_checksum:
                return None
            footer = json.loads(content)
            shards = tuple(map(_parse_shard, footer["shards"]))
            offsets = np.concatenate([[0], np.cumsum([shard.samples for shard in shards], dtype=np.int64)])
            if offsets[-1] == 0 or offsets[-1] * RECORD.itemsize != size - _TRAILER.size - length:
                return None
            records = np.memmap(file, dtype=RECORD, mode="r", shape=(int(offsets[-1]),))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return ShardIndex(shards, records, offsets) if zlib.crc32(records.data) == footer["crc32"] else None


def damage_of_index(records: np.ndarray) -> str | None:
    """What has happened to the index file since ``records``, or a view of them, were mapped from it; None for nothing that is known."""
    if not isinstance(records, np.memmap) or records.filename is None:
        return None
    path = Path(records.filename)
    if not path.exists() or read_index(path) is not None:
        return None
    return (
        f"the index {path} was altered while it was in use, and the shard may be sound: remove the index, and start the same "
        "command again"
    )


def refuse_cut_index(records: np.ndarray) -> None:
    """Look whether the file that ``records`` are mapped from is as long as it was: a look at what is cut off ends the process.

    Raises:
        DamagedShard: it is not.
    """
    mapped = getattr(records, "_mmap", None)  # NumPy's own, whose ``size`` asks for the file's length now
    if mapped is not None and mapped.size() < len(mapped):
        assert isinstance(records, np.memmap)
        raise DamagedShard(
            f"the index {records.filename} was cut short while it was in use; the shards are none the worse for it: remove the "
            "index, and start the same command again"
        )


def _parse_shard(fields: list[Any]) -> IndexedShard:
    shard = IndexedShard(*fields)  # JSON has no tuples
    passed_over, joined = shard.passed_over, shard.joined
    return shard._replace(
        passed_over=(passed_over[0], passed_over[1]),
        joined=(joined[0], joined[1]),
        second=SecondImages(*shard.second),
    )


def index_paths(manifest: Manifest) -> tuple[Path, Path]:
    """Where the index of ``manifest`` may be: beside the shards, and in the cache folder."""
    root = Path(manifest.root).resolve()
    # Keyed by the whole path: two data sets whose folders have the same name must not share an index.
    folder = hashlib.blake2b(str(root).encode(), digest_size=8).hexdigest()
    # Another source of labels makes other records.
    kind = f"{manifest.split}.{manifest.labels.tag}" if manifest.labels.tag else manifest.split
    return root / f".{kind}.index", cache_folder() / "index" / f"{root.name}-{folder}.{kind}.index"


def find_index(manifest: Manifest) -> ShardIndex | None:
    """The stored index if it has exactly the manifest's shards with their numbers of samples (where those are known)."""
    for path in index_paths(manifest):
        index = read_index(path)
        if index is not None and len(index.shards) == len(manifest.shards):
            pairs = zip(manifest.shards, index.shards, strict=True)
            if all(entry.name == shard.name and entry.samples in (UNCOUNTED, shard.samples) for entry, shard in pairs):
                return index
    return None


def build_index(manifest: Manifest, processes: int | None = None) -> ShardIndex:
    """The index of ``manifest``, indexing what is new or has changed since it was stored, and storing the result.

    Every shard must exist with the size and the number of samples that the manifest states (where they are known).
    Safe to call from several processes at once: one works, the others wait. Raises DamagedShard.
    """
    states = _states(manifest)
    known = _stored(manifest, states)
    if known is not None:
        return known
    beside, cached = index_paths(manifest)
    # Another user's lock or index may lie in a folder that is open to a group.
    if os.access(beside.parent, os.W_OK):
        try:
            return _built_at(beside, manifest, states, processes)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
    make_folder(cached.parent)
    return _built_at(cached, manifest, states, processes)


def _built_at(path: Path, manifest: Manifest, states: list[os.stat_result], processes: int | None) -> ShardIndex:
    with FileLock(path.with_suffix(".lock")):
        # Another process may have built it while this one waited.
        index = _stored(manifest, states)
        if index is None:
            paths = index_paths(manifest)
            _say_if_outdated(paths)
            index = _made(path, _indexed_parts(manifest, states, _known_parts(paths), processes))
    return index


def index_new_shards(manifest: Manifest, processes: int | None = None) -> ShardIndex:
    """As ``build_index`` for shards that were just written and that no other process uses yet. Raises DamagedShard."""
    return _made(index_paths(manifest)[0], _indexed_parts(manifest, _states(manifest), {}, processes))


def _made(path: Path, parts: Iterable[IndexedRecords]) -> ShardIndex:
    write_index(path, parts)
    index = read_index(path)
    if index is None:
        raise DamagedShard(f"cannot read back the index {path}; is the disk sound?")
    return index


def _stored(manifest: Manifest, states: list[os.stat_result]) -> ShardIndex | None:
    """The stored index if it covers the manifest's shards as they are now."""
    for path in index_paths(manifest):
        index = read_index(path)
        if index is not None and _covers(index, manifest, states):
            return index
    return None


def is_outdated(path: Path) -> bool:
    """Whether there is an index at ``path`` that another version of this program wrote."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_MAGIC), os.SEEK_END)
            magic = file.read()
    except OSError:
        return False
    return magic.startswith(_MAGIC_OF_ANY_VERSION) and magic != _MAGIC


def _say_if_outdated(paths: Iterable[Path]) -> None:
    for path in filter(is_outdated, paths):
        warn(
            f"{path} is of another version: made anew, as it lacks what this one compares; all shards are read once for it"
        )


def _states(manifest: Manifest) -> list[os.stat_result]:
    """``stat`` of every shard; in threads because a network file system answers slowly."""
    root = Path(manifest.root)

    def state(entry: ShardEntry) -> os.stat_result | None:
        try:
            found = os.stat(root / entry.name)
            if not os.access(root / entry.name, os.R_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return found
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DamagedShard(f"shard {entry.name} in {root} cannot be read: {error.strerror}") from None

    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        states = list(pool.map(state, manifest.shards))
    missing = [entry.name for entry, found in zip(manifest.shards, states, strict=True) if found is None]
    if missing:
        raise DamagedShard(f"{_some(missing)} of {len(states)} shards not found in {root}; restore the files")
    found = [state for state in states if state is not None]
    for entry, state_of in zip(manifest.shards, found, strict=True):
        if entry.bytes is not None and state_of.st_size != entry.bytes:
            raise DamagedShard(
                f"shard {entry.name} in {root} has {state_of.st_size} bytes, its manifest says {entry.bytes}: "
                "truncated or replaced; restore it"
            )
    return found


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _unchanged(shard: IndexedShard, entry: ShardEntry, state: os.stat_result) -> bool:
    """Whether a shard is the file that was indexed, and was found then to be what the manifest says now."""
    found = (state.st_size, state.st_mtime_ns, *identity_of_file(state))
    same_file = found == (shard.bytes, shard.mtime_ns, shard.device, shard.inode)
    same_content = entry.sha256 in (None, shard.sha256) and entry.checksums in (None, shard.checksums)
    return same_file and same_content and entry.samples in (UNCOUNTED, shard.samples)


def _covers(index: ShardIndex, manifest: Manifest, states: list[os.stat_result]) -> bool:
    if [shard.name for shard in index.shards] != [entry.name for entry in manifest.shards]:
        return False
    return all(map(_unchanged, index.shards, manifest.shards, states))


def _known_parts(paths: Iterable[Path]) -> dict[str, IndexedRecords]:
    known: dict[str, IndexedRecords] = {}
    for path in paths:
        index = read_index(path)
        if index is not None:
            known |= {shard.name: (shard, index.of_shard(i)) for i, shard in enumerate(index.shards)}
    return known


def _indexed_parts(
    manifest: Manifest, states: list[os.stat_result], known: dict[str, IndexedRecords], processes: int | None
) -> Iterator[IndexedRecords]:
    """Entry and records of every shard in order: from ``known`` where unchanged, else by indexing it now."""
    stale: list[ShardEntry] = []
    for entry, state in zip(manifest.shards, states, strict=True):
        if entry.name not in known or not _unchanged(known[entry.name][0], entry, state):
            known.pop(entry.name, None)
            stale.append(entry)
    most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _FILES_PER_PROCESS)
    workers = min(processes or available_cores(), len(stale), most)
    with contextlib.ExitStack() as stack:
        mapper: Callable[..., Iterable[IndexedRecords]] = map
        if workers > 1:
            mapper = stack.enter_context(forked_pool(workers)).map
        indexed = mapper(partial(_index_local, manifest.root, manifest.labels), stale)
        fresh = iter(track(indexed, len(stale), f"indexing the {manifest.split} shards"))
        for entry in manifest.shards:
            yield known[entry.name] if entry.name in known else next(fresh)


def index_and_check(path: Path, entry: ShardEntry, root: str, labels: LabelSource = _NUMBERS) -> IndexedRecords:
    """Index the file of one shard and hold it against the manifest: number of samples, sha256 and checksums where it states them.

    ``root`` is where the shard comes from, for messages. Raises DamagedShard.
    """
    try:
        shard, records = index_shard(path, entry.name, labels)
        digest = sha256_of(path) if entry.sha256 else None
    except OSError as error:
        raise DamagedShard(f"shard {entry.name} in {root} cannot be read: {error.strerror}") from None
    if entry.samples not in (UNCOUNTED, shard.samples):
        raise DamagedShard(
            f"shard {entry.name} in {root} holds {shard.samples} samples, its manifest says {entry.samples}; restore it"
        )
    if digest != entry.sha256:
        raise DamagedShard(f"shard {entry.name} in {root} has changed: its sha256 is not its manifest's; restore it")
    if entry.checksums not in (None, shard.checksums):
        raise DamagedShard(
            f"shard {entry.name} in {root}: the checksums of its samples are not its manifest's; restore both"
        )
    return shard._replace(sha256=digest), records


def _index_local(root: str, labels: LabelSource, entry: ShardEntry) -> IndexedRecords:
    return index_and_check(Path(root, entry.name), entry, root, labels)
