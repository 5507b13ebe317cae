"""Small helpers on files that the data package shares: atomic writing, hashing, the cache folder, progress."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from sar_dist.errors import UserError

T = TypeVar("T")

CACHE_VARIABLE = "SAR_DIST_CACHE"
NO_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HASH_CHUNK = 1 << 20
_LINE_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` whole, on disk, or not at all.

    Raises UserError if the disk is full, OSError otherwise; in both cases nothing is left behind.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        os.rename(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in NO_SPACE_ERRORS:
            raise UserError(f"no space left to write {path}; free some and run the same command again") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def make_folder(folder: Path) -> None:
    """Create ``folder`` and those above it where they are missing. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {folder}: {error.strerror}; set ${CACHE_VARIABLE}, or another output, to a writable folder"
        ) from None


def sync_folder(folder: Path) -> None:
    """Put the folder's entries on disk, so that a rename survives a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """``$SAR_DIST_CACHE``, by default ``~/.cache/sar_dist``. Not created.

    A user without a home (no $HOME and no entry in the password database, as in many containers) gets a folder of
    their own below the system's temporary folder.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    try:
        return Path.home() / ".cache" / "sar_dist"
    except RuntimeError:  # what Path.home() raises where there is no home
        return Path(tempfile.gettempdir()) / f"sar_dist-{os.getuid()}"


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass ``items`` on while showing progress on stderr: a bar on a terminal, else a line every 10 s."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=what, total=total, console=Console(stderr=True), transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > _LINE_EVERY_SECONDS:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
