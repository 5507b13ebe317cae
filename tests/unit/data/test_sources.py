"""Every format that shards are made from."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path

import pytest
import webdataset as wds
from shard_factory import REAL_DATA, image_of, tar_bytes

from sar_dist.data import Manifest, load_manifest
from sar_dist.data.layout import Split, SplitChoice, parse_split_choice
from sar_dist.data.making.sources import (
    CsvColumns,
    Subset,
    ade20k_sources,
    csv_sources,
    imagefolder_sources,
    parquet_sources,
    tar_sources,
    voc_sources,
)
from sar_dist.data.making.sources.base import unique_keys
from sar_dist.data.making.verify import verify_folder
from sar_dist.data.making.writing import WritingOptions, write_splits
from sar_dist.data.shards.checks import open_index
from sar_dist.errors import UserError


def samples_of(manifest: Manifest) -> dict[str, dict]:
    """All samples of a written split by key, as WebDataset reads them."""
    paths = [str(Path(manifest.root, shard.name)) for shard in manifest.shards]
    return {sample["__key__"]: sample for path in paths for sample in wds.WebDataset(path, shardshuffle=False)}


def written(sources: list, out: Path, samples_per_shard: int = 5) -> dict[str, Manifest]:
    """Write ``sources`` twice, with 1 and 2 processes; the same bytes, and verified. The manifests by split."""
    for processes in (1, 2):
        write_splits(sources, out / str(processes), WritingOptions(0, samples_per_shard, processes))
    names = {path.relative_to(out / "1") for path in (out / "1").rglob("*.*") if path.suffix in (".tar", ".json")}
    assert names
    assert all((out / "1" / name).read_bytes() == (out / "2" / name).read_bytes() for name in names)
    verify_folder(out / "1", deep=True)
    return {source.split: load_manifest(out / "1", source.split) for source in sources}


def make_tree(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_of(number))
    return root


def test_imagefolder_with_splits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tree = make_tree(
        tmp_path / "src",
        [
            "train/cat/1.jpg",
            "train/cat/2.v2.JPEG",
            "train/dog/1.png",
            "train/dog/sub/3.jpg",
            "val/dog/1.jpg",
            "train/cat/.hidden",
        ],
    )
    (tree / "train" / "cat" / "notes.txt").write_text("x")
    (tree / "classes.json").write_text(json.dumps({"cat": "Cat", "dog": "Dog", "emu": "Emu"}))
    write_splits(imagefolder_sources(tree, None), tmp_path / "out", WritingOptions())
    train, val = (load_manifest(tmp_path / "out", split) for split in ("train", "val"))
    assert (train.total, val.total, train.classes, val.classes) == (4, 1, ("Cat", "Dog"), ("Cat", "Dog"))
    shard = str(tmp_path / "out" / "train" / train.shards[0].name)
    samples = {s["__key__"]: s for s in wds.WebDataset(shard, shardshuffle=False)}
    assert {"3"} < set(samples)
    assert sorted(key.split("-")[0] for key in samples) == ["1", "1", "2_v2", "3"]
    assert {int(sample["cls"]) for key, sample in samples.items() if key == "3"} == {1}
    assert sorted("png" if "png" in sample else "jpg" for sample in samples.values()) == ["jpg", "jpg", "jpg", "png"]
    printed = capsys.readouterr()
    assert "left out 1 files that are no images by name, such as cat/notes.txt" in printed.err
    assert "4 samples of 2 classes in 1 shard" in printed.out


def test_plain_imagefolder_and_its_labels(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "val", ["n02/a.jpg", "n01/b.jpg"])
    (tree / "classes.json").write_text(
        json.dumps({"n01": {"index": 4, "name": "tench"}, "n02": {"index": 9, "name": "fox"}})
    )
    write_splits(imagefolder_sources(tree, None), tmp_path / "out", WritingOptions())
    manifest = load_manifest(tmp_path / "out", "val")
    assert manifest.shards[0].name == "val-000000.tar"
    assert manifest.classes is not None
    assert (len(manifest.classes), manifest.classes[4], manifest.classes[9], manifest.classes[0]) == (
        10,
        "tench",
        "fox",
        "class 0",
    )
    assert sorted(open_index(manifest).records["label"].tolist()) == [4, 9]


def test_imagefolder_subset_is_balanced_drawn_by_the_seed_and_spares_validation(tmp_path: Path) -> None:
    names = [f"{split}/{name}/{number}.jpg" for split in ("train", "val") for name in "ab" for number in range(9)]
    tree = make_tree(tmp_path / "src", names)

    def chosen(subset: Subset | None) -> list[list[str]]:
        sources = imagefolder_sources(tree, None, subset)
        samples = [[source.sample(number) for number in range(len(source))] for source in sources]
        return [[f"{members['cls'].decode()} {members['jpg'].hex()}" for _, members in split] for split in samples]

    everything, few, other = chosen(None), chosen(Subset(4)), chosen(Subset(4, seed=1))
    assert few == chosen(Subset(4)) != other
    assert few[1] == other[1] == everything[1]
    assert [sum(entry.startswith(label) for entry in few[0]) for label in "01"] == [4, 4]
    assert len(set(few[0])) == 8
    assert set(few[0]) < set(everything[0])
    assert chosen(Subset(9)) == everything
    with pytest.raises(UserError, match=r"a class has only 9 images \(a/0.jpg ...\)"):
        chosen(Subset(10))


def test_a_validation_split_is_taken_out_of_images_that_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tree = make_tree(tmp_path / "pictures", [f"{name}/{number}.jpg" for name in "ab" for number in range(9)])
    (tree / "b" / "8.jpg").write_bytes(b"")

    def made(seed: int, per_class: int | None = None) -> list[set[tuple[str, str]]]:
        subset = None if per_class is None else Subset(per_class)
        train, val = imagefolder_sources(tree, None, subset, Subset(3, seed))
        assert (train.split, val.split, train.classes) == ("train", "val", val.classes)
        samples = [[source.sample(number)[1] for number in range(len(source))] for source in (train, val)]
        return [{(members["cls"].decode(), members["jpg"].hex()) for members in split} for split in samples]

    train, val = made(0)
    assert [sum(label == wanted for label, _ in val) for wanted in "01"] == [3, 3]
    assert (len(train), len(train | val)) == (12, 18)
    assert made(0) == [train, val]
    assert made(1)[1] != val
    assert [len(split) for split in made(0, per_class=2)] == [4, 6]
    assert made(0, per_class=2)[1] == val  # the same images are validated, however few are trained on
    assert "1 files are empty, such as b/8.jpg, and will be bad samples" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"a class has only 9 images .* ask for fewer of each"):
        imagefolder_sources(tree, None, None, Subset(9))
    with pytest.raises(UserError, match="takes a validation split out of training images; give it without --split"):
        imagefolder_sources(tree, "val", None, Subset(3))
    both = make_tree(tmp_path / "both", ["train/a/0.jpg", "val/a/1.jpg"])
    with pytest.raises(UserError, match="both has a validation split already; give the same command without"):
        imagefolder_sources(both, None, None, Subset(1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "cannot read"),
        (["a.jpg"], "no class folders"),
        (["cat/a.txt"], "no images in the class folders"),
        (["train/cat/a.jpg", "val/dog/a.jpg"], "not among the 1 training classes"),
    ],
)
def test_trees_that_are_no_imagefolder(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imagefolder_sources(make_tree(tmp_path / "src", names), None)


def test_pointers_of_git_lfs_are_no_images(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, ["images/cat/1.jpg", "images/dog/2.jpg"])
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
    (tree / "images" / "dog" / "2.jpg").write_bytes(pointer)
    table = write_csv(tree / "t.csv", ["path", "label"], [["images/cat/1.jpg", "cat"], ["images/dog/2.jpg", "dog"]])
    for read in (
        lambda: imagefolder_sources(tree / "images", None),
        lambda: csv_sources(table, None, CsvColumns(), None),
    ):
        with pytest.raises(UserError, match=r"dog/2\.jpg is a pointer of Git LFS, .*; fetch it with `git lfs pull`"):
            read()


def test_keys_are_unique_and_safe() -> None:
    paths = ["a/x.jpg", "b/x.jpg", "b/x.png", "a/y.jpg", "a/y.1.jpg", "a/y_1.jpg", "a/ü.jpg", f"a/{'z' * 200}.jpg"]
    keys = unique_keys(paths)
    assert len(set(keys)) == len(keys)
    assert keys[3] == "y"
    assert all(len(key) <= 80 and key.isascii() and "." not in key for key in keys)


def _segmentation(folder: Path, images: str, maps: str, keys: list[str]) -> None:
    make_tree(folder, [f"{images}/{key}.jpg" for key in keys])
    make_tree(folder, [f"{maps}/{key}.png" for key in keys])


def test_ade20k(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for split, count in (("training", 7), ("validation", 3)):
        keys = [f"ADE_{split}_{number:08d}" for number in range(count)]
        _segmentation(root, f"images/{split}", f"annotations/{split}", keys)
    (root / "objectInfo2.txt").write_text("Idx\tRatio\tName\n1\t0.5\twall, side\n2\t0.2\tsky\n")
    manifests = written(ade20k_sources(root), tmp_path / "out")
    assert manifests["train"].classes == ("wall, side", "sky")
    assert [shard.name for shard in manifests["train"].shards] == ["ade20k-train-000000.tar", "ade20k-train-000001.tar"]
    assert manifests["val"].total == 3
    for key, sample in samples_of(manifests["train"]).items():
        assert sample["jpg"] == (root / f"images/training/{key}.jpg").read_bytes()
        assert sample["seg.png"] == (root / f"annotations/training/{key}.png").read_bytes()
        assert "cls" not in sample
    (root / "annotations/validation/ADE_validation_00000001.png").unlink()
    with pytest.raises(
        UserError, match=r"1 images in .* have no map of the same name, such as ADE_validation_00000001"
    ):
        ade20k_sources(root)
    with pytest.raises(UserError, match="expected the layout of ADEChallengeData2016"):
        ade20k_sources(tmp_path)


def ade_folder(root: Path, names: list[str], maps: list[str]) -> Path:
    """A set in ADE20K's layout with these files in both splits."""
    for split in ("training", "validation"):
        make_tree(root, [f"images/{split}/{name}" for name in names])
        make_tree(root, [f"annotations/{split}/{name}" for name in maps])
    return root


