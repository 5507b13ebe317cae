"""Writing shards: the same bytes however they are made, never half a data set, and `make_shards.py verify`."""

from __future__ import annotations

import errno
import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from shard_factory import contents, image_of, sample_members, tar_bytes

from sar_dist import files
from sar_dist.data import check_shards, load_manifest
from sar_dist.data.making.sources import DemoScenes, Source
from sar_dist.data.making.writing import WritingOptions, write_shard, write_shards, write_splits
from sar_dist.data.shards import shard_index
from sar_dist.data.shards.manifest import Split
from sar_dist.errors import UserError


@dataclass
class Numbers(Source):
    """A source of ``count`` samples; reading number ``fails_at`` raises."""

    count: int
    fails_at: int | None = None
    split: Split = "train"
    classes: tuple[str, ...] | None = ("a", "b", "c")
    shift: int = 0  # of the images, which are as large as the others

    def __len__(self) -> int:
        return self.count

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        if number == self.fails_at:
            raise UserError(f"sample {number} cannot be read")
        return f"k{number:05d}", {"jpg": image_of(number + self.shift), "cls": b"%d" % (number % 3)}

    def description(self) -> dict[str, Any]:
        return {"kind": "numbers"}

    def digest(self) -> str:
        return str(self.count)

    def size(self) -> int:
        return 100 * self.count


def test_shards_hold_all_samples_evenly_in_the_seed_s_order(tmp_path: Path) -> None:
    manifest = write_shards(Numbers(100), tmp_path / "a", WritingOptions(seed=3, samples_per_shard=30, processes=1))
    assert [shard.samples for shard in manifest.shards] == [25, 25, 25, 25]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        ".train.index",
        "manifest.json",
        *(f"train-{k:06d}.tar" for k in range(4)),
    ]
    samples = [
        s for shard in manifest.shards for s in wds.WebDataset(str(tmp_path / "a" / shard.name), shardshuffle=False)
    ]
    keys = [sample["__key__"] for sample in samples]
    assert sorted(keys) == [f"k{number:05d}" for number in range(100)] != keys
    assert all(sample["jpg"] == image_of(int(sample["__key__"][1:])) for sample in samples)
    content = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert set(content) == {"format", "split", "classes", "shards", "total", "seed", "source", "plan"}
    for shard in content["shards"]:
        assert hashlib.sha256((tmp_path / "a" / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]


def test_the_number_of_processes_does_not_matter_the_seed_does(tmp_path: Path) -> None:
    for name, seed, processes in (("one", 0, 1), ("three", 0, 3), ("other", 1, 2)):
        write_shards(Numbers(50), tmp_path / name, WritingOptions(seed, 12, processes))
    assert contents(tmp_path / "one") == contents(tmp_path / "three") != contents(tmp_path / "other")


def test_written_index_is_what_indexing_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(Numbers(20), tmp_path / "a", WritingOptions(samples_per_shard=7))
    manifest = load_manifest(tmp_path / "a", "train")
    written = (tmp_path / "a" / ".train.index").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "index_and_check", None)
        check_shards(manifest, num_classes=3, max_bad_fraction=0)
    (tmp_path / "a" / ".train.index").unlink()
    check_shards(manifest)
    assert (tmp_path / "a" / ".train.index").read_bytes() == written


def test_tars_are_those_of_the_standard_library(tmp_path: Path) -> None:
    entry = write_shard(tmp_path / "a.tar", [("s000005", dict(_extensions(5))), ("s000006", dict(_extensions(6)))])
    expected = tar_bytes([*sample_members(5), *sample_members(6)])
    assert (tmp_path / "a.tar").read_bytes() == expected
    assert (entry.bytes, entry.sha256) == (len(expected), hashlib.sha256(expected).hexdigest())
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {member.mtime for member in archive} == {0}


def _extensions(number: int) -> list[tuple[str, bytes]]:
    return [(name.partition(".")[2], data) for name, data in sample_members(number)]


