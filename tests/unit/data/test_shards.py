"""Manifests of every accepted layout, the stored index, and the refusal of damaged shards at start-up."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from privileges import permissions_hold
from shard_factory import CLASSES, make_shards, sample_members, tar_bytes
from support import jpeg, write_tar

from sar_dist.data import check_shards, load_manifest
from sar_dist.data.making.sources import DemoScenes
from sar_dist.data.making.writing import WritingOptions, write_shard, write_shards
from sar_dist.data.shards import file_identity, shard_index
from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.manifest import MANIFEST_FORMAT, Manifest, ShardEntry, check_entries
from sar_dist.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAR_DIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_manifest(folder: Path, sizes: list[int], split: str = "train") -> Path:
    """Shards with our own manifest."""
    folder.mkdir(parents=True)
    first, entries = 0, []
    for i, size in enumerate(sizes):
        members = (sample_members(number) for number in range(first, first + size))
        samples = ((pair[0][0].split(".")[0], {name.split(".")[1]: data for name, data in pair}) for pair in members)
        entry = write_shard(folder / f"{split}-{i}.tar", samples)
        entries.append({"name": entry.name, "samples": entry.samples, "bytes": entry.bytes, "sha256": entry.sha256})
        first += size
    content = {
        "format": MANIFEST_FORMAT,
        "split": split,
        "classes": [f"class {i}" for i in range(CLASSES)],
        "total": first,
        "shards": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def make_timm(folder: Path, sizes: dict[str, list[int]]) -> Path:
    """The layout of the public timm ImageNet shards."""
    splits = {}
    for split, counts in sizes.items():
        make_shards(folder, counts, f"imagenet1k-{split}")
        names = [f"imagenet1k-{split}-{i:04d}.tar" for i in range(len(counts))]
        splits[split] = {"name": split, "num_samples": sum(counts), "filenames": names, "shard_lengths": counts}
    (folder / "_info.json").write_text(json.dumps({"name": "imagenet1k", "splits": splits}))
    return folder


def test_own_manifest(tmp_path: Path) -> None:
    manifest = load_manifest(make_manifest(tmp_path / "a", [3, 4]), "train")
    assert (manifest.total, manifest.num_classes, len(manifest.shards)) == (7, CLASSES, 2)
    assert manifest.offsets.tolist() == [0, 3, 7]
    assert [manifest.locate(i) for i in (0, 2, 3, 6)] == [(0, 0), (0, 2), (1, 0), (1, 3)]
    check_shards(manifest, num_classes=CLASSES, max_bad_fraction=0)


def test_timm_layout(tmp_path: Path) -> None:
    root = make_timm(tmp_path / "in1k", {"train": [5, 6], "validation": [4]})
    train, val = load_manifest(root, "train"), load_manifest(root, "val")
    assert (train.total, val.total, train.num_classes) == (11, 4, None)
    assert val.shards[0].name == "imagenet1k-validation-0000.tar"
    for manifest in (train, val):
        check_shards(manifest, num_classes=CLASSES, max_bad_fraction=0)
        assert open_index(manifest).records["label"].tolist() == [i % CLASSES for i in range(manifest.total)]


def test_bare_tars(tmp_path: Path) -> None:
    make_shards(tmp_path / "a", [3, 4], "train")
    make_shards(tmp_path / "a", [2], "val")
    make_shards(tmp_path / "b", [2, 3])
    assert [load_manifest(tmp_path / "a", split).total for split in ("train", "val")] == [7, 2]
    assert [load_manifest(tmp_path / "b", split).total for split in ("train", "val")] == [5, 5]


def test_a_bare_tar_of_a_packed_folder_is_of_its_split(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"./train/cat/a.jpg": jpeg(1), "./train/cat/a.cls": b"0"})
    assert load_manifest(tmp_path, "train").total == 1
    with pytest.raises(
        UserError, match=r"no val shards in .*: 0\.tar holds train images, such as \./train/cat/a\.jpg; "
    ):
        load_manifest(tmp_path, "val")
    write_tar(tmp_path / "windows" / "0.tar", {"val\\cat\\a.jpg": jpeg(1), "val\\cat\\a.cls": b"0"})
    with pytest.raises(UserError, match=r"no train shards in .*: 0\.tar holds val images"):
        load_manifest(tmp_path / "windows", "train")
    write_tar(tmp_path / "vehicles" / "0.tar", {"train/a.jpg": jpeg(1), "train/a.cls": b"0"})
    assert load_manifest(tmp_path / "vehicles", "val").total == 1, "a class may be called train"


@pytest.mark.parametrize("names", [("train", "val"), ("train", "validation")])
def test_parent_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    make_shards(tmp_path / names[0], [3])
    make_manifest(tmp_path / names[1], [2], "val")
    assert [load_manifest(tmp_path, split).total for split in ("train", "val")] == [3, 2]


def test_fingerprint_depends_on_the_content_alone(tmp_path: Path) -> None:
    first, second, third = (make_manifest(tmp_path / name, [3, 4]) for name in "abc")
    for path in third.glob("*-1.tar"):
        path.unlink()
    content = json.loads((third / "manifest.json").read_text())
    content["shards"][1]["sha256"] = "0" * 64
    (third / "manifest.json").write_text(json.dumps(content))
    prints = [load_manifest(folder, "train").fingerprint for folder in (first, second, third)]
    assert prints[0] == prints[1] != prints[2]


def _edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a valid manifest"),
        (_edit(lambda content: content.update(format="other-9")), "format 'other-9'"),
        (_edit(lambda content: content.update(total=99)), "total 99, but its shards hold 7"),
        (_edit(lambda content: content.update(total=0, shards=[])), "is empty"),
        (_edit(lambda content: content["shards"][0].pop("samples")), "not a valid manifest"),
        (_edit(lambda content: content.update(classes="ab")), "not a valid manifest .*classes are no list"),
        (_edit(lambda content: content["shards"][0].update(name="../x.tar")), "invalid entry"),
        (_edit(lambda content: content["shards"][0].update(name="train-1.tar")), "names a shard twice"),
    ],
)
def test_impossible_manifests(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = make_manifest(tmp_path / "a", [3, 4])
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load_manifest(folder, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "not a timm WebDataset description"),
        ({"splits": {"test": {}}}, "no train split, only test"),
        ({"splits": {"train": {"filenames": ["a"], "shard_lengths": [3], "num_samples": 4}}}, "inconsistent"),
    ],
)
def test_impossible_timm_descriptions(tmp_path: Path, info: dict, message: str) -> None:
    (tmp_path / "_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=message):
        load_manifest(tmp_path, "train")


@pytest.mark.parametrize(
    "other", [{"num_samples": 3}, None, [], 5, {"filenames": None}, {"filenames": 5}, {"filenames": [[], "a.tar"]}]
)
def test_a_timm_description_may_lack_the_files_of_a_split_that_is_not_read(tmp_path: Path, other: object) -> None:
    make_shards(tmp_path, [2], "train")
    (tmp_path / "manifest.json").unlink(missing_ok=True)
    (name,) = (path.name for path in tmp_path.glob("*.tar"))
    train = {"filenames": [name], "shard_lengths": [2], "num_samples": 2}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": train, "test": other}}))
    assert load_manifest(tmp_path, "train").total == 2


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        load_manifest(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"no manifest and no \.tar files"):
        load_manifest(tmp_path, "train")
    make_shards(tmp_path, [2], "train")
    with pytest.raises(UserError, match="none of them named for it"):
        load_manifest(tmp_path, "val")


def _replace(folder: Path, data: bytes) -> None:
    (folder / "train-1.tar").write_bytes(data)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "train-1.tar").read_bytes())
    data[540] ^= 1
    _replace(folder, bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train-1.tar").unlink(), "train-1.tar of 2 shards not found"),
        (lambda folder: _replace(folder, (folder / "train-1.tar").read_bytes()[:-512]), "its manifest says 10240"),
        (
            lambda folder: _replace(folder, (folder / "train-0.tar").read_bytes()),
            "holds 3 samples, its manifest says 4",
        ),
        (_flip, "sha256"),
    ],
)
def test_damage_after_indexing_is_found_at_start_up(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = make_manifest(tmp_path / "a", [3, 4])
    manifest = load_manifest(folder, "train")
    check_shards(manifest)
    os.utime(folder / "train-1.tar", ns=(0, 0))
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        check_shards(manifest)
    assert "train-1.tar" in str(error.value)


def test_any_changed_byte_of_a_shard_with_a_manifest_is_found(tmp_path: Path) -> None:
    """Flips and swaps anywhere in the file, headers, labels and images alike."""
    folder = make_manifest(tmp_path / "a", [3])
    manifest = load_manifest(folder, "train")
    check_shards(manifest)
    original = (folder / "train-0.tar").read_bytes()
    generator = random.Random(0)
    for _ in range(200):
        data = bytearray(original)
        first, second = generator.randrange(len(data)), generator.randrange(len(data))
        data[first], data[second] = data[second], data[first]
        if bytes(data) == original:
            data[first] ^= 1 << generator.randrange(8)
        (folder / "train-0.tar").write_bytes(data)
        with pytest.raises(UserError, match=r"train-0\.tar"):
            check_shards(manifest)
    (folder / "train-0.tar").write_bytes(original)
    check_shards(manifest)


def test_labels_outside_the_classes_are_named(tmp_path: Path) -> None:
    manifest = load_manifest(make_shards(tmp_path / "a", [10]), "train")
    with pytest.raises(
        UserError,
        match=r"3 of the 10 train samples .*label in 0\.\.3 .*sample 4 of shard shard-0000\.tar, with label 4",
    ):
        check_shards(manifest, num_classes=4, max_bad_fraction=0.2)
    check_shards(manifest, num_classes=4, max_bad_fraction=0.3)


def test_index_is_built_once_and_again_only_for_changed_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_shards(tmp_path / "a", [3, 4, 5])
    indexed: list[str] = []
    original = shard_index.index_and_check
    monkeypatch.setattr(shard_index, "available_cores", lambda: 1)
    monkeypatch.setattr(
        shard_index, "index_and_check", lambda path, *rest: indexed.append(path.name) or original(path, *rest)
    )
    manifest = load_manifest(folder, "train")
    assert sorted(indexed) == [f"shard-000{i}.tar" for i in range(3)]
    indexed.clear()
    check_shards(manifest, processes=1)
    assert indexed == []
    os.utime(folder / "shard-0001.tar", ns=(0, 0))
    check_shards(manifest, processes=1)
    assert indexed == ["shard-0001.tar"]
    assert open_index(manifest).of_shard(1)["label"].tolist() == [number % CLASSES for number in range(3, 7)]


def test_index_of_a_read_only_folder_goes_to_the_cache(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode, **__: mode == os.R_OK)
    # Two data sets whose folders and shards have the same names: their indices must not be mixed up.
    for parent, sizes in (("a", [3]), ("b", [4])):
        manifest = load_manifest(make_shards(tmp_path / parent / "data", sizes), "train")
        check_shards(manifest)
        assert open_index(manifest).offsets[-1] == sizes[0]
        assert not list((tmp_path / parent / "data").glob(".*index*"))
    assert len(list((own_cache / "index").glob("*.index"))) == 2


@pytest.mark.parametrize("name", [".train.lock", ".train.index"])
def test_what_another_user_left_beside_the_shards_blocks_nobody(tmp_path: Path, own_cache: Path, name: str) -> None:
    folder = make_shards(tmp_path / "data", [3])
    (folder / name).touch(0)
    with permissions_hold():
        assert open_index(load_manifest(folder, "train")).offsets[-1] == 3
    assert (own_cache / "index").exists() == (name == ".train.lock")  # an index is replaced, a lock is not


def test_shard_that_may_not_be_read_is_said_before_anything_starts(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "data", [3, 2])
    manifest = load_manifest(folder, "train")
    check_shards(manifest)
    shard = folder / manifest.shards[1].name
    shard.chmod(0)
    with permissions_hold(), pytest.raises(UserError, match=rf"{shard.name} in \S+ cannot be read: Permission denied"):
        check_shards(manifest)


def test_any_flipped_bit_of_an_index_is_noticed(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "a", [3, 4])
    load_manifest(folder, "train")
    path = folder / ".train.index"
    whole = path.read_bytes()
    assert shard_index.read_index(path) is not None
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert shard_index.read_index(path) is None, position


def test_manifest_nested_too_deeply_or_of_absurd_size(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"manifest\.json: nested too deeply"):
        load_manifest(tmp_path, "train")
    os.truncate(path, 10**12)  # sparse: takes no space
    with pytest.raises(UserError, match="1000000000000 bytes are no manifest"):
        load_manifest(tmp_path, "train")


@pytest.mark.parametrize("name", ["./a.tar", "a//b.tar", "a\0.tar", "/a.tar", "b/../a.tar", ""])
def test_a_shard_has_one_plain_name(name: str) -> None:
    entries = (ShardEntry("a.tar", 2), ShardEntry(name, 2))
    with pytest.raises(UserError, match="invalid entry"):
        check_entries(Manifest("data", "train", None, entries))


@pytest.mark.parametrize("keep", [0, 7, 40, -1, -9])
def test_damaged_index_file_is_built_again(tmp_path: Path, keep: int) -> None:
    folder = make_shards(tmp_path / "a", [3, 4])
    manifest = load_manifest(folder, "train")
    path = folder / ".train.index"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    check_shards(manifest)
    assert path.read_bytes() == whole
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    check_shards(manifest)
    assert path.read_bytes() == whole


def test_index_of_many_shards_in_parallel(tmp_path: Path) -> None:
    manifest = load_manifest(make_shards(tmp_path / "a", [2] * 20), "train")
    one = (tmp_path / "a" / ".train.index").read_bytes()
    (tmp_path / "a" / ".train.index").unlink()
    check_shards(manifest, processes=3)
    assert (tmp_path / "a" / ".train.index").read_bytes() == one


def test_damaged_shard_in_a_folder_of_bare_tars(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "a", [3])
    (folder / "shard-0001.tar").write_bytes(tar_bytes(sample_members(9))[:1024])
    with pytest.raises(UserError, match=r"shard shard-0001\.tar: truncated"):
        load_manifest(folder, "train")


def copied(folder: Path, target: Path) -> Path:
    """A copy of size, times and index, as ``cp -a`` makes it."""
    shutil.copytree(folder, target)
    return target


def replaced(path: Path, data: bytes) -> None:
    """Another file of the same size under the same name, with the same times."""
    state = path.stat()
    assert state.st_size == len(data)
    path.rename(path.with_name(".kept"))  # so that the inode is not used again
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_manifest_that_is_added_or_corrected_later_is_compared(tmp_path: Path) -> None:
    folder = make_manifest(tmp_path / "a", [3, 4])
    good = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    check_shards(load_manifest(folder, "train"))
    _edit(lambda content: content["shards"][1].update(sha256="0" * 64))(_with(folder, good))
    with pytest.raises(UserError, match=r"train-1\.tar .*its sha256 is not its manifest's"):
        check_shards(load_manifest(folder, "train"))
    _with(folder, good)
    check_shards(load_manifest(folder, "train"))
    assert all(shard.sha256 for shard in open_index(load_manifest(folder, "train")).shards)
    _edit(lambda content: content["shards"][0].update(sha256="0" * 64))(folder)
    with pytest.raises(UserError, match=r"train-0\.tar .*its sha256 is not its manifest's"):
        check_shards(load_manifest(folder, "train"))


def _with(folder: Path, manifest: bytes) -> Path:
    (folder / "manifest.json").write_bytes(manifest)
    return folder


def test_a_copy_is_looked_at_again(tmp_path: Path) -> None:
    folder = make_manifest(tmp_path / "a", [3, 4])
    check_shards(load_manifest(folder, "train"))
    copy = copied(folder, tmp_path / "b")
    data = bytearray((copy / "train-1.tar").read_bytes())
    data[540] ^= 1
    replaced(copy / "train-1.tar", bytes(data))
    with pytest.raises(UserError, match=r"train-1\.tar .*its sha256 is not its manifest's"):
        check_shards(load_manifest(copy, "train"))
    assert open_index(load_manifest(folder, "train")).shards[0].inode == (folder / "train-0.tar").stat().st_ino


def test_shards_replaced_with_equal_sizes_and_times(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "a", [3])
    check_shards(load_manifest(folder, "train"))
    members = [member for number in (2, 1, 0) for member in sample_members(number)]
    replaced(folder / "shard-0000.tar", tar_bytes(members))
    manifest = load_manifest(folder, "train")
    check_shards(manifest)
    assert open_index(manifest).records["label"].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ("36 25 8:1 / /data rw - ext4 /dev/sda1 rw", (os.makedev(8, 1), 77)),
        ("36 25 0:41 / /data rw - nfs4 server:/data rw", (0, 77)),
        ("36 25 0:41 / /data rw shared:1 - fuse.s3fs s3fs rw", (0, 0)),
        ("", (0, 77)),
    ],
)
def test_identity_is_what_all_nodes_agree_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str, expected: tuple[int, int]
) -> None:
    (tmp_path / "mounts").write_text(f"1 0 0:7 / / rw - tmpfs tmpfs rw\n{mount}\n")
    monkeypatch.setattr(file_identity, "_MOUNTS", tmp_path / "mounts")
    file_identity._in_user_space.cache_clear()
    device = os.makedev(8, 1) if "8:1" in mount else os.makedev(0, 41)
    assert file_identity.identity_of_file(os.stat_result((0, 77, device, *[0] * 7))) == expected
    file_identity._in_user_space.cache_clear()


def test_index_of_an_earlier_version_is_made_anew_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_shards(tmp_path / "a", [3, 4])
    manifest = load_manifest(folder, "train")
    path = folder / ".train.index"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"2")
    capsys.readouterr()
    for _ in range(2):
        check_shards(manifest)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path} is of another version: made anew")
    assert path.read_bytes() == whole


def test_manifest_holds_the_digest_of_the_checksums(tmp_path: Path) -> None:
    manifest = write_shards(DemoScenes("train", 6, 3, 32, 0), tmp_path / "a", WritingOptions(processes=1))
    assert load_manifest(tmp_path / "a", "train") == manifest
    index = open_index(manifest)
    assert [shard.checksums for shard in index.shards] == [entry.checksums for entry in manifest.shards]
    assert len({*index.records["checksum"].tolist(), *index.records["members"].tolist()}) == 12
    _edit(lambda content: content["shards"][0].update(checksums="0" * 32))(tmp_path / "a")
    with pytest.raises(UserError, match="the checksums of its samples are not its manifest's"):
        check_shards(load_manifest(tmp_path / "a", "train"))
    _edit(lambda content: content["shards"][0].pop("checksums"))(tmp_path / "a")
    check_shards(load_manifest(tmp_path / "a", "train"))