def test_ade20k_takes_every_image_format_and_capitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.png", "b.JPG", "c.jpeg", "scan.v1.2.jpg", "._b.JPG", "notes.txt"]
    root = ade_folder(tmp_path / "set", names, ["a.png", "b.PNG", "c.png", "scan.v1.2.png", "._a.png", "x.mat"])
    (root / "images/training").rename(root / "images/Train")
    samples = samples_of(written(ade20k_sources(root), tmp_path / "out")["train"])
    assert sum("jpg" in members for members in samples.values()) == 3
    assert {"png", "seg.png"} < samples["a"].keys()
    assert samples["b"]["seg.png"] == (root / "annotations/training/b.PNG").read_bytes()
    assert sum(key.startswith("scan_v1_2-") for key in samples) == 1
    warnings = capsys.readouterr().err
    assert "left out 1 files that are of no use here by name, such as notes.txt" in warnings
    assert "such as x.mat" in warnings


@pytest.mark.parametrize(
    ("names", "maps", "message"),
    [
        (["a.jpg", "b.jpg"], ["a.png"], r"^1 images in .*training have no map of the same name, such as b\.jpg"),
        (["a.jpg"], ["a.png", "b.png", "c.png"], r"^2 maps in .* have no image of the same name, such as b\.png"),
        (["a.jpg", "b.jpg"], ["a.png", "c.png"], r"1 images .*b\.jpg; 1 maps .*c\.png"),
        (["a.jpg"], ["a.jpg"], r"1 images .* have no map .*maps are KEY\.png"),
        (["a.jpg", "a.png"], ["a.png"], r"has a\.jpg and a\.png, which would be one sample"),
        (["a.jpg"], ["a.png", "a.PNG"], r"has a\.PNG and a\.png, which would be one sample"),
        (["a.txt"], [".png"], r"no images in .*training"),
    ],
)
def test_ade20k_images_and_maps_go_together(tmp_path: Path, names: list[str], maps: list[str], message: str) -> None:
    root = ade_folder(tmp_path, names, maps)
    with pytest.raises(UserError, match=message):
        ade20k_sources(root)


def test_ade20k_folders_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ade_folder(tmp_path, ["a.jpg"], ["a.png"])
    (root / "objectInfo150.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read .*objectInfo150\.txt"):
        ade20k_sources(root)
    for content, message in (
        ("Idx\tName\n2\troad\n1\tsky\n", "must list its 2 classes in the order of Idx, from 1"),
        ("Idx\tName\n1\troad\n5\tsky\n", "in the order of Idx"),
    ):
        (root / "objectInfo150.txt").write_text(content)
        with pytest.raises(UserError, match=message):
            ade20k_sources(root)
    (root / "objectInfo150.txt").write_text("\ufeffName\nroad\nsky\n")
    assert ade20k_sources(root)[0].classes == ("road", "sky")
    (root / "objectInfo150.txt").write_text("Name\nVoid\nroad\n")
    with pytest.raises(UserError, match="first class is 'Void', which without a column Idx is the label 1"):
        ade20k_sources(root)
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\tother\n2\troad\n3\troad\n")
    assert ade20k_sources(root)[0].classes == ("other", "road", "road")
    assert "names 1 classes twice, such as road" in capsys.readouterr().err
    (root / "objectInfo11.txt").write_text("Name\nroad\n")
    with pytest.raises(UserError, match=r"has objectInfo11\.txt and objectInfo150\.txt; move one of them away"):
        ade20k_sources(root)
    (root / "objectInfo11.txt").unlink()
    (root / "objectInfo150.txt").unlink()
    shutil.rmtree(root / "annotations" / "validation")
    with pytest.raises(UserError, match=r"annotations has no folder validation"):
        ade20k_sources(root)


