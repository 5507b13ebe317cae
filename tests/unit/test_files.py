"""Files appear whole or not at all, a failing disk is one clear error, and where the program keeps its cache."""

from __future__ import annotations

import errno
import os
import pickle
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from privileges import permissions_hold

from sar_dist import files
from sar_dist.errors import UserError
from sar_dist.files import (
    CannotWrite,
    atomic_folder,
    atomic_path,
    atomic_write,
    cache_folder,
    check_folder,
    check_space,
    write_durably,
)


def test_cache_folder_is_the_given_one_then_the_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SAR_DIST_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "sar_dist"
    monkeypatch.setenv("SAR_DIST_CACHE", str(tmp_path / "given"))
    assert cache_folder() == tmp_path / "given"


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("SAR_DIST_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(RuntimeError):
        Path.home()
    assert cache_folder() == Path(tempfile.gettempdir()) / f"sar_dist-{os.getuid()}"


def write_bytes(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"new")


def write_by_path(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")


def write_folder(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"new")


WRITERS = [write_bytes, write_by_path, write_folder]


@pytest.mark.parametrize("writer", WRITERS)
def test_everything_is_synced_before_it_has_its_name_and_the_folder_after(
    writer: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced = tmp_path / "out", []

    def sync(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), target.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    writer(target)
    *before, (folder, named) = synced
    assert (folder, named) == (tmp_path, True)
    assert before
    assert not any(named for _, named in before)
    assert len(before) == (3 if writer is write_folder else 1)
    assert (target / "inner" / "file" if writer is write_folder else target).read_bytes() == b"new"


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "allow larger files (ulimit -f), or choose a file system that takes them"),
        (errno.EROFS, "make the folder writable or choose another"),
        (errno.EIO, "see to the disk"),
    ],
)
def test_failing_disk_is_one_clear_error_and_leaves_what_was_there(
    writer: Callable[[Path], None], number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    if writer is not write_folder:
        target.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CannotWrite) as caught:
        writer(target)
    assert str(caught.value) == f"cannot write {target}: {os.strerror(number)}; {remedy}"
    assert isinstance(caught.value, UserError)
    assert [path.name for path in tmp_path.iterdir()] == ([] if writer is write_folder else ["out"])
    assert writer is write_folder or target.read_bytes() == b"old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("x"), OSError(errno.ENOENT, "another file")])
@pytest.mark.parametrize("atomic", [atomic_write, atomic_path, atomic_folder])
def test_other_errors_pass_and_leave_nothing(
    atomic: Callable[[Path], Any], error: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as caught, atomic(tmp_path / "out"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_full_disk_within_the_body_is_the_clear_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(CannotWrite, match=r"cannot write .*out: No space left on device"),
        atomic_folder(tmp_path / "out"),
    ):
        Path("/dev/full").write_bytes(b"x")


def test_missing_folder_is_the_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"cannot write .*a/out: No such file or directory"):
        write_durably(tmp_path / "a" / "out", "text")


def test_files_have_the_mode_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for writer, name in ((write_bytes, "a"), (write_by_path, "b")):
            writer(tmp_path / name)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_temporary_path_ends_like_the_final_one_and_fits_the_pattern(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "trace.json.gz") as temporary:
        temporary.touch()
        assert temporary.suffix == ".gz"
        assert list(tmp_path.glob(files.PART_FILES)) == [temporary]
    with atomic_write(tmp_path / "shard.tar"):
        (part,) = tmp_path.glob(files.PART_FILES)
        assert part.suffix == ".part"  # never taken for a shard


def test_cannot_write_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CannotWrite(errno.ENOSPC, "No space left on device", "/a")))
    assert (type(error), error.errno, error.filename) == (CannotWrite, errno.ENOSPC, "/a")
    assert str(error) == "cannot write /a: No space left on device; free some space"


def test_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    asked = []

    def ask(path: Path) -> object:
        asked.append(path)
        return usage._replace(free=5_000_000_000)

    monkeypatch.setattr("shutil.disk_usage", ask)
    check_space(tmp_path / "a" / "b", 5_000_000_000, "the export takes")
    assert asked == [tmp_path]
    with pytest.raises(UserError, match=rf"^{tmp_path} has 5\.00 GB free; two take 5\.01 GB; set run\.dir$"):
        check_space(tmp_path / "a", 5_010_000_000, "two take", "set run.dir")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=20_000))
    with pytest.raises(UserError, match=r"has 20\.00 kB free; two take 50\.00 kB; free some space"):
        check_space(tmp_path, 50_000, "two take")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "file is not a folder"),
        ("file/below", "file is not a folder"),
        ("link", "link is a link to nothing"),
        ("link/below", "link is a link to nothing"),
        ("locked", "Permission denied"),
        ("locked/below", "Permission denied"),
        ("l" * 300, "File name too long"),
        ("/proc/stage", "No such file or directory"),
        ("s3://bucket/stage", "is a URL; give a folder of this machine"),
    ],
)
def test_folders_that_cannot_be_written_are_found_out(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "locked").mkdir(mode=0o500)
    with permissions_hold(), pytest.raises(UserError) as error:
        check_folder(tmp_path / place, f"data.stage={place}")
    assert str(error.value).startswith(f"data.stage={place}")
    assert message in str(error.value)


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path, "run.dir=a")
    check_folder(tmp_path / "a" / "b", "run.dir=a/b")
    assert not list(tmp_path.iterdir())
