"""Reading single samples: exact, indifferent to passing failures, and never from a shard that is not what was indexed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_factory import image_of, make_shards, sample_members, tar_bytes

from sar_dist.data import DamagedShard, load_manifest
from sar_dist.data.shards import reading
from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.reading import LocalShards, ShardReader


def reader_of(folder: Path) -> ShardReader:
    manifest = load_manifest(folder, "train")
    return ShardReader(LocalShards(manifest, open_index(manifest)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "data", [5, 6])


@pytest.fixture
def reader(folder: Path) -> Iterator[ShardReader]:
    reader = reader_of(folder)
    yield reader
    reader.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FIRST_PAUSE_SECONDS", 0.001)


def test_samples_and_members(reader: ShardReader) -> None:
    assert reader.read(1, 2) == ("s000007", image_of(7), 0)
    assert reader.members(1, 2) == ("s000007", {"jpg": image_of(7), "cls": b"0"})
    reader.will_need(0, 0)


def test_keys_that_need_an_extended_header(tmp_path: Path) -> None:
    import tarfile

    key = "folder/" + "n" * 120
    data = tar_bytes([(f"{key}.jpg", b"x"), (f"{key}.cls", b"3"), ("b.cls", b"1")], tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(data)
    reader = reader_of(tmp_path)
    assert reader.read(0, 0) == (key, b"x", 3)
    assert reader.read(0, 1) == ("b", None, 1)


def test_passing_failures_are_overcome(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = os.pread, [OSError(116, "Stale file handle"), OSError(5, "Input/output error")]

    def pread(*arguments: int) -> bytes:
        if failures:
            raise failures.pop()
        return original(*arguments)

    monkeypatch.setattr(reading.os, "pread", pread)
    assert reader.read(0, 1).image == image_of(1)
    assert failures == []


def test_lasting_failures_are_one_line(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading.os, "pread", pread)
    with pytest.raises(DamagedShard, match=r"cannot read shard .*shard-0000\.tar: .*Input/output error \(4 attempts\)"):
        reader.read(0, 1)


def test_shard_replaced_before_it_is_opened(folder: Path, reader: ShardReader) -> None:
    reader.read(0, 0)
    (folder / "shard-0001.tar").write_bytes(tar_bytes(sample_members(3)))
    with pytest.raises(DamagedShard, match="was changed while it was in use"):
        reader.read(1, 0)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(None, b"", "was truncated while it was in use"), (0, b"\xff", "was damaged while it was in use")],
)
def test_shard_changed_under_an_open_file(
    folder: Path, reader: ShardReader, offset: int | None, value: bytes, message: str
) -> None:
    reader.read(0, 0)
    path = folder / "shard-0000.tar"
    state = path.stat()
    with path.open("r+b") as file:
        if offset is None:
            file.truncate(550)
        else:
            file.seek(offset)
            file.write(value)
    # As bit rot does it: the time of modification stays.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DamagedShard, match=message):
        reader.read(0, 0)


@pytest.mark.parametrize("read", ["read", "members"])
def test_shard_overwritten_in_place_while_it_is_open(tmp_path: Path, read: str) -> None:
    """Other samples of the same sizes, written into the open file as ``cp`` does it."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.jpg", b"first"), ("a.cls", b"1")]))
    os.utime(path, ns=(0, 0))
    reader = reader_of(tmp_path)
    assert reader.read(0, 0) == ("a", b"first", 1)
    with path.open("r+b") as file:
        file.write(tar_bytes([("a.jpg", b"other"), ("a.cls", b"2")]))
    with pytest.raises(DamagedShard, match=r"a\.tar was changed while it was in use"):
        getattr(reader, read)(0, 0)
    reader.close()


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_shards(tmp_path / "data", [1] * 30)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    reader = reader_of(folder)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for shard in range(30):
            assert reader.read(shard, 0).image == image_of(shard)
    assert len(os.listdir("/proc/self/fd")) - before == 10
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
