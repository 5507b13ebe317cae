"""The strict tar index: it finds what is there, and refuses every kind of damage."""

from __future__ import annotations

import io
import itertools
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from shard_factory import CLASSES, REAL_DATA, image_of, sample_members, tar_bytes

from sar_dist.data import check_shards, load_manifest
from sar_dist.data.shards import LocalShards, ShardReader
from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.tar_index import NO_IMAGE, NO_LABEL, index_shard, parse_label, read_members
from sar_dist.data.shards.tar_members import BLOCK, DamagedShard


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    return path


def samples(count: int) -> list[tuple[str, bytes]]:
    return [member for number in range(count) for member in sample_members(number)]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_finds_images_and_labels(tmp_path: Path, tar_format: int) -> None:
    path = write(tmp_path, tar_bytes(samples(5), tar_format))
    entry, records = index_shard(path)
    assert (entry.name, entry.bytes, entry.samples, entry.long_names) == ("a.tar", path.stat().st_size, 5, False)
    assert records.dtype.itemsize == 36
    data = path.read_bytes()
    for number, (_, offset, size, label, *_) in enumerate(records.tolist()):
        assert data[offset : offset + size] == image_of(number)
        assert label == number % CLASSES


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, tar_format: int) -> None:
    key = "folder/" + "ä" * 120
    path = write(tmp_path, tar_bytes([(f"{key}.jpg", b"x"), (f"{key}.cls", b"3"), *samples(1)], tar_format))
    entry, records = index_shard(path)
    assert entry.samples == 2
    assert entry.long_names
    assert records["label"].tolist() == [3, 0]
    data = path.read_bytes()
    found = read_members(lambda offset, count: data[offset : offset + count], len(data), "a", 0)
    assert found == (key, {"jpg": b"x", "cls": b"3"}, records["members"][0])


def test_the_label_of_an_archive_is_read_past(tmp_path: Path) -> None:
    label = tarfile.TarInfo("my volume")
    label.type = b"V"
    path = write(tmp_path, label.tobuf(tarfile.GNU_FORMAT) + tar_bytes(samples(2)))
    assert index_shard(path)[1]["label"].tolist() == [0, 1]


def test_backslashes_in_names_are_separators(tmp_path: Path) -> None:
    members = [(f"train\\v1.0\\{key}.{kind}", b"1") for key in "ab" for kind in ("jpg", "cls")]
    path = write(tmp_path, tar_bytes([*members, ("__MACOSX\\._a.jpg", b"x")]))
    entry, records = index_shard(path)
    assert (records["label"].tolist(), entry.passed_over) == ([1, 1], (1, "__MACOSX\\._a.jpg"))
    write(tmp_path, tar_bytes([*members, ("val\\v1.0\\c.jpg", b"x")]))
    with pytest.raises(DamagedShard, match="holds the splits train and val"):
        index_shard(path)


def test_a_tar_of_tars_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, tar_bytes([("n01440764.tar", b"x"), ("n01443537.tar", b"x")]))
    with pytest.raises(DamagedShard, match=r"holds tars, such as n01440764\.tar, .*`make_shards.py imagenet`"):
        index_shard(path)


def test_agrees_with_webdataset(tmp_path: Path) -> None:
    """The samples are those that WebDataset's own writer and reader mean."""
    path = tmp_path / "a.tar"
    with wds.TarWriter(str(path)) as writer:
        for number in range(6):
            writer.write({"__key__": f"dir/k{number}", "jpg": image_of(number), "cls": str(number), "json": b"{}"})
    _, records = index_shard(path)
    data = path.read_bytes()
    theirs = list(wds.WebDataset(str(path), shardshuffle=False))
    assert len(theirs) == len(records) == 6
    for sample, record in zip(theirs, records, strict=True):
        assert data[record["image"] : record["image"] + record["image_size"]] == sample["jpg"]
        assert record["label"] == int(sample["cls"])


