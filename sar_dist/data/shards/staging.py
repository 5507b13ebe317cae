"""Remote shards on a local disk: fetched whole, checked, kept while there is room, shared by all processes of a node."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from sar_dist.config import DataSettings
from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.manifest import Manifest
from sar_dist.data.shards.odd_members import odd_members
from sar_dist.data.shards.reading import LocalShards, OpenShard, Shards
from sar_dist.data.shards.remote import RemoteFolder, is_url
from sar_dist.data.shards.shard_index import ShardIndex, index_and_check, is_outdated, read_index, write_index
from sar_dist.data.shards.tar_index import IndexedShard
from sar_dist.data.shards.tar_members import DamagedShard
from sar_dist.errors import UserError
from sar_dist.files import NO_SPACE_ERRORS, TOO_LARGE, cache_folder, check_folder, check_space, make_folder
from sar_dist.output import warn

_PREFETCH_THREADS = 4
# A transfer may damage a shard; twice in a row it is the stored shard that is damaged.
_TRANSFERS = 2
_EVICTIONS_DURING_OPEN = 5
_STAGED = "*/**/*.tar"


class StagedShards:
    """The shards of a remote manifest by way of a folder on this node.

    A shard is there under its name only when it was fetched completely, its size, sha256 and number of samples were
    compared with the manifest, and it was indexed; the index lies beside it. Of all processes of the node one fetches it
    and the others wait. Above the limit the shards used longest ago are removed; a process that has one open keeps it.

    Args:
        manifest: whose root is a URL.
        stage: local folder, may be shared by data sets and runs.
        limit: bytes of shards to keep in ``stage``.
        stall_seconds: a download that brings nothing for so long is repeated.
    """

    remote = True

    def __init__(self, manifest: Manifest, stage: Path, limit: int, stall_seconds: float) -> None:
        self._manifest = manifest
        self._stage = stage
        self._limit = limit
        self._remote = RemoteFolder(manifest.root, stall_seconds)
        digest = hashlib.blake2b(self._remote.root.encode(), digest_size=8).hexdigest()
        self._folder = stage / f"{self._remote.root.rpartition('/')[2]}-{digest}"
        versions = [shard.version for shard in manifest.shards]
        self.content = _short_digest(*map(str, versions)) if any(versions) else None
        self._prefetcher: tuple[int, _Prefetcher] | None = None
        self._said = self._said_anew = False

    def url(self, shard: int) -> str:
        return self._remote.url(self._manifest.shards[shard].name)

    def open(self, shard: int) -> OpenShard:
        for _ in range(_EVICTIONS_DURING_OPEN):
            path = self.fetch(shard)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # removed by another process since
                continue
            state = os.fstat(fd)
            index = read_index(_index_path(path)) or self._indexed_anew(shard, path)
            if index is not None and (index.shards[0].bytes, index.shards[0].mtime_ns) == (
                state.st_size,
                state.st_mtime_ns,
            ):
                os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))
                return OpenShard(fd, index.shards[0], index.records)
            os.close(fd)
            warn(f"{path} is not as it was when it was fetched ({state.st_size / 1e6:.1f} MB); fetching it again")
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        raise UserError(
            f"{path} is removed as soon as it is fetched; raise data.stage_gigabytes or set another data.stage"
        )

    def prefetch(self, shards: Iterable[int]) -> None:
        """Begin to fetch ``shards`` in the background, in this order; those that are there or under way are not repeated."""
        # Threads do not survive a fork: each process has its own.
        if self._prefetcher is None or self._prefetcher[0] != os.getpid():
            self._prefetcher = (os.getpid(), _Prefetcher(self))
        self._prefetcher[1].request(shards)

    def discard(self, shard: int, fd: int) -> bool:
        path = self.local_path(shard)
        with FileLock(f"{path}.lock"), contextlib.suppress(FileNotFoundError):
            # Another process may have fetched it anew already.
            if os.path.samestat(path.stat(), os.fstat(fd)):
                path.unlink()
        return True

    def fetch(self, shard: int) -> Path:
        """The local path of a shard, fetched first if need be.

        Raises DamagedShard, RemoteUnreadable, and UserError if the disk is full.
        """
        path = self.local_path(shard)
        if path.exists():
            return path
        make_folder(path.parent)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                try:
                    self._transfer(shard, path)
                except OSError as error:
                    if error.errno in NO_SPACE_ERRORS:
                        too_large = error.errno == errno.EFBIG
                        remedy = TOO_LARGE if too_large else "lower data.stage_gigabytes or set data.stage"
                        raise UserError(f"no space left for shards in {self._stage}; {remedy}") from None
                    raise
        self._make_room(path)
        return path

    def local_path(self, shard: int) -> Path:
        """Where a shard is when it is staged; a shard of another sha256, or of another version in its store, is another file."""
        entry = self._manifest.shards[shard]
        content = entry.sha256 or (_short_digest(entry.version) if entry.version else "unhashed")
        return self._folder / f"{content[:16]}{self._manifest.labels.tag}" / entry.name

    def _transfer(self, shard: int, path: Path) -> None:
        """Fetch, check and index one shard; its name appears last, when everything else is in place."""
        entry = self._manifest.shards[shard]
        part = path.with_name(f"{path.name}.part")
        for transfer in range(1, _TRANSFERS + 1):
            try:
                with part.open("wb") as file:
                    for chunk in self._remote.chunks(entry.name, entry.bytes or self._remote.size(entry.name)):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                indexed = index_and_check(part, entry, self._remote.root, self._manifest.labels)
                write_index(_index_path(path), [indexed])
                part.rename(path)
                self._say_what_is_odd(indexed[0])
                return
            except DamagedShard as problem:
                if transfer == _TRANSFERS:
                    raise DamagedShard(f"{self._remote.root}: {problem}; upload it again") from None
                warn(f"{problem}; fetching it again")
            finally:
                part.unlink(missing_ok=True)

    def _indexed_anew(self, shard: int, path: Path) -> ShardIndex | None:
        """The index of a staged copy whose own cannot be used; None where it is not known that the copy is whole.

        A copy is whole if its sha256 says so. Without one, only an index of another version vouches for it.
        """
        entry = self._manifest.shards[shard]
        with FileLock(f"{path}.lock"):
            index = read_index(_index_path(path))
            if index is not None:  # of another process
                return index
            outdated = is_outdated(_index_path(path))
            if entry.sha256 is None and not outdated:
                return None
            try:
                indexed = index_and_check(path, entry, self._remote.root, self._manifest.labels)
            except DamagedShard:
                return None
            write_index(_index_path(path), [indexed])
        if not self._said_anew:
            why = "their indexes are of another version" if outdated else "an index is missing or damaged"
            warn(f"{self._folder}: copies of shards are indexed anew, as {why}; they are whole, and not fetched again")
            self._said_anew = True
        return read_index(_index_path(path))

    def _say_what_is_odd(self, shard: IndexedShard) -> None:
        """Of the first shard in which something is: each process fetches a few of very many."""
        lines = [] if self._said else list(odd_members([shard]))
        for line in lines:
            warn(f"{self._remote.root}: {line} (only the first such shard is reported)")
        self._said = self._said or bool(lines)

    def _make_room(self, keep: Path) -> None:
        """Remove the shards used longest ago until the stage is within its limit; ``keep`` stays."""
        with FileLock(self._stage / "room.lock"):
            staged = []
            for path in self._stage.glob(_STAGED):
                with contextlib.suppress(FileNotFoundError):
                    state = path.stat()
                    staged.append((state.st_atime_ns, state.st_size, path))
            excess = sum(size for _, size, _ in staged) - self._limit
            for _, size, path in sorted(staged):
                if excess <= 0:
                    return
                # A shard that is just being fetched again is not one used long ago: its lock is taken.
                with contextlib.suppress(Timeout), FileLock(f"{path}.lock", timeout=0):
                    if path != keep:
                        path.unlink(missing_ok=True)
                        _index_path(path).unlink(missing_ok=True)
                        excess -= size


def _short_digest(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def _index_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


class _Prefetcher:
    """Threads of one process that fetch shards ahead of their use."""

    def __init__(self, shards: StagedShards) -> None:
        self._shards = shards
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._under_way: set[int] = set()
        for _ in range(_PREFETCH_THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def request(self, shards: Iterable[int]) -> None:
        for shard in dict.fromkeys(shards):
            if shard not in self._under_way and not self._shards.local_path(shard).exists():
                self._under_way.add(shard)
                self._wanted.put(shard)

    def _work(self) -> None:
        while True:
            shard = self._wanted.get()
            try:
                self._shards.fetch(shard)
            except (UserError, OSError) as problem:
                # Whoever needs the shard tries again and reports it.
                warn(f"prefetching {self._shards.url(shard)} failed: {problem}")
            self._under_way.discard(shard)


def open_shards(manifest: Manifest, data: DataSettings) -> Shards:
    """The shards of a manifest, local or remote; a local one is indexed first if ``check_shards`` has not done it."""
    if not is_url(manifest.root):
        return LocalShards(manifest, open_index(manifest))
    return StagedShards(manifest, stage_folder(data), _stage_limit(data), data.stall_seconds)


def stage_folder(data: DataSettings) -> Path:
    """The local folder of remote shards."""
    return Path(data.stage) if data.stage else cache_folder() / "stage"


def _stage_limit(data: DataSettings) -> int:
    return int(data.stage_gigabytes * 1e9)


def check_stage(data: DataSettings) -> None:
    """Make sure that remote shards, if there are any, can be written where they are to be. Raises UserError."""
    sets = [each.shards for each in data.training_sets] + [data.val or ""]
    if any(map(is_url, sets)):
        folder = stage_folder(data)
        check_folder(folder, f"data.stage={data.stage}" if data.stage else f"the folder of remote shards, {folder}")


def check_stage_room(data: DataSettings, manifests: Sequence[Manifest]) -> None:
    """Make sure that the disk holds the remote shards among ``manifests``, as far as they are kept. Raises UserError."""
    remote = [shard.bytes or 0 for manifest in manifests if is_url(manifest.root) for shard in manifest.shards]
    if not remote:
        return
    folder = stage_folder(data)
    held = sum(path.stat().st_size for path in folder.glob(_STAGED) if path.is_file())
    check_space(  # what is there already makes room
        folder,
        min(_stage_limit(data), sum(remote)) - held,
        "remote shards take",
        "lower data.stage_gigabytes, or set data.stage to a folder of a larger disk",
    )
