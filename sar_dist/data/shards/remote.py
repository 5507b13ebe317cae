"""Shards in an object store or on a web server, through fsspec: reads that are repeated until they succeed or are hopeless.

Any fsspec URL will do (``s3://bucket/folder``, ``gs://...``, ``https://...``). Credentials and endpoints come from the
environment in the way of each store, or from fsspec's own variables such as FSSPEC_S3_ENDPOINT_URL.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import fsspec

from sar_dist.data.layout import CLASSES_NAME, SPLIT_NAMES, ClassTable, Split, parse_label_words, split_of_word
from sar_dist.data.shards.bounded_http import get_client
from sar_dist.data.shards.manifest import (
    HOW_TO_MAKE,
    MANIFEST_NAME,
    TIMM_INFO_NAME,
    Manifest,
    ShardEntry,
    parse_manifest,
    parse_timm_info,
)
from sar_dist.data.shards.tar_members import DamagedShard
from sar_dist.errors import UserError, described, text_of
from sar_dist.output import warn

T = TypeVar("T")

CHUNK_BYTES = 8 << 20
_END_BYTES = 1 << 18
_ATTEMPTS = 6
# "There is no such file" is rarely a passing state, but some stores say so when a connection was reset.
_ATTEMPTS_IF_REFUSED = 3
_REFUSALS = (FileNotFoundError, PermissionError)
# Of HTTP: not found, gone; not signed in, forbidden.
_ABSENT = (404, 410)
_FORBIDDEN = (401, 403)
# Of what fsspec's stores tell of a file: web servers, S3, Google.
_AS_ABSENT = "taken for a file that is not there, of which some stores say the same"
_VERSION_FIELDS = ("ETag", "etag", "Last-Modified", "LastModified", "updated")
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_SIZE_THREADS = 16
# A million shards need a quarter of it.
MAX_MANIFEST_BYTES = 1 << 30


class RemoteUnreadable(UserError):
    """A remote file cannot be read, whatever was tried. The message says which one and why."""


def is_url(path: str | os.PathLike) -> bool:
    """Whether ``path`` is a URL such as s3://bucket/folder and not a path of this machine."""
    return "://" in os.fspath(path)