def test_other_image_members_and_first_dot(tmp_path: Path) -> None:
    """jpg goes before png; ``mask.png`` is another extension; extensions are compared in lower case."""
    members = [
        ("a.mask.png", b"m"),
        ("a.png", b"p"),
        ("a.JPEG", b"j"),
        ("a.cls", b" 4\n"),
        ("b.webp", b"w"),
        ("b.cls", b"1"),
    ]
    path = write(tmp_path, tar_bytes(members))
    _, records = index_shard(path)
    data = path.read_bytes()
    assert [data[r["image"] : r["image"] + 1] for r in records] == [b"j", b"w"]
    assert records["label"].tolist() == [4, 1]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b"12", 12),
        (b" 7\n", 7),
        (b"", -1),
        (b"-3", -1),
        (b"1.0", -1),
        (b"cat", -1),
        (b"99999999999", -1),
        (b"\xc2\xb2", -1),
    ],
)
def test_labels(text: bytes, label: int) -> None:
    assert parse_label(text) == label


def test_sample_without_image_or_label_is_indexed_as_such(tmp_path: Path) -> None:
    members = [("a.cls", b"1"), ("b.jpg", b"x"), ("c.jpg", b""), ("c.cls", b"2"), ("d.jpg", b"x"), ("d.cls", b"dog")]
    _, records = index_shard(write(tmp_path, tar_bytes(members)))
    assert (records["image"] == NO_IMAGE).tolist() == [True, False, True, False]
    assert records["label"].tolist() == [1, NO_LABEL, 2, NO_LABEL]


def test_all_labels_behind_all_images(tmp_path: Path) -> None:
    """As ``tar cf`` of a sorted list by extension gives it; read() and members() find everything."""
    images, labels = zip(*(sample_members(number) for number in range(9)), strict=True)
    (tmp_path / "a.tar").write_bytes(tar_bytes([*images, *reversed(labels)]))
    (tmp_path / "b.tar").write_bytes(tar_bytes([*labels, *images]))
    manifest = load_manifest(tmp_path, "train")
    reader = ShardReader(LocalShards(manifest, open_index(manifest)))
    for shard, number in itertools.product((0, 1), range(9)):
        key, image, label, _ = reader.read(shard, number)
        assert (key, image, label) == (f"s{number:06d}", image_of(number), number % CLASSES)
        assert reader.members(shard, number) == (key, {"jpg": image, "cls": b"%d" % label})
    reader.close()


def test_members_that_belong_to_no_sample_are_passed_over_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["README", "README.md", "LICENSE.txt", ".DS_Store", "._s000001.jpg", "__MACOSX/s000001.cls", "d/Thumbs.db"]
    (first, label), (second, other) = sample_members(0), sample_members(1)
    members = [first, *((name, b"x") for name in others), label, second, ("@eaDir/s000001.jpg/t.jpg", b"x"), other]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    manifest = load_manifest(tmp_path, "train")
    assert manifest.total == 2
    check_shards(manifest, num_classes=CLASSES, max_bad_fraction=0)
    assert (
        capsys.readouterr().err
        == f"{tmp_path}: left out 8 members that belong to no sample, such as 'README' in a.tar\n"
    )
    reader = ShardReader(LocalShards(manifest, open_index(manifest)))
    assert reader.members(0, 0) == ("s000000", {"jpg": image_of(0), "cls": b"0"})
    reader.close()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [f"scan-v1.2-{i}.jpg" for i in range(6)],
            "members 'scan-v1.2-0.jpg' and 'scan-v1.2-1.jpg' share the key 'scan-v1'",
        ),
        (["a.b.jpg", "a.cls"], "members 'a.b.jpg' and 'a.cls' share the key 'a', which ends at the first dot"),
        (["a.b.jpg"], "member 'a.b.jpg' has the key 'a'"),
        (["a.jpg", "a.cls", "a.b.jpg", "a.b.cls"], "members 'a.b.jpg' and 'a.jpg' share the key 'a'"),
    ],
)
def test_dots_in_names_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    data = tar_bytes([*((name, b"1") for name in names), *samples(2)])
    with pytest.raises(DamagedShard, match=f"{re.escape(message)}.*no dot before the extension"):
        index_shard(write(tmp_path, data))


