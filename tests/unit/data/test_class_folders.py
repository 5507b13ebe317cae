"""Folders that may not be what they are taken for: files that number the classes otherwise, chunks, copies, lost classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shard_factory import image_of

from sar_dist.data.making import WritingOptions, write_splits
from sar_dist.data.making.sources import imagefolder_sources
from sar_dist.errors import UserError
from sar_dist.transfer.samples import open_both_splits


def tree(root: Path, *names: str) -> Path:
    """A folder with an image at each of ``names``."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_of(number))
    return root


def said_of(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    imagefolder_sources(root, None)
    return capsys.readouterr().err


@pytest.mark.parametrize("train", [None, ["cat", "dog"]])
def test_a_classes_json_that_says_otherwise_in_another_split_is_refused(
    tmp_path: Path, train: list[str] | None
) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png")
    if train is not None:
        (tmp_path / "train" / "classes.json").write_text(json.dumps(train))
    (tmp_path / "val" / "classes.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    assert imagefolder_sources(tmp_path, None)[1].classes == ("cat", "dog")
    (tmp_path / "val" / "classes.json").write_text(json.dumps(["dog", "cat"]))
    with pytest.raises(UserError, match=r"val/classes\.json gives 'cat' the label 1, and .* 0; all splits have one"):
        imagefolder_sources(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("class_to_idx.json", '{"dog": 0, "cat": 1}', True),
        ("class_to_idx.json", '{"cat": 0, "dog": 1}', False),
        ("id2label.json", '{"0": "dog", "1": "cat"}', True),
        ("classes.txt", "Dog\nCat\n", True),
        ("classes.txt", "1 cat\n2 dog\n", False),
        ("labels.txt", "0 dog\n1 cat", True),
        ("labels.txt", "dog,0\ncat,1", True),
        ("labels.txt", "sunny\nrainy", False),
        ("labels.json", "[", False),
    ],
)
def test_lists_that_put_the_classes_in_another_order_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, said: bool
) -> None:
    tree(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / name).write_text(content)
    line = f"{name} is not used, and numbers the classes otherwise (dog, cat) than they are labelled here (cat, dog)"
    assert said_of(tmp_path, capsys).count(line) == said


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["fold_0", "fold_1"], "the 2 classes are called like numbered parts of a set"),
        (["set_a", "set_b"], "the 2 classes are called like numbered parts of a set"),
        (["shard-00", "shard-01"], "the 2 classes are called like numbered parts of a set"),
        (["jpg", "png"], "the 2 classes are called like formats of files"),
        (["original", "resized"], "the 2 classes are called like forms of the same images"),
        (["224x224", "512x512"], "the 2 classes are called like sizes of images"),
        (["2019-01-01", "2019-01-02"], "the 2 classes are called like dates"),
        (["cat", "dog", "new folder"], "1 folders called like what is put away are taken for classes (new folder)"),
        (["cat", "cat (1)"], "'cat (1)' is a class beside 'cat', and is called like a copy of it"),
        (["cat", "cat - Copy"], "'cat - Copy' is a class beside 'cat'"),
        (["cat", "cat_copy"], "'cat_copy' is a class beside 'cat'"),
        (["Copy of cat", "cat"], "'Copy of cat' is a class beside 'cat'"),
        (["hot dog", "hot_dog"], "'hot dog' and 'hot_dog' are two classes"),
        (["1", "2", "3"], "labels are 0 to 2 in their order, and the images in folder 1 have the label 0"),
        (["0", "2", "5"], "the images in folder 2 have the label 1"),
        (["0", "1", "2"], None),
        (["c0", "c1", "c2"], None),
        (["left", "right"], None),
        (["bad", "good"], None),
        (["carbon copy", "cat"], None),
    ],
)
def test_folders_that_may_be_no_classes_by_their_names_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], line: str | None
) -> None:
    said = said_of(tree(tmp_path, *(f"{name}/1.png" for name in names)), capsys)
    assert said == "" if line is None else line in said


def test_folders_of_img2dataset_are_no_classes(tmp_path: Path) -> None:
    tree(tmp_path, "00000/000000000.jpg", "00001/000010000.jpg")
    assert imagefolder_sources(tmp_path, None)[0].classes == ("00000", "00001")  # FFHQ, GTSRB
    for name in ("00000/000000000.json", "00001/000010000.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"are parts of a download by img2dataset, .* --output_format webdataset"):
        imagefolder_sources(tmp_path, None)


@pytest.mark.parametrize("name", ["7", "7.jpg?w=300", "7.jpg_large"])
def test_a_class_whose_files_are_images_under_other_names_is_refused(tmp_path: Path, name: str) -> None:
    tree(tmp_path, "cat/1.png", "dog/2.png", f"emu/{name}")
    with pytest.raises(UserError, match=r"emu/7.* is an image, and is not called so; let the names"):
        imagefolder_sources(tmp_path, None)


def test_notes_in_a_folder_make_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, "cat/1.png", "dog/2.png", "notes/a.txt")
    (tmp_path / "notes" / "NOTES").write_text("about cats")
    assert "left out 1 folders that are no classes (hidden or no images), such as notes" in said_of(tmp_path, capsys)


@pytest.mark.parametrize("folder", ["x/", ""])
def test_folders_in_the_names_of_files_are_refused(tmp_path: Path, folder: str) -> None:
    tree(tmp_path, f"{folder}cat\\1.jpg", f"{folder}dog\\2.jpg")
    with pytest.raises(UserError, match=r"holds its folders in its name, as a zip archive from Windows .* `unzip`"):
        imagefolder_sources(tmp_path, None)


def test_an_archive_in_the_place_of_a_folder_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"set\.zip is a file, and no folder; unpack it"):
        imagefolder_sources(tmp_path / "set.zip", None)


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to", "copy"])
def test_an_image_under_two_labels_is_said_by_what_writes_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    root = tree(tmp_path / "set", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")
    if how == "copy":
        (root / "dog" / "same.png").write_bytes((root / "cat" / "1.png").read_bytes())
    else:
        getattr(root / "dog" / "same.png", how)(root / "cat" / "1.png")
    (root / "cat" / "again.png").write_bytes(
        (root / "cat" / "2.png").read_bytes()
    )  # of the same class: no contradiction
    write_splits(imagefolder_sources(root, None), tmp_path / "out", WritingOptions(processes=1))
    said = capsys.readouterr().err
    assert "out: 1 image is there under two labels, such as " in said
    assert "1 (cat)" in said
    assert "same (dog)" in said


def test_images_of_both_splits_are_said_by_what_writes_shards_and_by_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "set", "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png")
    open_both_splits(root, "")
    write_splits(imagefolder_sources(root, None), tmp_path / "a", WritingOptions(processes=1))
    assert "too;" not in capsys.readouterr().err
    (root / "val" / "cat" / "5.png").write_bytes((root / "train" / "cat" / "1.png").read_bytes())
    open_both_splits(root, "")
    assert "1 of the 3 validation images are training images too" in capsys.readouterr().err
    write_splits(imagefolder_sources(root, None), tmp_path / "b", WritingOptions(processes=1))
    assert f"b/val: 1 of the 3 images are in {tmp_path}/b/train too" in capsys.readouterr().err
    open_both_splits(tmp_path / "b", "")
    assert "1 of the 3 validation images are training images too" in capsys.readouterr().err