def test_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    keys = [f"2007_{number:06d}" for number in range(6)]
    _segmentation(base, "JPEGImages", "SegmentationClass", keys)
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, chosen in (("train", keys[:4]), ("val", keys[4:])):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(chosen) + "\n")
    manifests = written(voc_sources(tmp_path), tmp_path / "out")
    assert (manifests["train"].total, manifests["val"].total, manifests["val"].num_classes) == (4, 2, 21)
    assert set(samples_of(manifests["val"])) == set(keys[4:])
    (base / "SegmentationClass" / f"{keys[5]}.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 keys in .*val\.txt have no image .* or no map .*2007_000005"):
        voc_sources(tmp_path)
    for content, message in (
        (b"\xff\xfe", "is no list of keys"),
        (b"", "is empty"),
        (b"a\na\n", "names 1 keys twice"),
        (b"a  1\nb -1\n", "2 lines hold more than a key, such as 'a  1'; give one name without extension a line"),
    ):
        (base / "ImageSets" / "Segmentation" / "val.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            voc_sources(tmp_path)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text(f"\ufeff{keys[0]}\n")
    assert [len(source) for source in voc_sources(tmp_path)] == [4, 1]
    assert f"1 keys are in train.txt and in val.txt, such as {keys[0]}" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no ImageSets/Segmentation"):
        voc_sources(tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages")


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def test_csv_with_names_and_splits(tmp_path: Path) -> None:
    make_tree(tmp_path / "img", [f"{i}.png" for i in range(8)])
    rows = [[f"img/{i}.png", "cat" if i % 2 else "a dog", "train" if i < 5 else "validation"] for i in range(8)]
    table = write_csv(tmp_path / "t.csv", ["path", "label", "part"], rows)
    manifests = written(csv_sources(table, None, CsvColumns(split="part"), None), tmp_path / "out")
    assert (manifests["train"].total, manifests["val"].total) == (5, 3)
    assert manifests["train"].classes == manifests["val"].classes == ("a dog", "cat")
    for key, sample in samples_of(manifests["val"]).items():
        assert int(sample["cls"]) == int(key) % 2
        assert sample["png"] == image_of(int(key))


def test_a_validation_split_is_taken_out_of_a_table_that_has_none(tmp_path: Path) -> None:
    make_tree(tmp_path, [f"{i}.png" for i in range(8)])
    rows = [[f"{i}.png", "cat" if i % 2 else "dog"] for i in range(8)]
    table = write_csv(tmp_path / "t.csv", ["path", "label"], rows)
    manifests = written(csv_sources(table, None, CsvColumns(), None, Subset(2)), tmp_path / "out")
    train, val = (samples_of(manifests[split]) for split in ("train", "val"))
    assert sorted([*train, *val]) == [str(i) for i in range(8)]
    assert sorted(sample["cls"] for sample in val.values()) == [b"0", b"0", b"1", b"1"]
    table = write_csv(
        tmp_path / "t.csv", ["path", "label", "split"], [[*row, "val"] for row in rows] + [["9.png", "cat", "train"]]
    )
    with pytest.raises(UserError, match="has a validation split already"):
        csv_sources(table, None, CsvColumns(split="split"), None, Subset(2))


def test_csv_with_numbers(tmp_path: Path) -> None:
    make_tree(tmp_path / "img", ["a.jpg", "b.jpg"])
    table = write_csv(tmp_path / "t.tsv", ["file", "class"], [["a.jpg", "12"], ["b.jpg", "3"]])
    (source,) = csv_sources(table, tmp_path / "img", CsvColumns("file", "class"), "val")
    manifest = written([source], tmp_path / "out")["val"]
    assert manifest.classes is None
    assert {key: int(sample["cls"]) for key, sample in samples_of(manifest).items()} == {"a": 12, "b": 3}


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["file", "label"], [["a.jpg", "1"]], "no column 'path', only file, label"),
        (["path", "label"], [["a.jpg", "1"], ["a.jpg", ""]], "line 3: label is empty; fill it in, or take the row out"),
        (["path", "label"], [["a.jpg", "1"], ["b.jpg", "cat"]], "mixes numbers and names"),
        (["path", "label"], [["a.jpg", "-1"]], "negative"),
        (["path", "label"], [["a.jpg", "1.0"]], "fractional"),
        (["path", "label"], [["a.jpg", "1" * 5000]], r"too large .* such as 1{20}\.\.\."),
        (["path", "label"], [["a.jpg", "12345678"]], "too large"),
        (["path", "label"], [["a.jpg", "1"], ["a.jpg", "1"]], "names a.jpg twice"),
        (["path", "label"], [["gone.jpg", "1"]], r"cannot read .*gone\.jpg"),
        (["path", "label"], [["a.jpg", "1", "2"]], "line 2: 3 fields, but the header line has 2"),
        (["path", "label", "label"], [["a.jpg", "1", "2"]], "2 columns 'label'"),
        (["path", "label", "Split"], [["a.jpg", "1", "train"], ["b.jpg", "1", "eval"]], "not clear whether Split says"),
        (["path", "label", "set", "part"], [["a.jpg", "1", "val", "train"]], "not clear whether set or part says"),
        (["path", "label"], [["a.jpg", "1"], ["./a.jpg", "2"]], r"names \./a\.jpg twice, on lines 2 and 3"),
        (["path", "label", "set"], [["a.jpg", "1", "val"], ["a.jpg", "1", "train"]], "names a.jpg twice, on lines 2"),
        (["path", "label"], [], "lists no images: there is nothing below its header line"),
        (["path", "label"], [["gone.jpg", "1"]], r"gone\.jpg: No such file.*; paths are relative to .*--images"),
        (["a.jpg", "cat"], [["b.jpg", "dog"]], "has no column 'path', only a.jpg, cat; its first line must name"),
        (["path", "label"], [["a.jpg", "1e0"], ["b.jpg", "2"]], "fractional .* such as 1e0"),
        (["path", "label"], [["a.jpg", "\uff13"], ["b.jpg", "2"]], "too large to be class numbers, such as \uff13"),
        (["path", "label"], [["a.jpg", "7"], ["b.jpg", "007"]], "labels 007 and 7, which are the same number"),
        (["path", "label"], [["a.jpg", "[0, 3]"], ["b.jpg", "2"]], r"the label '\[0, 3\]' is a list of labels"),
        (["path", "label"], [["a.jpg", "['cat']"], ["b.jpg", "['cat', 'dog']"]], "is a list of labels"),
        (["path", "label"], [["a.jpg", "0;3"], ["b.jpg", "1;2"]], "the label '0;3' is a list of labels"),
        (
            ["path", "label"],
            [["C:\\pictures\\a.jpg", "cat"]],
            "line 2: .* is a path on a computer with Windows; .*--images",
        ),
    ],
)
def test_impossible_tables(tmp_path: Path, header: list[str], rows: list[list[str]], message: str) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match=message):
        csv_sources(write_csv(tmp_path / "t.csv", header, rows), None, CsvColumns(), "train")


def test_csv_with_a_split_column_that_nobody_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows = [["a.jpg", "cat", "train"], ["b.jpg", "dog", "Validation"], ["c.jpg", "cat", "test"]]
    table = write_csv(tmp_path / "t.csv", ["path", "label", "subset"], rows)
    sources = csv_sources(table, None, CsvColumns(), None)
    assert [(source.split, len(source)) for source in sources] == [("train", 1), ("val", 1)]
    assert "the column subset says to which split a row belongs" in capsys.readouterr().err
    (whole,) = csv_sources(table, None, CsvColumns(split=""), None)
    assert (whole.split, len(whole)) == ("train", 3)


@pytest.mark.parametrize(
    ("table", "paths", "split", "expected"),
    [
        ("t.csv", ["a.jpg"], None, {"train": 1}),
        ("val.csv", ["a.jpg"], None, {"val": 1}),
        ("my_Validation_2.csv", ["a.jpg"], None, {"val": 1}),
        ("val/t.csv", ["a.jpg"], None, {"val": 1}),
        ("test/t.csv", ["a.jpg"], "train", {"train": 1}),
        ("test.csv", ["a.jpg"], SplitChoice("test", "val"), {"val": 1}),
        ("train_test.csv", ["a.jpg"], "train", {"train": 1}),
        ("t.csv", ["train/a.jpg", "Val/b.jpg", "training/c.jpg"], None, {"train": 2, "val": 1}),
        ("train.csv", ["train/a.jpg", "val/b.jpg"], None, {"train": 1, "val": 1}),
        ("t.csv", ["train/a.jpg", "val/b.jpg"], "val", {"val": 1}),
        ("t.csv", ["images/val/cat/a.jpg", "images/val/cat/b.jpg"], None, {"val": 2}),
        ("t.csv", ["val/train/a.jpg", "val/car/b.jpg"], None, {"val": 2}),
        ("t.csv", ["train/a.jpg", "car/b.jpg"], None, {"train": 2}),  # a class called train
        ("t.csv", ["train\\a.jpg", "val\\b.jpg"], None, {"train": 1, "val": 1}),
    ],
)
def test_tables_without_a_split_column_say_the_split_by_path_or_name(
    tmp_path: Path, table: str, paths: list[str], split: str | SplitChoice | None, expected: dict[str, int]
) -> None:
    file = tmp_path / "some" / table
    make_tree(file.parent, [path.replace("\\", "/") for path in paths])
    write_csv(file, ["path", "label"], [[path, "cat"] for path in paths])
    assert {source.split: len(source) for source in csv_sources(file, None, CsvColumns(), split)} == expected


@pytest.mark.parametrize(
    ("table", "paths", "split", "message"),
    [
        ("test.csv", ["a.jpg"], None, "has only a test split; say what to make of it, with --split test=val"),
        ("test/t.csv", ["a.jpg"], None, "test is a test split by name; .*--split test=val"),
        ("train_test.csv", ["a.jpg"], None, "could be of two splits by name; rename it, or say with --split"),
        ("val.csv", ["a.jpg"], "train", "has no train split, only val; choose one by --split val=train"),
        ("train.csv", ["val/a.jpg"], None, "is of the split train by its name, but its rows are of val; rename it"),
        (
            "t.csv",
            ["train/a.jpg", "val/b.jpg", "c.jpg"],
            None,
            r"\(1 in train, 1 in val\) and others in none, such as c.jpg;",
        ),
        ("t.csv", ["images/a.jpg", "val/b.jpg"], None, "1 in val"),
    ],
)
def test_tables_whose_splits_are_not_clear(
    tmp_path: Path, table: str, paths: list[str], split: str | None, message: str
) -> None:
    file = tmp_path / "some" / table
    make_tree(file.parent, paths)
    write_csv(file, ["path", "label"], [[path, "cat"] for path in paths])
    with pytest.raises(UserError, match=message):
        csv_sources(file, None, CsvColumns(), split)
    if len(paths) > 1:
        (source,) = csv_sources(file, None, CsvColumns(split=""), split)
        assert len(source) == len(paths)


def test_split_columns_of_other_words_become_splits_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows = [["a.jpg", "dog", "0"], ["b.jpg", "cat", "1"], ["c.jpg", "eel", "0"]]
    table = write_csv(tmp_path / "t.csv", ["path", "label", "partition"], rows)
    (source,) = csv_sources(table, None, CsvColumns(), None)
    assert len(source) == 3
    assert "is not used; " in (said := capsys.readouterr().err)
    assert "make one split a command by --split-column partition --split VALUE=val" in said
    with pytest.raises(UserError, match="by a command of its own: --split-column partition --split 0=train, or 0=val"):
        csv_sources(table, None, CsvColumns(split="partition"), None)
    for choice, keys in (("0=train", ["a", "c"]), ("1=val", ["b"])):
        (source,) = csv_sources(table, None, CsvColumns(split="partition"), parse_split_choice(choice))
        assert sorted(source.sample(number)[0] for number in range(len(source))) == keys
        assert source.classes == ("cat", "dog", "eel"), "of the whole table"