def test_members_of_two_extensions_are_companions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks belong to their image, and are no image where it is missing; a second image of one sample alone is said."""
    names = ["a.jpg", "a.mask.png", "a.cls", "a.fine.cls", "b.mask.png", "b.cls", "c.cls", "c.jpg", "c.2.jpg"]
    (tmp_path / "a.tar").write_bytes(tar_bytes([(name, b"1") for name in names]))
    manifest = load_manifest(tmp_path, "train")
    check_shards(manifest)
    assert (open_index(manifest).records["image"] == NO_IMAGE).tolist() == [False, True, False]
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 images such as 'c.2.jpg' in a.tar belong to a sample that has another image" in line


def test_a_second_image_of_a_sample_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also by an index that is read back, and for every plain extension; companions by a name of their own are none."""
    kinds = ["jpg png mask.png", "jpg png webp", "png", "webp jpg mask.png"]
    names = [f"k{n}.{kind}" for n, each in enumerate(kinds) for kind in [*each.split(), "cls"]]
    (tmp_path / "a.tar").write_bytes(tar_bytes([(name, b"1") for name in names]))
    (tmp_path / "b.tar").write_bytes(tar_bytes([(name, b"2") for name in names]))
    manifest = load_manifest(tmp_path, "train")
    for _ in range(2):
        check_shards(manifest)
        (line,) = capsys.readouterr().err.splitlines()
        assert "8 images such as 'k0.png' in a.tar are not used, for their sample has another, 'k0.jpg'" in line
        assert "in 2 other samples of these shards such a file is the image, such as 'k2.png'" in line


def test_images_that_a_number_tells_apart_are_counted(tmp_path: Path) -> None:
    """However many samples have one: photographs called a.jpg, a.1.jpg are no companions of each other."""
    names = [f"{key}.{kind}" for key in "ab" for kind in ("jpg", "1.jpg", "mask.png", "cls")]
    entry, _ = index_shard(write(tmp_path, tar_bytes([(name, b"1") for name in names])))
    assert entry.joined == (2, "a.1.jpg")
    assert entry.second.images == 0