class RemoteFolder:
    """The files below one URL. Each read is given up when it brings nothing for ``stall_seconds``, and repeated.

    Methods raise RemoteUnreadable after the last attempt. Processes that fork may share an instance.
    """

    def __init__(self, root: str, stall_seconds: float = 60.0) -> None:
        self.root = root.rstrip("/")
        self._stall_seconds = stall_seconds
        self._connection: tuple[int, fsspec.AbstractFileSystem] | None = None
        self._answered = False
        self.forbidden: list[str] = []  # what was said of files that ``exists`` was not allowed to see

    def url(self, name: str) -> str:
        """The URL of a file."""
        return f"{self.root}/{name}"

    def size(self, name: str, attempts_if_refused: int = _ATTEMPTS_IF_REFUSED) -> int:
        """Size of a file in bytes."""
        return self.state(name, attempts_if_refused)[0]

    def state(self, name: str, attempts_if_refused: int = _ATTEMPTS_IF_REFUSED) -> tuple[int, str]:
        """Size of a file in bytes, and what changes with its content, as far as the store says it."""
        info = self._repeated(name, lambda filesystem, path: filesystem.info(path), attempts_if_refused)
        size = info["size"]
        if size is None:
            raise DamagedShard(
                f"{self.url(name)}: the server does not tell its size; use another server or a local copy"
            )
        return int(size), " ".join([str(size), *(str(info[field]) for field in _VERSION_FIELDS if info.get(field))])

    def digest_of_ends(self, name: str, size: int) -> str:
        """What tells a file from another of its size in most cases: of its first bytes and, but for web servers, its last."""

        def ends(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
            first = filesystem.cat_file(path, start=0, end=min(size, _END_BYTES))
            if self.root.startswith(("http://", "https://")):  # one without ranges would send all of it for its end
                return first
            return first + filesystem.cat_file(path, start=max(0, size - _END_BYTES), end=size)

        return hashlib.blake2b(self._repeated(name, ends), digest_size=8).hexdigest()

    def read(self, name: str) -> bytes:
        """The whole content of a small file. Raises UserError if it is larger than any manifest, whatever its server says."""
        return self._manifest_sized(name, self._repeated(name, _beginning))

    def read_if_there(self, name: str) -> bytes | None:
        """As ``read``, or None where the store says that the file is not there.

        A store that may not list its files says "permission denied" instead; it is said that it does.
        """
        try:
            data = self._repeated(name, _beginning, attempts_if_refused=1)
        except RemoteUnreadable as error:
            if not isinstance(error.__cause__, _REFUSALS):
                raise
            if isinstance(error.__cause__, PermissionError):
                warn(f"{error}; {_AS_ABSENT}")
            return None
        return self._manifest_sized(name, data)

    def _manifest_sized(self, name: str, data: bytes) -> bytes:
        if len(data) > MAX_MANIFEST_BYTES:
            raise UserError(f"{self.url(name)} is no manifest: it has more than {MAX_MANIFEST_BYTES} bytes")
        return data

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """The content of a file of ``size`` bytes in order, in pieces of CHUNK_BYTES; a failed piece is read again."""
        for start in range(0, size, CHUNK_BYTES):
            end = min(start + CHUNK_BYTES, size)

            def piece(filesystem: fsspec.AbstractFileSystem, path: str, start: int = start, end: int = end) -> bytes:
                data = filesystem.cat_file(path, start=start, end=end)
                if len(data) == size != end - start:
                    # A store that knows no ranges gives everything.
                    data = data[start:end]
                if len(data) != end - start:
                    raise OSError(f"{len(data)} bytes received instead of {end - start}")
                return data

            yield self._repeated(name, piece)

    def exists(self, name: str) -> bool:
        """Whether there is such a file, asked once. Raises RemoteUnreadable where the store cannot be asked."""
        try:
            self.size(name, attempts_if_refused=1)
        except RemoteUnreadable as error:
            if not isinstance(error.__cause__, _REFUSALS):
                raise
            if isinstance(error.__cause__, PermissionError):
                self.forbidden.append(str(error))
            return False
        return True

    def _repeated(
        self,
        name: str,
        call: Callable[[fsspec.AbstractFileSystem, str], T],
        attempts_if_refused: int = _ATTEMPTS_IF_REFUSED,
    ) -> T:
        """``call(filesystem, path)`` until it succeeds, with growing pauses and a new connection after each failure."""
        pause = _FIRST_PAUSE_SECONDS
        for attempt in itertools.count(1):
            future = _in_background(partial(self._attempt, name, call))
            try:
                problem = future.exception(timeout=self._stall_seconds)
            except FutureTimeoutError:
                problem = TimeoutError(f"nothing received for {self._stall_seconds:g} s")
            if problem is None or isinstance(problem, UserError):  # which another attempt would meet too
                break
            if attempt == self._attempts(problem, attempts_if_refused):
                raise RemoteUnreadable(_explanation(self.url(name), problem, attempt)) from problem
            warn(f"reading {self.url(name)} failed ({described(problem)}), trying again")
            self._connection = None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        self._answered = True
        return future.result()

    def _attempts(self, problem: BaseException, if_refused: int) -> int:
        """How often to try what ended so."""
        if isinstance(problem, _REFUSALS):
            return if_refused
        # A service that gives credentials can fail for a moment, but before the first answer there are mostly none.
        return _ATTEMPTS_IF_REFUSED if not self._answered and _lacks_credentials(problem) else _ATTEMPTS

    def _attempt(self, name: str, call: Callable[[fsspec.AbstractFileSystem, str], T]) -> T:
        filesystem = self._filesystem()  # connects, for some protocols
        try:
            return call(filesystem, filesystem._strip_protocol(self.url(name)))
        except FileNotFoundError as error:
            if not self.root.startswith(("http://", "https://")):
                raise
            raise _web_problem(error) from error

    def _filesystem(self) -> fsspec.AbstractFileSystem:
        if self._connection is None or self._connection[0] != os.getpid():
            self._connection = (os.getpid(), connect(self.root))
        return self._connection[1]


def _web_problem(error: FileNotFoundError) -> BaseException:
    """What went wrong at a web server: fsspec calls every failure to ask for a file "not found"."""
    cause = error.__cause__
    status = getattr(cause, "status", None)
    if cause is None or status in _ABSENT:
        return error
    return PermissionError(f"HTTP status {status}") if status in _FORBIDDEN else cause


def _beginning(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    """A file, or a little more of it than a manifest may have; ``cat_file`` would take whatever a server sends."""
    with filesystem.open(path, "rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


_connected: weakref.WeakValueDictionary[int, fsspec.AbstractFileSystem] = weakref.WeakValueDictionary()
_of_the_parent: list[fsspec.AbstractFileSystem] = []


def connect(url: str) -> fsspec.AbstractFileSystem:
    """A new fsspec file system for ``url``. Raises UserError if there is none for its protocol."""
    options = {"get_client": get_client} if url.startswith(("http://", "https://")) else {}
    try:
        filesystem = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)[0]
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot read {url}: {error} (pip install 'sar_dist[remote]' has the usual ones)") from None
    _connected[id(filesystem)] = filesystem
    return filesystem


def _leave_to_the_parent() -> None:
    """Keep a parent's connections from ever being closed here, in a process that it has forked.

    What fsspec does when such a file system goes waits a second for an event loop that runs in the parent alone, then takes
    the parent's sockets out of the epoll object that both processes share: the parent would hear no answer on them again.
    """
    _of_the_parent.extend(_connected.values())
    _connected.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def _explanation(url: str, problem: BaseException, attempts: int) -> str:
    if isinstance(problem, FileNotFoundError):
        return f"there is no {url}"
    if isinstance(problem, PermissionError) or _lacks_credentials(problem):
        return f"{url} may not be read ({text_of(problem)}); provide credentials in the environment"
    return f"cannot read {url}: {described(problem)} ({attempts} attempts)"


def _lacks_credentials(problem: BaseException) -> bool:
    """Whether a store's library found nobody to sign in as, such as botocore's NoCredentialsError."""
    return "Credentials" in type(problem).__name__


def _in_background(call: Callable[[], T]) -> Future[T]:
    """Run ``call`` in a thread that nobody has to wait for, unlike a pool's: it may hang in a dead connection."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def find_remote_manifest(url: str, split: Split) -> Manifest:
    """The manifest of ``split`` below ``url``: manifest.json or timm's _info.json, there or in train/ or val/.

    Raises UserError.
    """
    forbidden: list[str] = []
    for root in (url.rstrip("/"), *(f"{url.rstrip('/')}/{name}" for name in SPLIT_NAMES[split])):
        folder = RemoteFolder(root)
        for name, parse in ((MANIFEST_NAME, parse_manifest), (TIMM_INFO_NAME, parse_timm_info)):
            if folder.exists(name):
                if forbidden or folder.forbidden:
                    said = [*forbidden, *folder.forbidden]
                    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
                    warn(f"{said[0]}{more}; {_AS_ABSENT}, so {folder.url(name)} is read")
                return parse(_parse_json(folder, name), root, split)
        forbidden += folder.forbidden
    raise UserError(
        f"no {split} shards at {url}: neither {MANIFEST_NAME} nor {TIMM_INFO_NAME} can be read there; "
        f"{f'{forbidden[0]}, or ' if forbidden else ''}{HOW_TO_MAKE}"
    )


def read_remote_classes(manifest: Manifest, url: str) -> ClassTable | None:
    """What a ``classes.json`` says about the labels of remote shards; None where there is none.

    It lies, as of local ones, beside the shards, at ``url``, above a folder called like a split, or in the training split's alone,
    which is said. Raises UserError.
    """
    root, given = manifest.root.rstrip("/"), url.rstrip("/")
    above = [place.rpartition("/")[0] for place in (root, given) if split_of_word(place.rpartition("/")[2])]
    places = list(dict.fromkeys([root, given, *above]))
    training = [
        f"{place}/{name}" for place in places if place in above or place != root for name in SPLIT_NAMES["train"]
    ]
    for place in dict.fromkeys([*places, *training]):
        folder = RemoteFolder(place)
        data = folder.read_if_there(CLASSES_NAME)
        if data is not None:
            if place not in places:
                warn(f"{root}: the classes are numbered as in {folder.url(CLASSES_NAME)}")
            return parse_label_words(data, folder.url(CLASSES_NAME))
    return None


def _parse_json(folder: RemoteFolder, name: str) -> Any:
    size = folder.size(name)
    if size > MAX_MANIFEST_BYTES:
        raise UserError(f"{folder.url(name)}: {size} bytes are no manifest (at most {MAX_MANIFEST_BYTES})")
    try:
        return json.loads(folder.read(name))
    except RecursionError:
        raise UserError(f"{folder.url(name)} is nested too deeply for a manifest; {HOW_TO_MAKE}") from None
    except ValueError as error:
        raise UserError(f"{folder.url(name)} is not JSON: {error}") from None


def with_versions(manifest: Manifest) -> Manifest:
    """``manifest`` with what the store says now of shards without sha256: without it, a replaced one would not be noticed.

    Raises RemoteUnreadable, DamagedShard.
    """
    folder = RemoteFolder(manifest.root)

    def versioned(entry: ShardEntry) -> ShardEntry:
        if entry.sha256 is not None:
            return entry
        size, version = folder.state(entry.name)
        if version == str(size):  # neither an ETag nor a date
            version = f"{size} {folder.digest_of_ends(entry.name, size)}"
        return replace(entry, bytes=entry.bytes or size, version=version)

    with ThreadPoolExecutor(_SIZE_THREADS) as pool:
        return replace(manifest, shards=tuple(pool.map(versioned, manifest.shards)))


def check_remote_sizes(manifest: Manifest) -> None:
    """Make sure that every shard is in its store, with the size that the manifest states (if it does).

    Raises RemoteUnreadable, DamagedShard.
    """
    folder = RemoteFolder(manifest.root)
    with ThreadPoolExecutor(_SIZE_THREADS) as pool:
        sizes = pool.map(lambda shard: folder.size(shard.name), manifest.shards)
        for shard, size in zip(manifest.shards, sizes, strict=True):
            if shard.bytes not in (None, size):
                raise DamagedShard(
                    f"shard {folder.url(shard.name)} has {size} bytes, its manifest says {shard.bytes}; upload it again"
                )
