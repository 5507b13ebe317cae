"""Reading single samples: exact, indifferent to passing failures, and never from a shard that is not what was indexed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from shard_factory import flip, image_of, make_shards, sample_members, tar_bytes

from sar_dist.data import DamagedShard, load_manifest
from sar_dist.data.shards import BLOCK, RECORD, ShardIndex, reading
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
    assert reader.read(1, 2) == ("s000007", image_of(7), 0, None)
    assert reader.members(1, 2) == ("s000007", {"jpg": image_of(7), "cls": b"0"})
    reader.will_need(0, 0)


def test_keys_that_need_an_extended_header(tmp_path: Path) -> None:
    import tarfile

    key = "folder/" + "n" * 120
    data = tar_bytes([(f"{key}.jpg", b"x"), (f"{key}.cls", b"3"), ("b.cls", b"1")], tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(data)
    reader = reader_of(tmp_path)
    assert reader.read(0, 0) == (key, b"x", 3, None)
    assert reader.read(0, 1) == ("b", None, 1, None)


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


def test_shard_truncated_under_an_open_file(folder: Path, reader: ShardReader) -> None:
    reader.read(0, 0)
    path = folder / "shard-0000.tar"
    state = path.stat()
    os.truncate(path, 550)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DamagedShard, match="was truncated while it was in use"):
        reader.read(0, 0)


# Of the sample 1 of the first shard: in the header and the data of its image, in the header and the data of its label.
@pytest.mark.parametrize(
    ("offset", "key"),
    [(4 * BLOCK, "sample 1"), (4 * BLOCK + 345, "sample 1"), (5 * BLOCK, "s000001"), (5 * BLOCK + 40, "s000001")],
)
def test_altered_image_is_not_given_out(folder: Path, reader: ShardReader, offset: int, key: str) -> None:
    reader.read(0, 1)
    flip(folder / "shard-0000.tar", offset)
    found = reader.read(0, 1)
    assert (found.key, found.image, found.label) == (key, None, 1)
    assert found.damage is not None
    assert found.damage.startswith("altered since it was indexed")
    assert reader.read(0, 2) == ("s000002", image_of(2), 2, None)


@pytest.mark.parametrize("offset", [4 * BLOCK, 4 * BLOCK + 150, 5 * BLOCK, 6 * BLOCK - 1, 6 * BLOCK, 7 * BLOCK])
def test_altered_members_are_refused(folder: Path, reader: ShardReader, offset: int) -> None:
    reader.members(0, 1)
    flip(folder / "shard-0000.tar", offset)
    with pytest.raises(DamagedShard, match=r"shard-0000\.tar: sample 1 was altered since it was indexed"):
        reader.members(0, 1)
    assert reader.members(0, 2)[0] == "s000002"


def index_of(folder: Path) -> Path:
    (index,) = folder.rglob(".*.index")
    return index


@pytest.mark.parametrize("field", ["image", "label", "checksum"])
def test_an_altered_index_is_told_from_an_altered_shard(folder: Path, reader: ShardReader, field: str) -> None:
    reader.read(0, 1)
    flip(index_of(folder), RECORD.itemsize + RECORD.fields[field][1])
    found = reader.read(0, 1)
    assert found.image is None
    assert found.damage is not None
    assert found.damage.startswith("altered since it was indexed")
    assert f"the index {index_of(folder)} was altered while it was in use" in found.damage
    assert reader.read(0, 2) == ("s000002", image_of(2), 2, None)


def test_an_index_that_was_cut_is_one_line(folder: Path, reader: ShardReader) -> None:
    """And no SIGBUS, which ends the process."""
    reader.read(0, 1)
    os.truncate(index_of(folder), 0)
    for look in (reader.read, reader.members, reader.will_need):
        with pytest.raises(DamagedShard, match=r"the index .*\.index was cut short while it was in use"):
            look(0, 1)


def test_what_passes_is_read_again(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit that is wrong in memory alone."""
    original, wrong = os.pread, [1, 1]

    def pread(fd: int, count: int, offset: int) -> bytes:
        data = original(fd, count, offset)
        return data[:-1] + bytes([data[-1] ^ wrong.pop()]) if wrong and count > BLOCK else data

    monkeypatch.setattr(reading.os, "pread", pread)
    wrong.pop()
    assert reader.read(0, 1) == ("s000001", image_of(1), 1, None)
    wrong.append(1)
    assert reader.members(0, 1) == ("s000001", {"jpg": image_of(1), "cls": b"1"})
    assert wrong == []


@pytest.mark.parametrize("field", RECORD.names or ())
def test_altered_index_gives_no_other_sample(folder: Path, field: str) -> None:
    """A bit of a record flipped while the index is in use: another label, another image, another size."""
    manifest = load_manifest(folder, "train")
    index = open_index(manifest)
    for bit in range(8 * RECORD[field].itemsize):
        records = np.array(index.records)
        words = records[field].view(f"<u{RECORD[field].itemsize}")
        words[1] ^= np.array(1, words.dtype) << np.array(bit, words.dtype)
        reader = ShardReader(LocalShards(manifest, ShardIndex(index.shards, records, index.offsets)))
        reader.will_need(0, 1)
        found = reader.read(0, 1)
        if field == "members":  # is of the whole sample
            assert found == ("s000001", image_of(1), 1, None)
            with pytest.raises(DamagedShard):
                reader.members(0, 1)
        else:
            assert found.damage
        reader.close()


@pytest.mark.parametrize("read", ["read", "members"])
def test_shard_overwritten_in_place_while_it_is_open(tmp_path: Path, read: str) -> None:
    """Other samples of the same sizes, written into the open file as ``cp`` does it."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.jpg", b"first"), ("a.cls", b"1")]))
    os.utime(path, ns=(0, 0))
    reader = reader_of(tmp_path)
    assert reader.read(0, 0) == ("a", b"first", 1, None)
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
    assert len(os.listdir("/proc/self/fd")) - before == 4
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