def test_members_that_are_no_samples(tmp_path: Path) -> None:
    """Folders and WebDataset's own meta members are part of the format, not samples."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("dir")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in [("__meta__", b"x"), ("dir/a.jpg", b"x"), ("dir/a.cls", b"1")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert index_shard(write(tmp_path, out.getvalue()))[0].samples == 1


def _link() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("b.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(info)
    return out.getvalue()


def _edited(position: int, value: bytes) -> bytes:
    data = bytearray(tar_bytes(samples(3)))
    data[position : position + len(value)] = value
    return bytes(data)


WHOLE = tar_bytes(samples(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (bytes(2 * BLOCK), "no sample"),
        (_edited(10, b"\xff"), "damaged tar header at byte 0"),
        (_edited(2 * BLOCK + 150, b"9"), "damaged tar header at byte 1024"),
        (WHOLE[: 3 * BLOCK], "truncated"),
        (WHOLE[: 2 * BLOCK], "end-of-archive"),
        (WHOLE.rstrip(b"\0") + bytes(-len(WHOLE.rstrip(b"\0")) % BLOCK), "end-of-archive"),
        (WHOLE + WHOLE, "after the end-of-archive"),
        (tar_bytes([*samples(2), *sample_members(0)]), "'s000000' has two members .jpg"),
        (tar_bytes([("a.jpg", b"1"), ("a.cls", b"2"), ("a.jpg", b"1"), ("a.cls", b"2")]), "the key is there twice"),
        (
            tar_bytes([*samples(2), ("s000002.jpg", b"1"), *sample_members(3), ("s000002.cls", b"1")]),
            "'s000002' occurs twice",
        ),
        (tar_bytes([("README", b"x"), ("._a.jpg", b"x")]), "no sample, only 2 other files such as 'README'"),
        (_link(), "is a link .*tar --dereference --hard-dereference"),
        (b"\x1f\x8b" + bytes(1000), "is compressed with gzip; .*gunzip"),
        (b"\x04\x22\x4d\x18" + bytes(1000), "is compressed with lz4; .*unlz4"),
        (b"PK\x03\x04" + bytes(1000), "is a zip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer of Git LFS, .*git lfs pull"),
        (
            tar_bytes([("./train/a/1.jpg", b"1"), ("train/b/2.jpg", b"2"), ("./Validation/train/3.jpg", b"3")]),
            "holds the splits train and val, as train/a/1 and Validation/train/3; pack each split",
        ),
    ],
)
def test_damage_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DamagedShard, match=message) as error:
        index_shard(write(tmp_path, data), "train-7.tar")
    assert "train-7.tar" in str(error.value)
    assert "\n" not in str(error.value)


def test_truncation_at_every_byte_is_refused_or_loses_nothing(tmp_path: Path) -> None:
    """Cut anywhere, a shard is refused, unless all that is missing is padding behind a whole end marker."""
    path = tmp_path / "a.tar"
    whole = index_shard(write(tmp_path, WHOLE))[1]
    end_of_marker = 6 * 2 * BLOCK + 2 * BLOCK
    assert not WHOLE[6 * 2 * BLOCK :].strip(b"\0")
    for length in range(len(WHOLE) - 1, -1, -1):
        with path.open("r+b") as file:
            file.truncate(length)
        if length >= end_of_marker:
            assert np.array_equal(index_shard(path)[1], whole)
            continue
        with pytest.raises(DamagedShard):
            index_shard(path)


def test_flipped_and_swapped_bytes_never_move_an_image_to_another_label(tmp_path: Path) -> None:
    """What the index accepts of a damaged shard has every image with its own label.

    The data of the members themselves is protected by sha256 (see test_shards), so only headers are damaged here.
    """
    generator = random.Random(0)
    path = tmp_path / "a.tar"
    original = tar_bytes(samples(6))
    headers = list(range(0, 24 * BLOCK, 2 * BLOCK))
    refused = 0
    for _ in range(800):
        data = bytearray(original)
        for _ in range(generator.choice([1, 1, 2])):
            first, second = (generator.choice(headers) + generator.randrange(BLOCK) for _ in range(2))
            if generator.random() < 0.5:
                data[first], data[second] = data[second], data[first]
            else:
                data[first] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            _, records = index_shard(path)
        except DamagedShard:
            refused += 1
            continue
        for _, offset, size, label, *_ in records.tolist():
            if offset != NO_IMAGE and label != NO_LABEL:
                number = (offset // BLOCK) // 4
                assert bytes(data[offset : offset + size]) == image_of(number)[:size]
                assert label == number % CLASSES
    assert refused > 500


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real images are not on this machine")
def test_real_images(tmp_path: Path) -> None:
    files = sorted((REAL_DATA / "imagenet_samples").glob("*/*.JPEG"))[:20]
    members = [
        pair for i, file in enumerate(files) for pair in ((f"k{i}.jpg", file.read_bytes()), (f"k{i}.cls", b"%d" % i))
    ]
    path = write(tmp_path, tar_bytes(members))
    _, records = index_shard(path)
    data = path.read_bytes()
    for record, file in zip(records, files, strict=True):
        assert data[record["image"] : record["image"] + record["image_size"]] == file.read_bytes()


def test_a_path_that_begins_at_the_current_folder_is_the_same_path(tmp_path: Path) -> None:
    (image, data), (label, text) = sample_members(0)
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"./{image}", data), (label, text)]))
    manifest = load_manifest(tmp_path, "train")
    reader = ShardReader(LocalShards(manifest, open_index(manifest)))
    found = reader.read(0, 0)
    assert (found.key, found.image, found.label) == ("s000000", data, int(text))
    assert reader.members(0, 0) == ("s000000", {"jpg": data, "cls": text})
    reader.close()
    with pytest.raises(DamagedShard, match="the key is there twice"):
        index_shard(write(tmp_path, tar_bytes([(f"./{image}", data), (image, data)])))
