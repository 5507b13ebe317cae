"""Remote shards: a real object store and a real web server on this machine, that fail as such things do."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.http import HTTPFileSystem
from shard_factory import (
    CLASSES,
    corner,
    flip,
    image_of,
    make_scenes,
    make_shards,
    random_transform,
    tar_bytes,
    train_loader,
)
from web_server import Faults, serve

from sar_dist.config import DataSettings
from sar_dist.data import Manifest, TrainingSet, ValidationLoader, check_shards, load_manifest
from sar_dist.data.making.sources import DemoScenes
from sar_dist.data.making.writing import WritingOptions, write_shards
from sar_dist.data.shards import BLOCK, ShardReader, remote, staging
from sar_dist.data.shards.remote import RemoteFolder
from sar_dist.data.shards.staging import StagedShards
from sar_dist.errors import UserError
from sar_dist.files import sha256_of

pytest.importorskip("aiohttp", reason="HTTP shards need aiohttp (pip install 'sar_dist[remote]')")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, small pieces, and a cache of the test's own."""
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "CHUNK_BYTES", 3000)
    monkeypatch.setenv("SAR_DIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path, Faults]]:
    """URL, folder and faults of a web server."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as (url, faults):
        yield url, folder, faults


def staged(manifest: Manifest, stage: Path, limit: int = 10**9, stall: float = 30) -> StagedShards:
    return StagedShards(manifest, stage, limit, stall)


def assert_whole(shards: StagedShards, manifest: Manifest, folder: Path) -> None:
    for number, shard in enumerate(manifest.shards):
        assert shards.fetch(number).read_bytes() == (folder / shard.name).read_bytes()


def test_training_from_the_web_is_training_from_disk(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder / "data" / "train")
    local = load_manifest(folder / "data", "train")
    manifest = load_manifest(f"{url}/data", "train")
    check_shards(manifest)
    assert manifest.fingerprint == local.fingerprint
    options = {"global_batch": 4, "micro_batch": 2, "transform": corner}
    expected = [batch["sample"].tolist() for batch in train_loader(local, **options).iterate(0, 7)]
    for workers in (0, 2):
        loader = train_loader(manifest, **options, workers=workers, stage=str(tmp_path / f"stage{workers}"))
        assert [batch["sample"].tolist() for batch in loader.iterate(0, 7)] == expected
    transfers = [path for path in faults.requests if path.endswith(".tar")]
    pieces = sum(-(-(shard.bytes or 0) // 3000) for shard in manifest.shards)
    assert len(transfers) == 2 * pieces, "two workers fetched a shard twice"


def test_a_mixture_of_a_remote_and_a_local_set(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, _ = web
    make_scenes(folder / "data" / "train")
    here = TrainingSet(load_manifest(make_scenes(tmp_path / "here"), "train"), "here")

    def samples(place: object, workers: int) -> list[list[int]]:
        sets = [here, TrainingSet(load_manifest(place, "train"), "there")]
        loader = train_loader(
            sets, global_batch=4, micro_batch=2, transform=corner, workers=workers, stage=str(tmp_path / "stage")
        )
        return [batch["sample"].tolist() for batch in loader.iterate(0, 9)]

    expected = samples(folder / "data", 0)
    assert all(sum(sample >= 12 for sample in batch) == 1 for batch in expected)
    assert samples(f"{url}/data", 0) == samples(f"{url}/data", 2) == expected


def test_labels_in_words_behind_a_url(
    web: tuple[str, Path, Faults], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm's layout with words for labels, and a classes.json that is fetched, repeated, checked or not there."""
    url, folder, _ = web
    members = [
        (f"{n}.{e}", d) for n, w in enumerate(["dog", "cat"]) for e, d in (("jpg", image_of(n)), ("cls", w.encode()))
    ]
    (folder / "a.tar").write_bytes(tar_bytes(members))
    split = {"filenames": ["a.tar"], "shard_lengths": [2], "num_samples": 2}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    assert load_manifest(url, "train").classes is None
    assert "classes.json" not in capsys.readouterr().err, "not there is an answer, and no failure"
    (folder / "classes.json").write_text(json.dumps({"dog": 0, "cat": 1}))
    manifest = load_manifest(url, "train")
    local = load_manifest(folder, "train")
    assert manifest.classes == local.classes == ("dog", "cat")
    assert manifest.fingerprint == local.fingerprint
    loader = train_loader(manifest, global_batch=2, micro_batch=2, transform=corner, stage=str(tmp_path / "stage"))
    (batch,) = loader.iterate(0, 1)
    assert dict(zip(batch["sample"].tolist(), batch["label"].tolist(), strict=True)) == {0: 0, 1: 1}
    (folder / "classes.json").write_text('["dog", "dog"]')
    with pytest.raises(UserError, match=r"http.*classes\.json does not name classes: 'dog' is there twice"):
        load_manifest(url, "train")


@pytest.mark.parametrize("given", ["", "/val"])
@pytest.mark.parametrize(("place", "said"), [("val", False), ("", False), ("train", True)])
def test_class_words_behind_a_url_lie_where_they_do_in_a_folder(
    web: tuple[str, Path, Faults], given: str, place: str, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder, _ = web
    for split in ("train", "val"):
        make_shards(folder / split, [2], split)
        info = {"num_samples": 2, "filenames": [f"{split}-0000.tar"], "shard_lengths": [2]}
        (folder / split / "_info.json").write_text(json.dumps({"splits": {split: info}}))
    (folder / place / "classes.json").write_text('["cat", "dog"]')
    assert load_manifest(f"{url}{given}", "val").classes == ("cat", "dog")
    assert ("the classes are numbered as in" in capsys.readouterr().err) == said
    assert load_manifest(f"{folder}{given}", "val").classes == ("cat", "dog")


def test_validation_from_the_web(web: tuple[str, Path, Faults]) -> None:
    url, folder, _ = web
    sizes = [5, 6, 7]
    make_shards(folder, sizes, "imagenet1k-validation")
    names = [f"imagenet1k-validation-{i:04d}.tar" for i in range(3)]
    info = {"splits": {"validation": {"num_samples": 18, "filenames": names, "shard_lengths": sizes}}}
    (folder / "_info.json").write_text(json.dumps(info))
    manifest = load_manifest(url, "val")
    check_shards(manifest)
    found = []
    for rank in range(2):
        loader = ValidationLoader(
            manifest,
            data=DataSettings(workers=2),
            transform=random_transform,
            micro_batch=2,
            rank=rank,
            world_size=2,
            num_classes=CLASSES,
        )
        found += [s for batch in loader.iterate() for s in batch["sample"].tolist() if s >= 0]
    assert sorted(found) == list(range(18))


@pytest.mark.parametrize("fault", ["503", "truncate", "reset", "stall", "flip"])
def test_failed_transfers_are_repeated(web: tuple[str, Path, Faults], tmp_path: Path, fault: str) -> None:
    url, folder, faults = web
    make_scenes(folder)
    manifest = load_manifest(url, "train")
    faults.planned = {"000001.tar": [fault] if fault == "flip" else [fault] * 3}
    shards = staged(manifest, tmp_path / "stage", stall=0.3)
    assert_whole(shards, manifest, folder)
    assert not faults.planned["000001.tar"]
    assert not list((tmp_path / "stage").rglob("*.part"))


def test_server_without_ranges(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder)
    faults.ranges = False
    manifest = load_manifest(url, "train")
    assert_whole(staged(manifest, tmp_path / "stage"), manifest, folder)


def test_missing_credentials_are_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first question; a service that gives them may fail for a moment in the middle of a run."""

    class NoCredentialsError(Exception):
        pass

    def refuse(filesystem: Any, path: str) -> int:
        tried.append(path)
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.001)
    folder = remote.RemoteFolder("memory://store")
    for answered, attempts in ((False, 3), (True, 6)):
        tried: list[str] = []
        monkeypatch.setattr(folder, "_answered", answered)
        with pytest.raises(UserError, match=r"memory://store/a may not be read \(Unable to .*; provide credentials"):
            folder._repeated("a", refuse)
        assert len(tried) == attempts


def test_what_stays_broken_is_one_line(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder)
    manifest = load_manifest(url, "train")
    shards = staged(manifest, tmp_path / "stage", stall=0.3)
    faults.planned = {"000000.tar": ["503"] * 100, "000002.tar": ["flip"] * 1000}
    with pytest.raises(UserError, match=r"cannot read http://.*000000\.tar: .*503.*\(6 attempts\)"):
        shards.fetch(0)
    with pytest.raises(UserError, match=r"http://.*: shard train-000002\.tar: damaged tar header"):
        shards.fetch(2)
    os.truncate(folder / "train-000001.tar", 2000)
    with pytest.raises(UserError, match=r"000001\.tar has 2000 bytes, its manifest says"):
        check_shards(manifest)
    (folder / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"there is no http://.*000001\.tar"):
        check_shards(manifest)
    with pytest.raises(UserError, match=r"neither manifest\.json nor _info.json"):
        load_manifest(f"{url}/elsewhere", "train")
    assert not list((tmp_path / "stage").rglob("*.tar"))


def test_only_not_found_means_that_a_file_is_not_there(
    web: tuple[str, Path, Faults], capsys: pytest.CaptureFixture[str]
) -> None:
    """A classes.json that cannot be read for a while must not change what labels mean."""
    url, folder, faults = web
    make_shards(folder, [5], "imagenet1k-train")
    info = {"num_samples": 5, "filenames": ["imagenet1k-train-0000.tar"], "shard_lengths": [5]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    (folder / "classes.json").write_text(json.dumps(["cat"]))
    assert load_manifest(url, "train").classes == ("cat",)
    for name in ("classes.json", "_info.json"):
        faults.refused = {name: 500}
        with pytest.raises(UserError, match=rf"cannot read http://.*/{name}: .*500.*\(6 attempts\)"):
            load_manifest(url, "train")
    faults.refused = {"classes.json": 403}
    assert load_manifest(url, "train").classes is None
    assert "classes.json may not be read (HTTP status 403)" in capsys.readouterr().err
    faults.refused = {"manifest.json": 403}
    assert load_manifest(url, "train").classes == ("cat",)
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "/manifest.json may not be read (HTTP status 403); provide credentials in the environment; taken for a file"
        in line
    )
    assert line.endswith("/_info.json is read")
    faults.refused = {"manifest.json": 403, "_info.json": 403}
    with pytest.raises(UserError, match=r"can be read there; http://.*/manifest\.json may not be read"):
        load_manifest(url, "train")
    faults.refused = {"imagenet1k-train-0000.tar": 403}
    with pytest.raises(UserError, match=r"0000\.tar may not be read \(HTTP status 403\)"):
        check_shards(load_manifest(url, "train"))


def test_a_replaced_shard_without_sha256_is_another_one(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, _ = web
    contents = []
    for count in (5, 40):
        make_shards(folder, [count], "imagenet1k-train")
        info = {"num_samples": count, "filenames": ["imagenet1k-train-0000.tar"], "shard_lengths": [count]}
        (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
        manifest = load_manifest(url, "train")
        shards = staged(manifest, tmp_path / "stage")
        assert_whole(shards, manifest, folder)
        contents.append(shards.content)
    assert None not in contents
    assert contents[0] != contents[1]


def test_a_shard_replaced_by_one_of_equal_size_is_another_one(web: tuple[str, Path, Faults]) -> None:
    """The server gives neither an ETag nor a date: the beginning tells."""
    url, folder, _ = web
    info = {"num_samples": 3, "filenames": ["train-0000.tar"], "shard_lengths": [3]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    make_shards(folder, [3], "train")
    first, again = (load_manifest(url, "train").shards[0] for _ in range(2))
    shard = folder / "train-0000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"s000001", b"s000009"))
    other = load_manifest(url, "train").shards[0]
    assert first.version == again.version != other.version
    assert first.bytes == other.bytes


def test_second_images_of_remote_shards_are_said_once(
    web: tuple[str, Path, Faults], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder, _ = web
    names = [f"train-{number}.tar" for number in range(2)]
    for name in names:
        (folder / name).write_bytes(tar_bytes([("k0.jpg", b"1"), ("k0.png", b"2"), ("k0.cls", b"0")]))
    info = {"num_samples": 2, "filenames": names, "shard_lengths": [1, 1]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    shards = staged(load_manifest(url, "train"), tmp_path / "stage")
    shards.fetch(0)
    shards.fetch(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 images such as 'k0.png' in train-0.tar are not used" in line


def test_a_web_page_instead_of_a_shard_is_said(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, _ = web
    (folder / "train-0.tar").write_bytes(b"<!DOCTYPE html><html>sign in</html>" + bytes(2000))
    info = {"num_samples": 5, "filenames": ["train-0.tar"], "shard_lengths": [5]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    with pytest.raises(UserError, match=r"shard train-0\.tar is a web page"):
        staged(load_manifest(url, "train"), tmp_path / "stage").fetch(0)


def test_unknown_protocol() -> None:
    with pytest.raises(UserError, match=r"cannot read nosuch://a/b: .*sar_dist\[remote\]"):
        load_manifest("nosuch://a/b", "train")


def test_failure_reaches_the_training_process_from_a_worker(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder)
    manifest = load_manifest(url, "train")
    faults.planned = {".tar": ["503"] * 10_000}
    loader = train_loader(manifest, global_batch=4, micro_batch=2, workers=2, stage=str(tmp_path / "stage"))
    with pytest.raises(UserError, match="503") as error:
        list(loader.iterate(0, 1))
    assert "\n" not in str(error.value)


def test_killed_download_leaves_nothing_that_is_taken_for_whole(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder)
    manifest = load_manifest(url, "train")
    # The first piece is on disk when the second does not fit into the file's buffer; the third keeps it waiting for seconds.
    faults.planned = {"000000.tar": ["", "", "stall"]}
    process = get_context("fork").Process(target=lambda: staged(manifest, tmp_path / "stage").fetch(0))
    process.start()
    end = time.monotonic() + 20
    while not [part for part in (tmp_path / "stage").rglob("*.part") if part.stat().st_size >= 3000]:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    shards = staged(manifest, tmp_path / "stage")
    assert not shards.local_path(0).exists()
    assert_whole(shards, manifest, folder)


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(
    web: tuple[str, Path, Faults], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once waited a second for each of them, and took their sockets out of the epoll object that it shares."""
    url, folder, _ = web
    (folder / "file").write_bytes(b"content")
    closed: list[object] = []
    close_session = HTTPFileSystem.close_session

    def noted(loop: object, session: object) -> None:
        closed.append(session)
        close_session(loop, session)

    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(noted))
    parents = RemoteFolder(url, stall_seconds=20)
    assert parents.read("file") == b"content"

    def read_with_a_connection_of_its_own() -> None:
        before = len(closed)
        assert parents.read("file") == b"content"
        gc.collect()
        assert len(closed) == before

    process = get_context("fork").Process(target=read_with_a_connection_of_its_own)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert parents.read("file") == b"content"
    assert "trying again" not in capsys.readouterr().err


def test_processes_of_a_node_fetch_a_shard_once(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder, shards=4)
    manifest = load_manifest(url, "train")

    def fetch_all() -> None:
        shards = staged(manifest, tmp_path / "stage")
        for number in range(4):
            os.close(shards.open(number).fd)

    processes = [get_context("fork").Process(target=fetch_all) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    pieces = sum(-(-(shard.bytes or 0) // 3000) for shard in manifest.shards)
    assert len([path for path in faults.requests if path.endswith(".tar")]) == pieces


def test_shards_used_longest_ago_make_room(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder, shards=4)
    manifest = load_manifest(url, "train")
    sizes = [shard.bytes or 0 for shard in manifest.shards]
    shards = staged(manifest, tmp_path / "stage", limit=sum(sizes[:3]) + 10)
    opened = {}
    for number in (0, 1, 2, 0):
        opened[number] = shards.open(number)
        time.sleep(0.01)
    opened[3] = shards.open(3)
    present = [shards.local_path(number).exists() for number in range(4)]
    assert present == [True, False, True, True]
    # Open shards stay readable although they were removed; and a removed one is fetched again.
    assert os.pread(opened[1].fd, sizes[1], 0) == (folder / manifest.shards[1].name).read_bytes()
    faults.requests.clear()
    os.close(shards.open(1).fd)
    assert faults.requests
    for each in opened.values():
        os.close(each.fd)


def test_stage_that_was_changed_is_not_trusted(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, _ = web
    make_scenes(folder)
    manifest = load_manifest(url, "train")
    shards = staged(manifest, tmp_path / "stage")
    path = shards.fetch(0)
    os.truncate(path, 100)
    opened = shards.open(0)
    assert os.fstat(opened.fd).st_size == manifest.shards[0].bytes
    os.close(opened.fd)
    # A new version of the data set at the same URL does not meet the old shards.
    shutil.rmtree(folder)
    write_shards(DemoScenes("train", 12, 3, 32, 1), folder, WritingOptions(samples_per_shard=4, processes=1))
    renewed = load_manifest(url, "train")
    assert_whole(staged(renewed, tmp_path / "stage"), renewed, folder)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(("harm", "why"), [("version", "are of another version"), ("damage", "missing or damaged")])
def test_copies_whose_index_cannot_be_used_are_indexed_anew(
    web: tuple[str, Path, Faults], tmp_path: Path, capsys: pytest.CaptureFixture[str], hashed: bool, harm: str, why: str
) -> None:
    """Without sha256 a damaged index vouches for nothing: that copy is fetched again."""
    url, folder, faults = web
    make_shards(folder, [2, 2], "train")
    info = {"num_samples": 4, "filenames": ["train-0000.tar", "train-0001.tar"], "shard_lengths": [2, 2]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    manifest = load_manifest(url, "train")
    if hashed:
        entries = [replace(entry, sha256=sha256_of(folder / entry.name)) for entry in manifest.shards]
        manifest = replace(manifest, shards=tuple(entries))
    before = staged(manifest, tmp_path / "stage")
    for number in range(2):
        path = before.fetch(number)
        index = staging._index_path(path)
        data = index.read_bytes()
        index.write_bytes(data[:-1] + b"3" if harm == "version" else data[:50])
    faults.requests.clear()
    shards_now = staged(manifest, tmp_path / "stage")
    for number in range(2):
        opened = shards_now.open(number)
        assert len(opened.records) == 2
        os.close(opened.fd)
    said = capsys.readouterr().err
    kept = hashed or harm == "version"
    assert (not any(path.endswith(".tar") for path in faults.requests)) == kept
    assert said.count(f"indexed anew, as {'their indexes' if harm == 'version' else 'an index is'} {why}") == int(kept)
    assert said.count("fetching it again") == (0 if kept else 2)


def test_full_disk(web: tuple[str, Path, Faults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder, _ = web
    make_scenes(folder)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, "fsync", full)
    shards = staged(load_manifest(url, "train"), tmp_path / "stage")
    with pytest.raises(UserError, match="no space left for shards"):
        shards.fetch(0)
    assert not list((tmp_path / "stage").rglob("*.part"))


def test_prefetching(web: tuple[str, Path, Faults], tmp_path: Path) -> None:
    url, folder, faults = web
    make_scenes(folder, shards=4)
    manifest = load_manifest(url, "train")
    shards = staged(manifest, tmp_path / "stage")
    faults.planned = {"000002.tar": ["503"] * 6}
    shards.prefetch([0, 2, 3, 0])
    end = time.monotonic() + 20
    while not (shards.local_path(0).exists() and shards.local_path(3).exists()):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not shards.local_path(1).exists()
    # What could not be prefetched is fetched when it is needed.
    assert shards.fetch(2).read_bytes() == (folder / manifest.shards[2].name).read_bytes()


def test_altered_copy_is_fetched_again(
    web: tuple[str, Path, Faults], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bit flipped in the stage: another copy is fetched once, for all processes; what is read is right."""
    url, folder, faults = web
    make_shards(folder, [5], "imagenet1k-train")
    info = {"num_samples": 5, "filenames": ["imagenet1k-train-0000.tar"], "shard_lengths": [5]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
    manifest = load_manifest(url, "train")
    shards = staged(manifest, tmp_path / "stage")
    readers = [ShardReader(shards), ShardReader(shards)]
    path = shards.fetch(0)
    for reader in readers:
        assert reader.read(0, 1).image == image_of(1)
    flip(path, 5 * BLOCK)
    faults.requests.clear()
    for reader in readers:
        assert reader.read(0, 1) == ("s000001", image_of(1), 1, None)
        assert reader.members(0, 1)[1]["jpg"] == image_of(1)
    assert len(faults.requests) == -(-path.stat().st_size // 3000)
    assert "was altered since it was fetched; fetching it again" in capsys.readouterr().err
    # Another shard under the same name is another data set.
    flip(folder / "imagenet1k-train-0000.tar", 9 * BLOCK)
    flip(path, 5 * BLOCK)
    with pytest.raises(UserError, match="was replaced by another one while it was in use"):
        readers[0].read(0, 1)
    for reader in readers:
        reader.close()


def test_remote_manifest_of_absurd_size_or_depth(
    web: tuple[str, Path, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, _ = web
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"manifest\.json is nested too deeply for a manifest"):
        load_manifest(url, "train")
    monkeypatch.setattr(remote, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(UserError, match=r"manifest\.json: 100000 bytes are no manifest"):
        load_manifest(url, "train")


@pytest.mark.timeout(30)
def test_server_that_sends_more_than_it_stated_fills_no_memory(web: tuple[str, Path, Faults]) -> None:
    url, folder, faults = web
    (folder / "manifest.json").write_text("{}")
    faults.planned["manifest.json"] = ["more than stated"]
    with pytest.raises(UserError, match=r"manifest\.json is not JSON"):
        load_manifest(url, "train")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["more than asked"] * 100, r"3001 bytes received instead of 3000 \(6 attempts\)"),
        (["more than stated"] * 100, "damaged"),
        (["more than asked"], None),
    ],
)
def test_server_that_sends_more_than_was_asked_fills_no_memory(
    web: tuple[str, Path, Faults], tmp_path: Path, answers: list[str], expected: str | None
) -> None:
    """Answers without end to a request for a part of a shard, as of that part (206) and as of the whole file (200)."""
    url, folder, faults = web
    make_scenes(folder)
    manifest = load_manifest(url, "train")
    faults.planned["000000.tar"] = answers
    if expected is None:
        assert_whole(staged(manifest, tmp_path / "stage"), manifest, folder)
    else:
        with pytest.raises(UserError, match=expected):
            staged(manifest, tmp_path / "stage").fetch(0)


def test_a_store_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """ftp connects before anything is asked; one of these failures says enough, without a look for other names."""
    monkeypatch.setattr(remote, "_LONGEST_PAUSE_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"cannot read ftp://127\.0\.0\.1:1/x/manifest\.json: ConnectionRefusedError"):
        load_manifest("ftp://127.0.0.1:1/x", "train")


def test_missing_remote_manifest_is_asked_for_once(
    web: tuple[str, Path, Faults], capsys: pytest.CaptureFixture[str]
) -> None:
    url, _, _ = web
    with pytest.raises(UserError, match=r"neither manifest\.json nor _info\.json can be read there"):
        load_manifest(url, "val")
    assert capsys.readouterr().err == ""
