"""How the program writes files: whole, on disk, or not at all; and what it needs to know of a disk before.

Everything that must survive a crash or a power cut is written here. It gets its name only when every byte of it is on
disk, and the folder that holds the name is synced too. What fails leaves nothing behind and is one clear error, of which
the disk's state is a part: full, read-only, or broken.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeGuard

from sar_dist.errors import UserError

CACHE_VARIABLE = "SAR_DIST_CACHE"
NO_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PART_FILES = ".*.part*"
"""Pattern of the temporary names; what matches it while nobody writes was left by a process that was killed."""
TOO_LARGE = "allow larger files (ulimit -f), or choose a file system that takes them"
_LOCKED_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM)
_HASH_CHUNK = 1 << 20
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


class CannotWrite(UserError, OSError):
    """A file that could not be written: ``CannotWrite(errno, strerror, filename)``.

    It is a ``UserError`` as it stands, and an ``OSError`` for callers who go on without the file or know more to say.
    """

    def __str__(self) -> str:
        if self.errno in NO_SPACE_ERRORS:
            remedy = space_remedy(self.strerror or "")
        elif self.errno in _LOCKED_ERRORS:
            remedy = "make the folder writable or choose another"
        else:
            remedy = "see to the disk"
        return f"cannot write {self.filename}: {self.strerror}; {remedy}"


def space_remedy(problem: str) -> str:
    """What helps where a problem, whose text is known, is one of NO_SPACE_ERRORS."""
    return TOO_LARGE if os.strerror(errno.EFBIG) in problem else "free some space"


class NotAFile(UserError, OSError):
    """Something else in the place of a file; a ``UserError`` as it stands, and an ``OSError`` as ``CannotWrite`` is one."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` whole, on disk, or not at all.

    Raises:
        CannotWrite: the disk is full, read-only or broken. Nothing is left behind, whatever is raised.
    """
    with _taking_its_name(path) as temporary:
        with _named(path):
            file = temporary.open("xb")
        with file:
            yield file
            with _named(path):
                file.flush()
                os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """As ``atomic_write``, for a writer that wants a path: a temporary one that ends like ``path``."""
    with _taking_its_name(path, path.suffix) as temporary:
        yield temporary
        with _named(path):
            sync_file(temporary)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes ``path`` (absent, or an empty folder) with everything in it on disk.

    Raises:
        CannotWrite: as for ``atomic_write``.
    """
    path = path.resolve()  # "." has no name of its own
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _taking_its_name(path) as temporary:
        with _named(path):
            temporary.mkdir()
        yield temporary
        with _named(path):
            for entry in temporary.rglob("*"):
                (sync_folder if entry.is_dir() else sync_file)(entry)
            sync_folder(temporary)


def remove_leftovers(path: Path) -> None:
    """Remove what processes left that were killed while they wrote ``path``; nobody may be writing it now.

    Raises:
        OSError: it cannot be removed.
    """
    for temporary in path.parent.glob(f".{glob.escape(path.name)}{PART_FILES[1:]}"):
        _remove(temporary)


def remove_all_leftovers(folder: Path) -> None:
    """As ``remove_leftovers``, of everything below ``folder``.

    Raises:
        OSError: something cannot be removed.
    """
    for temporary in folder.rglob(PART_FILES):
        _remove(temporary)


def _remove(temporary: Path) -> None:
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary)
    else:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, content: str) -> None:
    """Write a small text file as ``atomic_write`` does."""
    with atomic_write(path) as file:
        file.write(content.encode())


def open_output(path: Path) -> TextIO:
    """A text file, or a pipe that somebody reads, which a user named for writing.

    Raises:
        OSError: it cannot be opened; of a pipe that nobody reads, which would be waited for, at once.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def publish(path: Path, content: str) -> None:
    """Let a small text file appear whole, for a process that waits for it; as the last of what is done in its folder.

    The name is not synced: whoever waits may rename or remove the folder at once.
    """
    with _taking_its_name(path, lasting=False) as temporary:
        temporary.write_text(content)


@contextlib.contextmanager
def _taking_its_name(path: Path, suffix: str = "", *, lasting: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, for the body to make and sync, which is then renamed; removed on any failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{suffix}")
    try:
        yield temporary
        with _named(path):
            temporary.replace(path)
            if lasting:
                sync_folder(path.parent)
    except BaseException as error:  # an interrupt too leaves nothing behind
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()
        # The body may read other files, whose errors are not for here; these two kinds only writing has.
        if _is_plain(error) and error.errno in (*NO_SPACE_ERRORS, errno.EROFS):
            raise CannotWrite(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the body are errors of writing ``path``."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(error.errno, error.strerror, str(path)) from error


def _is_plain(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and not isinstance(error, CannotWrite)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and those above it where they are missing. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {folder}: {error.strerror}; choose an output (and a ${CACHE_VARIABLE}) that you may write"
        ) from None


def check_folder(place: Path, what: str) -> None:
    """Make sure, before anything takes time, that files can be written to a folder, which may not exist yet.

    A folder is made and removed in it, or in the nearest one above: permissions alone do not tell of /proc or a quota.

    Args:
        place: the folder.
        what: how the user named it, such as "data.stage=/scratch/x".

    Raises:
        UserError: it cannot be, and why.
    """
    if "://" in what:
        raise UserError(f"{what} is a URL; give a folder of this machine")
    try:
        existing = _nearest(place.absolute())
        os.rmdir(tempfile.mkdtemp(prefix=".probe-", dir=existing))
    except OSError as error:
        raise UserError(
            f"{what}: nothing can be written there ({error.strerror}); give a folder that you may write"
        ) from None


def _nearest(place: Path) -> Path:
    """``place`` or, where it is missing, the nearest folder above it that is there. Raises OSError where a file is in the way."""
    while True:
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):  # the file is found above
            place = place.parent
            continue
        if stat.S_ISLNK(found.st_mode) and not place.exists():
            raise OSError(errno.ENOENT, f"{place} is a link to nothing")
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is not a folder")
        return place


def read_regular(path: Path) -> bytes:
    """Content of a file that somebody named.

    Raises:
        NotAFile: reading it would wait for ever, as of a pipe.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise NotAFile(errno.EINVAL, "it is a pipe, a device or a folder, not a file", str(path))
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Content of a text file in UTF-8, with or without a byte order mark. Raises UserError."""
    try:
        return read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def parse_json(content: str | bytes) -> Any:
    """What JSON text holds. Raises ValueError, also where it is nested so deeply that Python cannot read it."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sync_file(path: Path) -> None:
    """Put a file's bytes on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Put the folder's entries on disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(place: Path, needed: int, what: str, remedy: str = "free some space") -> None:
    """Make sure that there is room before writing begins.

    Args:
        place: folder to write to, which may not exist yet.
        needed: bytes.
        what: what takes them, with its verb, such as "the export takes".
        remedy: what the user can do.

    Raises:
        UserError: there is less.
    """
    existing = place.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        unit, size = next((pair for pair in _UNITS if needed >= 0.1 * pair[1]), _UNITS[-1])
        raise UserError(f"{existing} has {free / size:.2f} {unit} free; {what} {needed / size:.2f} {unit}; {remedy}")


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