def test_columns_of_classes_are_one_label(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    header, rows = ["path", "set", "cat", "dog"], [["a.jpg", "train", "0.0", "1.0"], ["b.jpg", "val", "1", "0"]]
    table = write_csv(tmp_path / "t.csv", header, rows)
    with pytest.raises(UserError, match="if a 1 says of which class a row is, give --label-column cat,dog"):
        csv_sources(table, None, CsvColumns(), None)
    train, val = csv_sources(table, None, CsvColumns(label="cat,dog"), None)
    assert (train.classes, train.sample(0)[1]["cls"], val.sample(0)[1]["cls"]) == (("cat", "dog"), b"1", b"0")
    for wrong in (["1", "1"], ["0", "0"], ["1", "2"]):
        write_csv(table, header, [rows[0], ["b.jpg", "val", *wrong]])
        with pytest.raises(UserError, match=r"line 3: . of the columns cat, dog hold a 1, expected one"):
            csv_sources(table, None, CsvColumns(label="cat,dog"), None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", gzip.compress(b"path,label\na.jpg,7\n", mtime=0)),
        ("t.jsonl.gz", gzip.compress(b'{"path": "a.jpg", "label": 7}\n', mtime=0)),
        ("t.json", b'[{"path": "a.jpg", "label": 7}]'),
        ("t.json", b'{"path": "a.jpg", "label": 7}\n{"path": "b.jpg", "label": 7}'),
    ],
)
def test_compressed_tables_and_lists_of_json_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / name).write_bytes(content)
    (source,) = csv_sources(tmp_path / name, None, CsvColumns(), None)
    assert source.sample(0)[0] == "a"
    assert source.sample(0)[1]["cls"] == b"7"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"path label\na.jpg 0\n", "has blanks between its columns; write commas .* `make_shards.py lists`"),
        ("t.xlsx", b"PK\x03\x04...", "is a workbook or a zip archive"),
        ("t.parquet", b"PAR1...", "is a Parquet file; `make_shards.py parquet` reads it"),
        ("t.csv.gz", gzip.compress(b"path,label\n", mtime=0)[:-9], "cannot read"),
        ("t.json", b'{"images": []}', "a table of JSON is a list of objects, one for each image"),
        ("t.json", b'[{"path": "a.jpg", "label": 1, "label": 2}]', "'label' is there twice"),
        ("t.jsonl", b'{"path": "a.jpg", "label": 1, "label": 2}', "line 1: 'label' is there twice"),
    ],
)
def test_files_that_are_no_tables_are_called_what_they_are(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        csv_sources(tmp_path / name, None, CsvColumns(), None)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_one_file_under_two_labels_through_a_link(
    tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    other = tmp_path / "c.jpg"
    other.symlink_to("a.jpg") if link == "symbolic" else other.hardlink_to(tmp_path / "a.jpg")
    rows = [["a.jpg", "cat"], ["b.jpg", "dog"], ["c.jpg", "dog"]]
    table = write_csv(tmp_path / "t.csv", ["path", "label"], rows)
    with pytest.raises(
        UserError, match=r"line 4: c\.jpg is the same file as a\.jpg, .* the label dog here and cat there"
    ):
        csv_sources(table, None, CsvColumns(), None)
    rows[2][1] = "cat"
    (source,) = csv_sources(write_csv(table, ["path", "label"], rows), None, CsvColumns(), None)
    assert len(source) == 3
    assert "c.jpg and a.jpg are one file" in capsys.readouterr().err


def test_labels_that_are_lists_of_labels_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    for joint in (";", "|", ", ", " ", " & ", "+", "/"):
        rows = [["a.jpg", f"cat{joint}dog"], ["b.jpg", "dog"], ["c.jpg", "cat"]]
        table = write_csv(tmp_path / "t.csv", ["path", "label"], rows)
        with pytest.raises(UserError, match=r"the label .* is a list of labels, and an image has one class here"):
            csv_sources(table, None, CsvColumns(), None)
        write_csv(table, ["path", "label"], rows[:2])
        names, declared = (f"cat{joint}dog", "dog"), tmp_path / "classes.json"
        if joint in (";", "|", ", "):
            with pytest.raises(UserError, match=r"may be a list of labels.*name all classes in .*classes\.json"):
                csv_sources(table, None, CsvColumns(), None)
            declared.write_text(json.dumps(names))
        (source,) = csv_sources(table, None, CsvColumns(), None)
        assert source.classes == names, "a word like any other"
        declared.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.TSV", "t.txt"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path: Path, name: str, separator: str) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    lines = [["note, long; odd", "path", "label"], ["x", "a.jpg", "cat"], ["y", "b.jpg", "dog"]]
    for first in ("", f"sep={separator}\r\n"):  # as Excel says it
        with (tmp_path / name).open("w", newline="") as file:
            file.write(first)
            csv.writer(file, delimiter=separator).writerows(lines)
        (source,) = csv_sources(tmp_path / name, None, CsvColumns(), None)
        assert (source.classes, len(source)) == (("cat", "dog"), 2)


def test_csv_that_is_another_encoding_or_one_column_for_two(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a.jpg"])
    table = tmp_path / "t.csv"
    for encoding, message in (("utf-16", "not UTF-8"), ("utf-16-le", "zero bytes, as UTF-16 does; save it as UTF-8")):
        table.write_bytes("path,label\na.jpg,cat\n".encode(encoding))
        with pytest.raises(UserError, match=message):
            csv_sources(table, None, CsvColumns(), None)
    table.write_text("path,label\na.jpg,cat\n")
    with pytest.raises(UserError, match="columns of image, label and split must be different ones, not path, path"):
        csv_sources(table, None, CsvColumns(label="path"), None)


@pytest.mark.parametrize(("column", "values"), [("phase", ["train", "dev"]), ("is_valid", ["False", "True"])])
def test_a_column_that_may_name_splits_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, values: list[str]
) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    rows = [["a.jpg", "cat", values[0]], ["b.jpg", "dog", values[1]]]
    (source,) = csv_sources(write_csv(tmp_path / "t.csv", ["path", "label", column], rows), None, CsvColumns(), None)
    assert len(source) == 2
    assert f"the column {column} may say to which split a row belongs, and is not used" in capsys.readouterr().err


def test_numbers_get_their_names_from_classes_json(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    table = write_csv(tmp_path / "t.csv", ["path", "label"], [["a.jpg", "0"], ["b.jpg", "1"]])
    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog"]))
    (source,) = csv_sources(table, None, CsvColumns(), None)
    assert (source.classes, [source.sample(number)[1]["cls"] for number in (0, 1)]) == (("cat", "dog"), [b"0", b"1"])
    for content, message in (
        ({"1": 0, "2": 1}, "gives the word '1' the label 0, so that it is not clear which of them a label 1 is"),
        (["cat"], "has the label 1, but .*classes.json names the 1 classes 0 to 0"),
    ):
        (tmp_path / "classes.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            csv_sources(table, None, CsvColumns(), None)


def test_csv_written_by_hand(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a.jpg", "b.jpg"])
    table = tmp_path / "t.csv"
    table.write_text("path, label\n\na.jpg, caf\u00e9\nb.jpg,cafe\u0301 \n")  # one class, composed and decomposed
    (source,) = csv_sources(table, None, CsvColumns(), None)
    assert (source.classes, len(source)) == (("caf\u00e9",), 2)
    table.write_text('path,label\na.jpg,"cat\nb.jpg,dog\n')
    with pytest.raises(UserError, match=r"cannot read .*t\.csv: unexpected end of data"):
        csv_sources(table, None, CsvColumns(), None)
    table.write_text("path,label\n\na.jpg,cat\ntext.txt,dog\n")
    with pytest.raises(UserError, match=r"line 4: 'text\.txt' is no image by name"):
        csv_sources(table, None, CsvColumns(), None)


def test_tables_of_json_lines_as_beside_image_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "train", ["cat/a.jpg", "cat/b.jpg", "dog/c.jpg"])
    table, columns = tree / "metadata.jsonl", CsvColumns("file_name")
    rows = [{"file_name": "cat/a.jpg", "label": "owl"}, {"boxes": [[1, 2]], "label": "elk", "file_name": "dog/c.jpg"}]
    table.write_text("\r\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")
    (source,) = csv_sources(table, None, columns, None)
    assert (source.split, source.classes, len(source)) == ("train", ("elk", "owl"), 2)
    imagefolder_sources(tree, None)
    assert (
        "metadata.jsonl is not used, as folders say what the classes are; `make_shards.py csv"
        in capsys.readouterr().err
    )
    for content, message in (
        ('{"file_name": "a.jpg", "label": null}', "line 1: label is empty; fill it in"),
        ('{"file_name": "a.jpg", "label": ["cat", "dog"]}', "is a list of labels"),
        (
            '{"file_name": "a.jpg", "label": "cat"',
            "line 1: Expecting ',' delimiter.*; each line must be an object of JSON",
        ),
        ('["a.jpg", "cat"]', r'line 1: \["a.jpg", "cat"\] is no object of JSON'),
        ("", "has no column 'file_name'"),
    ):
        table.write_text(content)
        with pytest.raises(UserError, match=message):
            csv_sources(table, None, columns, None)


def write_parquet(path: Path, images: list, labels: list, names: list[str] | None = None) -> Path:
    """A file as the ``datasets`` library writes it: row groups of 4, class names in the metadata."""
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (pip install 'sar_dist[parquet]')")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {str: arrow.string(), bool: arrow.bool_(), float: arrow.float64()}
    kind = kinds.get(type(labels[0]), arrow.int64())
    structure = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema([("image", structure), ("label", kind), ("more", arrow.string())])
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        schema = schema.with_metadata({"huggingface": json.dumps(features)})
    rows = [{"image": i, "label": label, "more": "x"} for i, label in zip(images, labels, strict=True)]
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path, row_group_size=4)
    return path


def _parquet_images(first: int, count: int) -> list[dict]:
    return [{"bytes": image_of(number), "path": f"{number}.png"} for number in range(first, first + count)]


def test_parquet(tmp_path: Path) -> None:
    data = tmp_path / "set" / "data"
    for part in range(2):
        labels = [number % 3 for number in range(10 * part, 10 * part + 10)]
        write_parquet(
            data / f"train-0000{part}-of-00002.parquet", _parquet_images(10 * part, 10), labels, ["a", "b", "c"]
        )
    write_parquet(data / "validation-00000-of-00001.parquet", _parquet_images(20, 3), [2, 0, 1], ["a", "b", "c"])
    manifests = written(list(parquet_sources(tmp_path / "set", "image", "label", None)), tmp_path / "out", 6)
    assert (manifests["train"].total, manifests["val"].total, manifests["train"].classes) == (20, 3, ("a", "b", "c"))
    samples = samples_of(manifests["train"])
    assert list(samples) != sorted(samples)
    for key, sample in samples.items():
        number = int(key.removeprefix("train-"))
        assert (sample["png"], int(sample["cls"])) == (image_of(number), number % 3)
    (only,) = parquet_sources(tmp_path / "set", "image", "label", "val")
    assert (only.split, len(only)) == ("val", 3)
    (alone,) = parquet_sources(data / "train-00000-of-00002.parquet", "image", "label", None)
    assert (alone.split, len(alone)) == ("train", 10)


def test_words_are_numbered_once_for_all_tables(tmp_path: Path) -> None:
    """A second table that has other words is numbered by the classes.json that the first one's shards came with."""
    make_tree(tmp_path / "a", ["1.png", "2.png", "3.png"])
    table = write_csv(
        tmp_path / "a" / "t.csv", ["path", "label"], [["1.png", "dog"], ["2.png", "cat"], ["3.png", "eel"]]
    )
    manifest = written(csv_sources(table, None, CsvColumns(), "train"), tmp_path / "first")["train"]
    assert manifest.classes == ("cat", "dog", "eel")
    make_tree(tmp_path / "b", ["4.png", "5.png"])
    second = write_csv(tmp_path / "b" / "t.csv", ["path", "label"], [["4.png", "eel"], ["5.png", "dog"]])
    shutil.copy(Path(manifest.root) / "classes.json", tmp_path / "b")
    other = written(csv_sources(second, None, CsvColumns(), "val"), tmp_path / "second")["val"]
    assert other.classes == manifest.classes
    assert {key: int(sample["cls"]) for key, sample in samples_of(other).items()} == {"4": 2, "5": 1}
    for content in (["cat", "dog", "eel"], {"dog": 1, "cat": 0, "eel": 2}):
        (tmp_path / "b" / "classes.json").write_text(json.dumps(content))
        (source,) = csv_sources(second, None, CsvColumns(), "val")
        assert (source.classes, source.sample(0)[1]["cls"]) == (("cat", "dog", "eel"), b"2")
    for content in (
        ["cat", "cat", "dog"],
        ["cat", 3, "eel"],
        {"dog": 1, "eel": True},
        {"dog": 1, "eel": 1},
        3,
        [["a"]],
    ):
        (tmp_path / "b" / "classes.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"classes\.json"):
            csv_sources(second, None, CsvColumns(), "val")


def parquet_rows(path: Path, **columns: list) -> Path:
    """A file with as many rows as the columns have entries, labelled 0, 1, 0, 1 ... unless they say otherwise."""
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (pip install 'sar_dist[parquet]')")
    from pyarrow import parquet

    count = len(next(iter(columns.values())))
    images = [image["bytes"] for image in _parquet_images(0, count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = arrow.table({"image": images, "label": [number % 2 for number in range(count)]} | columns)
    parquet.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    ("column", "values", "split", "given", "expected"),
    [
        ("Split", ["train", "train"], None, None, {"train": [0, 1]}),
        ("Split", ["test", "test"], "test=val", None, {"val": [0, 1]}),
        ("Split", ["val", "train", "test", "Valid", "train"], None, None, {"train": [1, 4], "val": [0, 3]}),
        ("part_of", ["val", "train", "val", "val", "train"], "train", None, {"train": [1, 4]}),
        ("Split", ["test", "train", "test", "train", "train"], "test=val", None, {"val": [0, 2]}),
        ("fold", [0, 1, 0, 2, 0], "0=val", "fold", {"val": [0, 2, 4]}),
        ("is_valid", [True, False, True], "False=train", "is_valid", {"train": [1]}),
        ("Split", ["cats", "dogs"], None, "", {"train": [0, 1]}),
        ("Split", ["train", "val"], None, "", {"train": [0, 1]}),
    ],
)
def test_parquet_rows_are_of_the_split_that_a_column_says(
    tmp_path: Path, column: str, values: list, split: str | None, given: str | None, expected: dict[str, list[int]]
) -> None:
    file = parquet_rows(tmp_path / "all.parquet", **{column: values})
    made = parquet_sources(file, "image", "label", split and parse_split_choice(split), given)
    assert [source.split for source in made] == [*expected]
    for source in made:
        rows = expected[source.split]
        samples = [source.sample(number)[1] for number in range(len(source))]
        assert [sample["png"] for sample in samples] == [_parquet_images(row, 1)[0]["bytes"] for row in rows]
        assert [int(sample["cls"]) for sample in samples] == [row % 2 for row in rows]
        assert sorted(source.order(0).tolist()) == [*range(len(rows))]
        assert source.size() <= file.stat().st_size


def test_parquet_rows_of_other_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = parquet_rows(tmp_path / "all.parquet", split=["test", "train", "val", "train"], label=[-1, 0, 1, 2])
    parquet_sources(file, "image", "label", None)
    assert "the test split (1 rows) is not used; --split test=val" in capsys.readouterr().err
    parquet_sources(file, "image", "label", "val")
    said = capsys.readouterr().err
    assert "left out 3 rows of other splits (1 of test, 2 of train)" in said
    assert "the column split says to which split a row belongs" in said
    with pytest.raises(UserError, match="label -1, not a class number"):
        parquet_sources(file, "image", "label", SplitChoice("test", "val"))
    write_csv(tmp_path / "t.csv", ["path", "label", "split"], [["a.png", "0", "train"], ["b.png", "1", "test"]])
    make_tree(tmp_path, ["a.png", "b.png"])
    csv_sources(tmp_path / "t.csv", None, CsvColumns(), "train")
    assert "left out 1 rows of other splits (1 of test)" in capsys.readouterr().err


def test_parquet_words_are_numbered_by_the_training_rows_of_a_file(tmp_path: Path) -> None:
    split = ["train", "val", "train", "val"]
    file = parquet_rows(tmp_path / "all.parquet", split=split, label=["dog", "dog", "cat", "cat"])
    (val,) = parquet_sources(file, "image", "label", "val")
    assert (val.classes, [val.sample(number)[1]["cls"] for number in (0, 1)]) == (("cat", "dog"), [b"1", b"0"])
    digest = val.digest()
    parquet_rows(file, split=["train", "val", "val", "train"], label=["dog", "dog", "cat", "cat"])
    assert parquet_sources(file, "image", "label", "val")[0].digest() != digest, "other rows are another source"
    parquet_rows(file, split=split, label=["dog", "eel", "cat", "cat"])
    with pytest.raises(UserError, match="the label 'eel', which is not among the 2 classes of the training"):
        parquet_sources(file, "image", "label", "val")


@pytest.mark.parametrize(
    ("files", "split", "refused"),
    [
        (
            {"all": ["train", "eval"]},
            None,
            "not clear whether split says to which split a row belongs; name the column",
        ),
        ({"all": ["cats", "dogs"]}, None, r"not clear whether split .*or give --split-column \"\" if there is none"),
        ({"all": ["train", "train"]}, "val", "has no val split, only train; choose one by --split train=val"),
        ({"all": ["train", None]}, None, "not clear whether split says"),
        ({"train": ["val", "val"]}, None, "of the split train by its name, but its rows are of val"),
        (
            {"train": ["train", "val"], "val": ["val", "val"]},
            None,
            r"train.parquet: its column split says .* of the split val, but .*--split-column split, or --split-column \"\"",
        ),
    ],
)
def test_parquet_columns_that_contradict_are_refused(
    tmp_path: Path, files: dict[str, list], split: Split | None, refused: str
) -> None:
    for name, values in files.items():
        parquet_rows(tmp_path / f"{name}.parquet", split=values)
    with pytest.raises(UserError, match=refused):
        parquet_sources(tmp_path, "image", "label", split)


def test_parquet_split_columns_over_several_files(tmp_path: Path) -> None:
    parquet_rows(tmp_path / "a.parquet", split=["train", "train"], note=["train", "val"])
    parquet_rows(tmp_path / "b.parquet", split=["val", "train"], note=["a cat", "a dog"])
    train, val = parquet_sources(tmp_path, "image", "label", None)
    assert (len(train), len(val), val.sample(0)[1]["cls"]) == (3, 1, b"0")
    assert val.description() == {"kind": "parquet", "files": ["b.parquet"]}
    assert {split: manifest.total for split, manifest in written([train, val], tmp_path / "out").items()} == {
        "train": 3,
        "val": 1,
    }
    parquet_rows(tmp_path / "c.parquet", label=[0, 1])
    with pytest.raises(UserError, match=r"c.parquet has no column 'split', only image, label"):
        parquet_sources(tmp_path, "image", "label", None)
    parquet_rows(tmp_path / "c.parquet", split=["train", None])
    with pytest.raises(UserError, match=r"c.parquet: 1 of its 2 rows have no split in split"):
        parquet_sources(tmp_path, "image", "label", "train", "split")


def test_parquet_columns_of_any_name_may_be_about_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for column, values, said in (
        ("partition", [0, 1], "the column partition may say to which split a row belongs, and is not used"),
        ("is_train", [True, False], "the column is_train may say"),
        ("caption", ["a train", "valid"], ""),
    ):
        parquet_sources(parquet_rows(tmp_path / "all.parquet", **{column: values}), "image", "label", None)
        err = capsys.readouterr().err
        assert said in err
        assert bool(said) == bool(err)


def test_parquet_with_words(tmp_path: Path) -> None:
    labels = ["dog", "cat", "eel", "cat", "dog"]
    write_parquet(tmp_path / "set" / "train-0.parquet", _parquet_images(0, 5), labels)
    write_parquet(tmp_path / "set" / "val-0.parquet", _parquet_images(5, 2), ["eel", "dog"])
    manifests = written(list(parquet_sources(tmp_path / "set", "image", "label", None)), tmp_path / "out")
    for split, words in (("train", labels), ("val", ["eel", "dog"])):
        assert manifests[split].classes == ("cat", "dog", "eel")
        samples = samples_of(manifests[split])
        assert [("cat", "dog", "eel")[int(samples[key]["cls"])] for key in sorted(samples)] == words
        assert list(json.loads((Path(manifests[split].root) / "classes.json").read_text())) == ["cat", "dog", "eel"]
    (only,) = parquet_sources(tmp_path / "set", "image", "label", "val")
    assert only.sample(0)[1]["cls"] == b"2", "numbered by the training files"
    write_parquet(tmp_path / "set" / "val-0.parquet", _parquet_images(5, 1), ["fox"])
    with pytest.raises(UserError, match=r"val-0.parquet has the label 'fox', which is not among the 3 classes"):
        parquet_sources(tmp_path / "set", "image", "label", "val")
    (tmp_path / "set" / "classes.json").write_text(json.dumps(["fox", "eel", "dog", "cat"]))
    (only,) = parquet_sources(tmp_path / "set", "image", "label", "val")
    assert (only.sample(0)[1]["cls"], only.classes) == (b"0", ("fox", "eel", "dog", "cat"))


def test_sources_that_changed_at_the_same_size_are_other_sources(tmp_path: Path) -> None:
    images, options = _parquet_images(0, 4), WritingOptions(processes=1)
    file = write_parquet(tmp_path / "set" / "a.parquet", images, [0, 1, 0, 1], ["cat", "dog"])
    write_splits(parquet_sources(file, "image", "label", None), tmp_path / "out", options)
    before = parquet_sources(file, "image", "label", None)[0].digest()
    for labels, names in (([1, 0, 0, 1], ["cat", "dog"]), ([0, 1, 0, 1], ["cow", "dog"])):
        write_parquet(file, images, labels, names)
        (source,) = parquet_sources(file, "image", "label", None)
        assert (source.digest() == before) is (names[0] == "cow")
        with pytest.raises(UserError, match="holds finished shards already, of another source, other labels"):
            write_splits([source], tmp_path / "out", options)
    write_parquet(file, [images[place] for place in (0, 2, 1, 3)], [0, 1, 0, 1], ["cat", "dog"])
    with pytest.raises(UserError, match="holds another sample train-0000000"):
        write_splits(parquet_sources(file, "image", "label", None), tmp_path / "out", options)
    tree = make_tree(tmp_path / "tree", ["cat/a.png", "cat/b.png", "dog/c.png"])
    write_splits(imagefolder_sources(tree, None), tmp_path / "folders", options)
    shutil.copytree(tree, tmp_path / "copy" / "tree", copy_function=shutil.copyfile)  # another time does not matter
    write_splits(imagefolder_sources(tmp_path / "copy" / "tree", None), tmp_path / "folders", options)
    for name, number in (("cat/b.png", 2), ("dog/c.png", 1)):
        (tree / name).write_bytes(image_of(number))
    with pytest.raises(UserError, match=r"holds another sample [bc] than would be made now"):
        write_splits(imagefolder_sources(tree, None), tmp_path / "folders", options)


def test_parquet_with_numbers_in_words(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", _parquet_images(0, 2), ["10", "2"])
    (source,) = parquet_sources(path, "image", "label", None)
    assert (source.classes, [source.sample(number)[1]["cls"] for number in (0, 1)]) == (None, [b"10", b"2"])
    write_parquet(path, _parquet_images(0, 2), ["10", "cat"])
    with pytest.raises(UserError, match="mixes numbers and names as labels, such as 10 and cat"):
        parquet_sources(path, "image", "label", None)


def write_tars(folder: Path, labels: list[object], split: str = "", first: int = 0) -> Path:
    """Tars of img2dataset, three samples each, that use the same keys; labels are in json."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(0, len(labels), 3):
        members = []
        for place, label in enumerate(labels[shard : shard + 3]):
            key = f"a/{place:04d}"
            members += [
                (f"{key}.JPG", image_of(first + shard + place)),
                (f"{key}.json", json.dumps({"label": label}).encode()),
                (f"{key}.txt", b"a caption"),
            ]
        (folder / f"{split}{shard // 3:05d}.tar").write_bytes(tar_bytes(members))
    return folder


def test_tars_are_written_anew_with_labels_as_numbers(tmp_path: Path) -> None:
    labels = ["dog", "cat", "dog", "eel", "cat", "eel", "dog"]
    write_tars(tmp_path / "src", labels, "train-")
    write_tars(tmp_path / "src", ["eel"], "val-", first=100)
    (tmp_path / "src" / "classes.json").write_text(json.dumps(["cat", "dog", "eel"]))
    manifests = written(list(tar_sources(tmp_path / "src", "json.label", None)), tmp_path / "out")
    assert (manifests["train"].total, manifests["val"].total) == (7, 1)
    assert manifests["train"].classes == manifests["val"].classes == ("cat", "dog", "eel")
    samples = samples_of(manifests["train"])
    assert list(samples) != sorted(samples), "shuffled"
    for key, sample in samples.items():
        number = int(key.partition("-")[0])
        assert sample["jpg"] == image_of(number)
        assert ("cat", "dog", "eel")[int(sample["cls"])] == labels[number]
        assert (json.loads(sample["json"])["label"], sample["txt"]) == (labels[number], b"a caption")
    (again,) = tar_sources(Path(manifests["train"].root), "cls", None)
    assert (again.split, again.classes, len(again)) == ("train", ("cat", "dog", "eel"), 7)
    with pytest.raises(UserError, match="has no val split, only train"):
        tar_sources(Path(manifests["train"].root), "cls", "val")


def test_files_that_name_no_split_are_of_the_split_that_their_folder_is_called(tmp_path: Path) -> None:
    write_parquet(tmp_path / "parquet" / "Validation" / "0.parquet", _parquet_images(0, 2), [0, 1])
    write_tars(tmp_path / "tars" / "Validation", [0, 1])
    made = [
        parquet_sources(tmp_path / "parquet" / "Validation", "image", "label", None),
        tar_sources(tmp_path / "tars" / "Validation", "json.label", None),
    ]
    assert [source.split for sources in made for source in sources] == ["val", "val"]
    for kind in ("parquet", "tars"):
        (tmp_path / kind / "Validation").rename(tmp_path / kind / "test")
    for make in (
        lambda split: parquet_sources(tmp_path / "parquet" / "test", "image", "label", split),
        lambda split: tar_sources(tmp_path / "tars" / "test", "json.label", split),
    ):
        with pytest.raises(
            UserError, match="is a test split by name; say which split to make of it, with --split test=val"
        ):
            make(None)
        assert [source.split for source in make(SplitChoice("test", "val"))] == ["val"]


def test_tars_with_samples_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tars(tmp_path / "src", [0, "dog", 1, None, 2])
    message = r"2 of the 5 train samples .* a label in json\.label, the first is sample 1 of 00000\.tar, with label .dog.; .*--leave-out-bad"
    with pytest.raises(UserError, match=message):
        tar_sources(folder, "json.label", None)
    with pytest.raises(UserError, match="5 of the 5 train samples"):
        tar_sources(folder, "json.class", None)
    capsys.readouterr()
    manifest = written(tar_sources(folder, "json.label", None, leave_out_bad=True), tmp_path / "out")["train"]
    assert "2 of the 5 train samples" in capsys.readouterr().err
    assert sorted(int(sample["cls"]) for sample in samples_of(manifest).values()) == [0, 1, 2]
    (folder / "classes.json").write_text(json.dumps(["cat", "bird"]))
    with pytest.raises(UserError, match=r"3 of the 5 train samples .* a label in 0\.\.1 in json\.label"):
        tar_sources(folder, "json.label", None)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.tar").write_bytes((folder / "00000.tar").read_bytes()[:-9000])
    with pytest.raises(UserError, match=r"a\.tar"):
        tar_sources(tmp_path / "broken", "json.label", None)


def test_tars_without_labels_and_other_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tars(tmp_path / "src", [0, 1, 2, 3])
    (source,) = tar_sources(folder, "cls", "val")
    assert (source.split, sorted(source.sample(0)[1])) == ("val", ["jpg", "json", "txt"])
    assert "the samples have no labels" in capsys.readouterr().err
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "x.tar").write_bytes(tar_bytes([("1.jpg", image_of(1)), ("1.cls", b"cat")]))
    with pytest.raises(
        UserError, match=r"1 of the 1 train samples .* a label in cls, .* words mean in a classes\.json"
    ):
        tar_sources(tmp_path / "words", "cls", None)
    for first in (0, 5):  # whichever sample lacks its label
        members = [(f"{key}.cls", b"cat") for key in range(3) if key != min(first, 2)]
        members += [(f"{key}.jpg", image_of(key)) for key in range(3)]
        (tmp_path / "words" / "x.tar").write_bytes(tar_bytes(sorted(members)))
        with pytest.raises(UserError, match=r"3 of the 3 train samples .* a label in cls"):
            tar_sources(tmp_path / "words", "cls", None)


@pytest.mark.parametrize("place", ["Eval/0", "eval-0", "My_Eval/0", "info"])
def test_tars_of_a_split_of_another_name(tmp_path: Path, place: str) -> None:
    for name, label in ((place, 1), ("train/0" if "/" in place else "train-0", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes([("a.jpg", image_of(label)), ("a.cls", b"%d" % label)]))
    if place == "info":
        one = {"shard_lengths": [1], "num_samples": 1}
        splits = {"Eval": {"filenames": ["info.tar"]} | one, "train": {"filenames": ["train-0.tar"]} | one}
        (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    choice = parse_split_choice("my_eval=val" if "My" in place else "Eval=val")
    (source,) = tar_sources(tmp_path, "cls", choice)
    assert (source.split, len(source), source.sample(0)[1]["cls"]) == ("val", 1, b"1")
    with pytest.raises(UserError, match=r"no gone s|eval-0\.tar in .* name no split"):
        tar_sources(tmp_path, "cls", SplitChoice("gone", "val"))


def test_a_split_of_which_nothing_tells_is_refused_by_its_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "a.parquet", _parquet_images(0, 2), [0, 1])
    write_tars(tmp_path / "data", [0, 1])
    make_tree(tmp_path / "data", ["a.png"])
    table = write_csv(tmp_path / "data" / "t.csv", ["path", "label"], [["a.png", 0]])
    for make in (
        lambda choice: parquet_sources(tmp_path / "data", "image", "label", choice),
        lambda choice: tar_sources(tmp_path / "data", "json.label", choice),
        lambda choice: csv_sources(table, None, CsvColumns(), choice),
    ):
        with pytest.raises(UserError, match=r"data has no eval split: .*; --split val makes that of all of it"):
            make(parse_split_choice("eval=val"))
        assert [source.split for choice in ("val", "Data=val") for source in make(parse_split_choice(choice))] == [
            "val",
            "val",
        ]


@pytest.mark.parametrize(("test", "train"), [("test-", "train-"), ("test/", "train/")])
def test_a_test_split_of_tars_is_made_on_request_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], test: str, train: str
) -> None:
    def write(prefix: str, labels: list) -> None:
        *folder, name = prefix.split("/")
        write_tars(tmp_path.joinpath(*folder), labels, name)

    write(test, [0, 1])
    with pytest.raises(UserError, match="has only a test split; say what to make of it, with --split test=val"):
        tar_sources(tmp_path, "json.label", None)
    write(train, [2])
    (made,) = tar_sources(tmp_path, "json.label", SplitChoice("test", "val"))
    assert (made.split, len(made), capsys.readouterr().err) == ("val", 2, "")
    (made,) = tar_sources(tmp_path, "json.label", None)
    assert (made.split, len(made)) == ("train", 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the test split is not used; --split test=val makes validation shards of it")


def test_splits_of_tars_have_one_numbering(tmp_path: Path) -> None:
    for split, words in (("train", ["cat", "dog"]), ("val", ["dog", "cat"])):
        write_tars(tmp_path / split, ["cat", "dog"])
        (tmp_path / split / "classes.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match=r"train and \S+val number or name their classes differently"):
        tar_sources(tmp_path, "json.label", None)
    (tmp_path / "val" / "classes.json").unlink()
    (tmp_path / "train" / "classes.json").rename(tmp_path / "classes.json")
    made = tar_sources(tmp_path, "json.label", None)
    assert [(source.split, source.classes) for source in made] == [("train", ("cat", "dog")), ("val", ("cat", "dog"))]
    assert load_manifest(tmp_path, "val", "json.label").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (_parquet_images(0, 1), [True], "column label is of the type bool, expected whole numbers or words"),
        (_parquet_images(0, 1), [1.5], "column label is of the type double"),
        (_parquet_images(0, 1), [10**12], "label 1000000000000"),
        (_parquet_images(0, 2), ["cat", None], "1 of its 2 rows have no label"),
        (
            [{"bytes": b"", "path": "a"}],
            [0],
            r"row 0 of the train split, in \S+a.parquet, holds an image of 0 bytes; take such",
        ),
        ([None], [0], "1 of its 1 rows hold no image, or one outside of the file; take such rows out"),
        ([{"bytes": None, "path": "a.png"}, *_parquet_images(0, 5)], [0] * 6, "1 of its 6 rows hold no image"),
        ([{"path": "a.jpg"}, {"path": "b.jpg"}], [0, 1], "2 of its 2 rows hold no image, or one outside of the file"),
        (_parquet_images(0, 2), ["cat", ""], "some of its 2 rows have an empty label; take such rows out"),
        (_parquet_images(0, 2), ["cat", " \u200b"], "some of its 2 rows have an empty label"),
        (_parquet_images(0, 1), [-1], "label -1"),
        (_parquet_images(0, 1), [None], "1 of its 1 rows have no label"),
    ],
)
def test_impossible_parquet_rows(tmp_path: Path, images: list, labels: list, message: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", images, labels)
    with pytest.raises(UserError, match=message):
        written(list(parquet_sources(path, "image", "label", None)), tmp_path / "out")


def test_parquet_labels_mean_the_same_in_all_files(tmp_path: Path) -> None:
    first, second = (tmp_path / "set" / f"{split}-0.parquet" for split in ("train", "val"))
    write_parquet(first, _parquet_images(0, 2), [0, 1], ["a", "b"])
    for images, labels, names, message in (
        (2, [0, 1], ["b", "a"], r"label 0 is a in \S+train-0.parquet and b in \S+val-0.parquet"),
        (2, [0, 2], ["a", "b"], r"val-0.parquet has the label 2, but its column label names the 2 classes 0 to 1"),
        (2, ["a", "b"], None, r"labels are words in \S+val-0.parquet and numbers in \S+train-0.parquet"),
    ):
        write_parquet(second, _parquet_images(0, images), labels, names)
        with pytest.raises(UserError, match=message):
            parquet_sources(tmp_path / "set", "image", "label", None)
    write_parquet(second, _parquet_images(2, 1), [1])
    assert [source.classes for source in parquet_sources(tmp_path / "set", "image", "label", None)] == [("a", "b")] * 2


def test_parquet_columns_that_are_there_twice_or_hold_paths(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (pip install 'sar_dist[parquet]')")
    from pyarrow import parquet

    columns = [arrow.array([image_of(0)]), arrow.array([0]), arrow.array([1])]
    parquet.write_table(arrow.Table.from_arrays(columns, names=["image", "label", "label"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has 2 columns 'label'; rename all but one"):
        parquet_sources(tmp_path, "image", "label", None)
    for image, kind in (
        ("a.png", "string"),
        ([image_of(0)], "list<"),
        ([[[1, 2]]], "list<"),
        ({"bytes": "x"}, "struct<"),
    ):
        parquet.write_table(arrow.table({"image": [image], "label": [0]}), tmp_path / "a.parquet")
        with pytest.raises(
            UserError, match=f"its column image is of the type {kind}.*, expected the bytes of one image"
        ):
            parquet_sources(tmp_path, "image", "label", None)


def test_parquet_files_of_the_split_that_their_folder_is_called_and_in_capitals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "set" / "validation" / "0000.PARQUET", _parquet_images(0, 2), [0, 1])
    for place in ("set", "set/validation", "set/validation/0000.PARQUET"):
        (source,) = parquet_sources(tmp_path / place, "image", "label", None)
        assert (source.split, len(source)) == ("val", 2)
    for first, name in enumerate(("train_clean-00000-of-00001", "train_extra-00000-of-00001")):
        write_parquet(tmp_path / "two" / f"{name}.parquet", _parquet_images(first, 2), [0, 1])
    parquet_sources(tmp_path / "two", "image", "label", None)
    assert "train_clean-N-of-1 and train_extra-N-of-1 are read as parts of one split" in capsys.readouterr().err


def test_parquet_classes_json_and_metadata_must_agree(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train-0.parquet", _parquet_images(0, 2), [0, 1], ["n01", "n02"])
    for content, names in ((["n01", "n02"], ("n01", "n02")), ({"n01": "tench", "n02": "fox"}, ("tench", "fox"))):
        (tmp_path / "classes.json").write_text(json.dumps(content))
        assert [source.classes for source in parquet_sources(tmp_path, "image", "label", None)] == [names]
    for content, message in (
        (
            ["n02", "n01"],
            r"label 0 is n01 in \S+train-0.parquet and n02 in \S+classes.json; correct or remove classes.json",
        ),
        (["n01", "n02", "n03"], "label 2 is no class in .* and n03 in"),
    ):
        (tmp_path / "classes.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            parquet_sources(file, "image", "label", None)


def test_parts_that_are_missing_or_of_several_configurations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (0, 3):
        write_parquet(tmp_path / "set" / "160px" / f"train-0000{part}-of-00005.parquet", _parquet_images(part, 1), [0])
    (source,) = parquet_sources(tmp_path / "set", "image", "label", None)
    assert len(source) == 2
    assert "only 2 of the 5 parts 160px/train-N-of-5 are there" in capsys.readouterr().err
    write_parquet(tmp_path / "set" / "320px" / "train-00000-of-00001.parquet", _parquet_images(0, 1), [0])
    with pytest.raises(UserError, match="in 320px and a part of that number in 160px, as sets of several"):
        parquet_sources(tmp_path / "set", "image", "label", None)
    for folder in ("160px", "320px", "year=2019", "year=2020"):
        write_parquet(tmp_path / "alike" / folder / "0.parquet", _parquet_images(0, 1), [0])
    (source,) = parquet_sources(tmp_path / "alike", "image", "label", None)
    assert len(source) == 4
    assert "all of 160px/0.parquet and 320px/0.parquet are read; if they are one set" in capsys.readouterr().err


def test_impossible_parquet_files(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", _parquet_images(0, 1), [0])
    with pytest.raises(UserError, match="no column 'img', only image, label, more"):
        parquet_sources(path, "img", "label", None)
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"cannot read .*b\.parquet"):
        parquet_sources(tmp_path, "image", "label", None)
    with pytest.raises(UserError, match=r"no \.parquet files"):
        parquet_sources(tmp_path / "nothing", "image", "label", None)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real images are not on this machine")
def test_real_imagefolder(tmp_path: Path) -> None:
    source = REAL_DATA / "tiny_imagenet_10"
    write_splits(imagefolder_sources(source, "val"), tmp_path / "out", WritingOptions())
    manifest = load_manifest(tmp_path / "out", "val")
    assert (manifest.total, manifest.num_classes) == (500, 10)
    assert manifest.classes is not None
    assert manifest.classes[0] == "goldfish"
    shard = tmp_path / "out" / manifest.shards[0].name
    for sample in list(wds.WebDataset(str(shard), shardshuffle=False))[:20]:
        (original,) = (source / "val").rglob(f"{sample['__key__']}.JPEG")
        assert original.read_bytes() == sample["jpg"]
        assert (
            sorted(path.name for path in (source / "val").iterdir())[int(sample["cls"])]
            == original.relative_to(source / "val").parts[0]
        )


@pytest.mark.parametrize(
    ("header", "columns", "rows"),
    [
        (["path", "label", "split"], CsvColumns(), [["a.jpg", "cat", "train"], ["b.jpg", "", "test"]]),
        (["path", "label", "split"], CsvColumns(), [["a.jpg", "0", "train"], ["b.jpg", "-1", "test"]]),
        (["path", "label"], CsvColumns(), [["train/a.jpg", "cat"], ["test/b.jpg", ""]]),
        (["path", "x", "y", "set"], CsvColumns(label="x,y"), [["a.jpg", "0", "1", "train"], ["b.jpg", "", "", "test"]]),
    ],
)
def test_rows_of_splits_that_are_not_made_need_no_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: list[str], columns: CsvColumns, rows: list[list[str]]
) -> None:
    for row in rows:
        (tmp_path / row[0]).parent.mkdir(exist_ok=True)
        (tmp_path / row[0]).write_bytes(image_of(0))
    table = write_csv(tmp_path / "t.csv", header, rows)
    (source,) = csv_sources(table, None, columns, None)
    assert (source.split, len(source), source.sample(0)[1]["cls"]) == ("train", 1, b"0")
    assert "the test split (1 rows) is not used" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"line 3: \S+ is empty; fill it in, or take the row out|negative"):
        csv_sources(table, None, columns, SplitChoice("test", "val"))


def test_addresses_on_the_web_are_no_images(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", ["path", "label"], [["https://example.org/a.jpg", "cat"]])
    with pytest.raises(UserError, match=r"line 2: 'https://example.org/a.jpg' is an address on the web; download"):
        csv_sources(table, None, CsvColumns(), None)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real images are not on this machine")
def test_real_ade20k_layout(tmp_path: Path) -> None:
    manifests = written(ade20k_sources(REAL_DATA / "camvid_ade_layout"), tmp_path / "out", 50)
    assert (manifests["train"].total, manifests["val"].total, manifests["val"].num_classes) == (123, 51, 11)
