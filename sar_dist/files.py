"""Small helpers on files that all packages share: atomic writing, hashing, the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sar_dist.errors import UserError

CACHE_VARIABLE = "SAR_DIST_CACHE"
NO_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HASH_CHUNK = 1 << 20


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