@pytest.mark.parametrize("key", ["a.b", "", "x" * 99, "ä"])
def test_keys_that_readers_could_not_take_apart_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match="cannot be a member"):
        write_shard(tmp_path / "a.tar", [(key, {"jpg": b"x"})])
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_goes_on_where_it_was(tmp_path: Path) -> None:
    options = WritingOptions(samples_per_shard=10, processes=1)
    write_shards(Numbers(60), tmp_path / "whole", options)
    with pytest.raises(UserError, match="sample 7 cannot be read"):
        write_shards(Numbers(60, fails_at=7), tmp_path / "a", options)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.tar")}
    assert len(finished) < 6
    assert not list((tmp_path / "a").glob("manifest.json"))
    assert not list((tmp_path / "a").glob(".*.part"))
    with pytest.raises(UserError, match="not finished"):
        # What is there is no data set yet, even though some shards are whole.
        load_manifest(tmp_path / "a", "train")
    (tmp_path / "a" / ".train-000003.tar.x.part").write_bytes(b"left by a killed process")
    write_shards(Numbers(60), tmp_path / "a", options)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())


def test_folders_in_use_are_refused(tmp_path: Path) -> None:
    options = WritingOptions(samples_per_shard=10, processes=1)
    made = write_shards(Numbers(20), tmp_path / "done", options)
    assert write_shards(Numbers(20), tmp_path / "done", options).fingerprint == made.fingerprint  # nothing to do
    for source, other in ((Numbers(21), options), (Numbers(20), WritingOptions(1, 10, 1))):
        with pytest.raises(UserError, match="finished shards already"):
            write_shards(source, tmp_path / "done", other)
    next((tmp_path / "done").glob("*.tar")).unlink()
    with pytest.raises(UserError, match="finished shards already"):
        write_shards(Numbers(20), tmp_path / "done", options)
    with pytest.raises(UserError, match="cannot be read"):
        write_shards(Numbers(20, fails_at=3), tmp_path / "half", options)
    for source, other in ((Numbers(21), options), (Numbers(20), WritingOptions(1, 10, 1))):
        with pytest.raises(UserError, match="another source, other labels or other options"):
            write_shards(source, tmp_path / "half", other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        write_shards(Numbers(20), tmp_path / "full", options)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_shards_of_images_or_classes_that_have_changed_are_not_taken_for_the_same(tmp_path: Path) -> None:
    """Though keys, sizes and numbers are the same: what is finished is compared with the source as it is now."""
    options = WritingOptions(samples_per_shard=10, processes=1)
    write_shards(Numbers(20), tmp_path / "done", options)
    with pytest.raises(UserError, match="cannot be read"):
        write_shards(Numbers(60, fails_at=7), tmp_path / "half", options)
    for folder, count in (("done", 20), ("half", 60)):
        with pytest.raises(
            UserError, match=r"holds another sample k\d+ than would be made now: the images or labels of its"
        ):
            write_shards(Numbers(count, shift=1), tmp_path / folder, options)
        with pytest.raises(UserError, match="of another source, other labels or other options"):
            write_shards(Numbers(count, classes=("a", "b", "d")), tmp_path / folder, options)
        write_shards(Numbers(count), tmp_path / folder, options)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the next block: one line, no half shard, no manifest; and it is foreseen where it can be."""
    with pytest.raises(UserError, match=r"GB free; the shards take about .* GB; free some space"):
        write_shards(_Huge(10), tmp_path / "huge", WritingOptions())

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.tar: No space left on device; free some space"):
        write_shard(tmp_path / "a.tar", [("a", {"jpg": b"x"})])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["huge"]


class _Huge(Numbers):
    def size(self) -> int:
        return 2**60


def test_demo(tmp_path: Path) -> None:
    for name, processes in (("a", 1), ("b", 2)):
        sources = [DemoScenes("train", 6, 3, 32, 0), DemoScenes("val", 3, 3, 32, 0)]
        write_splits(sources, tmp_path / name, WritingOptions(samples_per_shard=3, processes=processes))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    manifest = load_manifest(tmp_path / "a", "train")
    assert (manifest.total, manifest.num_classes) == (6, 3)
    (first, *_) = wds.WebDataset(str(tmp_path / "a" / "train" / manifest.shards[0].name), shardshuffle=False)
    assert set(first) >= {"jpg", "cls", "mask.png"}
