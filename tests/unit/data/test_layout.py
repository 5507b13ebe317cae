"""How splits, classes, image formats and leftovers are recognised: the rules of docs/data.md."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_factory import image_of, make_shards, sample_members, tar_bytes

from sar_dist.data import load_manifest
from sar_dist.data.layout import (
    IMAGE_EXTENSIONS,
    PILLOW_FORMATS,
    ClassDepth,
    SplitChoice,
    is_image_name,
    is_sample_member,
    member_extension,
    parse_split_choice,
    read_class_table,
    read_label_words,
    sort_classes,
    split_folders,
    splits_by_name,
)
from sar_dist.data.making.sources import CsvColumns, FileSource, csv_sources, imagefolder_sources
from sar_dist.data.making.sources.inaturalist import inaturalist_sources
from sar_dist.data.making.verify import verify_folder
from sar_dist.data.shards import Manifest, check_shards
from sar_dist.data.shards.checks import _tars_below, manifests_at
from sar_dist.errors import UserError
from sar_dist.training.checks import check_same_classes


def tree(root: Path, *names: str) -> Path:
    """A folder with an image at each of ``names``."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_of(number))
    return root


def contents(source: FileSource) -> list[tuple[int, bytes]]:
    """(label, image) of all samples, sorted."""
    samples = [source.sample(number)[1] for number in range(len(source))]
    return sorted((int(members["cls"]), next(iter(members.values()))) for members in samples)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["medieval-train-000.tar", "medieval-val-000.tar"], {"train": [0], "val": [1]}),
        (["ImageNetTrain_0.tar", "ImageNetVal_0.tar", "ImageNetTest_0.tar"], {"train": [0], "val": [1], "test": [2]}),
        (["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"], {"train": [0], "val": [1]}),
        (["TRAIN.tar", "VALID2017.tar"], {"train": [0], "val": [1]}),
        (["train-test-split/val-0.tar", "train-test-split/train-0.tar"], {"val": [0], "train": [1]}),
        (["train/0.parquet", "Test/0.parquet"], {"train": [0], "test": [1]}),
        (["medieval-0.tar", "trainees.tar", "invalid.tar"], {}),
    ],
)
def test_split_words_count_as_whole_words(names: list[str], splits: dict[str, list[int]]) -> None:
    assert splits_by_name(names, "here") == {split: [names[i] for i in found] for split, found in splits.items()}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a-train-val-0.tar", "a-train-1.tar"], "a-train-val-0.tar in here could be of two splits"),
        (["val/train-0.tar"], "could be of two splits"),
        (["train-0.tar", "more-0.tar"], "more-0.tar in here name no split, but others do, such as train-0.tar"),
    ],
)
def test_ambiguous_names_are_refused_with_the_files(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        splits_by_name(names, "here")


def test_tars_of_a_medieval_set(tmp_path: Path) -> None:
    make_shards(tmp_path, [3], "medieval-train")
    make_shards(tmp_path, [2], "medieval-val")
    make_shards(tmp_path, [1], "medieval-test")
    (tmp_path / "._medieval-val-0000.tar").write_bytes(b"\0\5\x16\7")
    assert [(m.split, [s.name for s in m.shards]) for m in manifests_at(tmp_path)] == [
        ("train", ["medieval-train-0000.tar"]),
        ("val", ["medieval-val-0000.tar"]),
    ]
    make_shards(tmp_path, [1], "medieval")
    for split in ("train", "val"):
        with pytest.raises(UserError, match=r"medieval-0000.tar .* name no split"):
            load_manifest(tmp_path, split)
    make_shards(tmp_path / "two" / "Train", [3], "a")
    assert load_manifest(tmp_path / "two", "train").total == 3
    make_shards(tmp_path / "two" / "training", [3], "a")
    with pytest.raises(UserError, match="the train split twice, in Train and training"):
        split_folders(tmp_path / "two")


def test_split_choices() -> None:
    assert parse_split_choice("val") == SplitChoice("val", "val")
    assert parse_split_choice("Testing=val") == SplitChoice("test", "val")
    assert parse_split_choice("minival=val") == SplitChoice("minival", "val")
    assert parse_split_choice("Eval=Validation") == SplitChoice("eval", "val")
    assert parse_split_choice("TRAINING") == SplitChoice("train", "train")
    for text in ("test", "a=val,b=train", "a=b=val", "val=test"):
        with pytest.raises(UserError, match="for one split of another name, such as test=val"):
            parse_split_choice(text)


def test_files_may_name_the_source_s_own_word_for_the_split_that_is_asked_for() -> None:
    names = ["Eval-0.tar", "train-0.tar", "val_unseen/0.tar"]
    assert splits_by_name(names[:2], "here", "eval") == {"eval": names[:1], "train": names[1:2]}
    assert splits_by_name(["set-0.tar", "set-1.tar"], "here", "eval") == {}
    assert splits_by_name(["val-0.tar", "unseen_rooms/0.tar"], "here", "unseen_rooms")["unseen_rooms"] == [
        "unseen_rooms/0.tar"
    ]
    with pytest.raises(UserError, match=r"Eval-0.tar in here name no split"):
        splits_by_name(names[:2], "here")
    with pytest.raises(UserError, match=r"more.tar in here name no split"):
        splits_by_name(["eval-0.tar", "more.tar"], "here", "eval")


@pytest.mark.parametrize("place", ["val", "root", "csv"])
def test_class_words_may_lie_beside_training_shards_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture, place: str
) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        members = [("1.cls", b"dog"), ("1.png", image_of(1))]
        (tmp_path / split / "0.tar").write_bytes(tar_bytes(members))
    (tmp_path / "train" / "classes.json").write_text('["cat", "dog", "eel"]')
    if place == "csv":
        tree(tmp_path, "val/1.png")
        (tmp_path / "val" / "t.csv").write_text("path,label\n1.png,dog\n")
        (source,) = csv_sources(tmp_path / "val" / "t.csv", None, CsvColumns(), None)
        assert (source.split, source.classes, source.sample(0)[1]["cls"]) == ("val", ("cat", "dog", "eel"), b"1")
    else:
        manifest = load_manifest(tmp_path if place == "root" else tmp_path / place, "val")
        assert (manifest.classes, manifest.labels.words["dog"]) == (("cat", "dog", "eel"), 1)
    assert "val: the classes are numbered as in " in capsys.readouterr().err


def test_test_splits_are_said_and_made_on_request(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tree(tmp_path, "train/a/1.png", "train/b/2.png", "test/b/3.png", "mini/b/4.png", "val/a/5.png")
    assert [source.split for source in imagefolder_sources(tmp_path, None)] == ["train", "val"]
    assert "the test split is not used; --split test=val" in capsys.readouterr().err
    (tmp_path / "mini").rename(tmp_path / "Mini")
    for name, number in (("test", 2), ("mini", 3)):
        (source,) = imagefolder_sources(tmp_path, SplitChoice(name, "val"))
        assert (source.split, source.classes, contents(source)) == ("val", ("a", "b"), [(1, image_of(number))])
    (tmp_path / "mini").mkdir()
    with pytest.raises(UserError, match="the mini split twice, in Mini and mini"):
        imagefolder_sources(tmp_path, parse_split_choice("Mini=val"))
    with pytest.raises(UserError, match="has no gone split"):
        imagefolder_sources(tmp_path, SplitChoice("gone", "val"))
    with pytest.raises(UserError, match="is a test split by name"):
        imagefolder_sources(tmp_path / "test", None)


def test_capitals_leftovers_and_empty_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tree(tmp_path, "Train/a/1.png", "Train/b/2.png", "Val/b/3.png", "Train/a/._1.png", "Train/__MACOSX/a/1.png")
    tree(tmp_path, "Train/a/@eaDir/1.png/thumb.jpg", "Train/b/.ipynb_checkpoints/2-checkpoint.png")
    tree(tmp_path, "Train/@eaDir/3.png", "Train/#recycle/old/4.png", "Train/b/@Recycle/5.png")
    (tmp_path / "Train" / "empty").mkdir()
    train, val = imagefolder_sources(tmp_path, None)
    assert (train.classes, len(train), len(val)) == (("a", "b"), 2, 1)
    lines = capsys.readouterr().err
    assert "left out 4 folders that are no classes (hidden or no images), such as #recycle" in lines
    assert "left out 4 hidden files and leftovers of other programs, such as a/._1.png" in lines


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["2019/cat/1.png", "2019/dog/1.png", "2020/cat/1.png"], "are no classes: 2019 holds no images itself"),
        (
            ["train/1.png", "val/2.png"],
            "train has no class folders but 1 images or archives of no class, such as 1.png",
        ),
        (["train/n01.tar", "val/n01.tar"], "has no class folders but 1 images or archives .*archives must be unpacked"),
        (
            ["data/train/cat/1.png", "data/train/dog/2.png"],
            r"data alone is in .* further down; give \S+/data/train, or say with",
        ),
        (["cat/train/1.png", "cat/val/2.png", "dog/3.png"], "cat holds the splits train and val, which belong above"),
        (["train2017/1.png", "val2017/2.png", "extra/3.png"], "train2017, val2017.* are called like splits"),
        (["ILSVRC2012_img_train/n01/1.png", "ILSVRC2012_img_val/2.png"], "are called like splits, .*rename them"),
        (["1/1.png", "01/2.png", "2/3.png"], "'01' and '1' in .* look the same"),
        (["big dog/1.png", "big\u00a0dog/2.png", "cat/3.png"], "look the same"),
        (["train/a/1.png", "val/b/2.png"], "val/b is not among the 1 training classes .*rename or move it"),
        (["train/a/1.png", "bus/2.png", "car/3.png"], "other folders with images, such as bus"),
        (["val/a/1.png", "valid/a/2.png"], "the val split twice, in val and valid"),
        (["cat/train/1.png", "dog/test/1.png"], r"dog holds the split test, which belongs above .* make test/CLASS"),
        (["cat/1.png", "dog/more/Val/1.png"], "dog/more holds the split val"),
        (["data_256/a/zoo/1.png", "val_256/1.png"], r"\(val_256\) are called like splits"),
        (["train2017/1.png"], "train2017 is called like a split, and no class"),
        (["x-format-val/n1/1.png", "x-format-val/n2/1.png"], r"holds x-format-val alone.*: give \S+/x-format-val, or"),
        (["training/training/a/1.png", "validation/validation/a/1.png"], r"give \S+/training/training, or move its"),
        (
            ["DATA/0/1.png", "DATA/1/1.png", "TEST/1.png"],
            "DATA holds no images itself but .*--class-depth 2.* `make_shards.py csv`",
        ),
        (
            ["a/1/1.png", "a/2/1.png", "b/1/1.png", "train2018.json"],
            r"`make_shards.py inaturalist \S+ OUT` reads lists such as \S+/train2018.json",
        ),
        (
            ["train_val2018/Aves/1/1.jpg", "train_val2018/Aves/2/1.jpg", "train2018.json"],
            r"`make_shards.py inaturalist \S+ OUT`",
        ),
        (
            ["train_val2018.tar.gz", "train2018.json", "val2018.json"],
            r"no class folders .*`make_shards.py inaturalist \S+ OUT`",
        ),
        (["ds/x/tif/Crop/1.png", "ds/x/tif/Forest/1.png"], r"ds alone is in .* give \S+/ds/x/tif, or say"),
        (
            ["a/abbey/1.png", "a/house/in/1.png", "b/bar/1.png"],
            "--class-depth any, each that holds images, on whatever",
        ),
        (["face/1.png", "face_mask/1.png"], r"\(face, face_mask\) are parts .* or say that .* --class-depth 1"),
        (
            ["CAT/1.png", "DOG/1.png", "chest/cat/1.png", "chest/dog/1.png"],
            "chest holds folders .* as a copy of the set",
        ),
        (["Au/1.png", "Tp/1.png", "CASIA 2 Groundtruth/1.png"], r"\(CASIA 2 Groundtruth\) are parts of a set"),
        (["images/1.png", "lung masks/1.png", "infection masks/1.png"], r"\(images, infection masks, lung masks\) are"),
        (["Trout/1.png", "Trout GT/1.png"], r"\(Trout, Trout GT\) are parts of a set"),
        (
            ["Bass/Bass/1.png", "Bass/Bass GT/1.png", "Eel/Eel/1.png"],
            "Bass/Bass GT holds labels or maps of other images",
        ),
        (["CXR_png/1.png", "masks/1.png", "test/1.png"], r"\(CXR_png, masks\) are parts"),
        (["2d_images/1.png", "2d_masks/1.png"], r"\(2d_images, 2d_masks\) are parts"),
        (["original_images/1.png", "label_images_semantic/1.png"], "are parts of a set"),
        (["I18_Task1_Input/1.png", "I18_Task1_GroundTruth/1.png"], "are parts of a set"),
        (["train/a/1.png", "eval/a/1.png"], r"or take one split alone, by --split train \(\S+/train\)"),
        (["train/a/1.png", "val/1.png"], "val has no class folders but 1 .*; --split train makes that split alone"),
        (["test_images/1.png", "cat/1.png", "dog/1.png"], "called like splits"),
        (
            ["train set/1.png", "tea set/1.png", "lego set/1.png"],
            r"\(train set\) are called like splits, .* or say that all folders in \S+ are classes, with --class-depth 1",
        ),
        (["train/1.png", "test rig/1.png", "tram/1.png"], r"\(test rig, train\) are called like splits"),
        (["seg_train/1.png", "seg_test/1.png", "a/1.png", "b/1.png"], r"\(seg_test, seg_train\) are called like"),
        (["a/1.png", "b/1.png", "copy/a/1.png", "copy/b/1.png"], r"copy holds folders .* such as copy/a, as a copy of"),
        (["a/1.png", "b/1.png", "x/copy/a/1.png", "x/copy/b/1.png"], "x holds folders .* such as x/copy/a"),
        (["cat/1.png", "dog/1.png", "dog/cat/1.png"], "dog holds folders that are called like the classes beside it"),
        (
            ["images/1.png", "annotations/trimaps/1.png"],
            r"\(annotations\) are parts of a set by name.*make_shards.py csv",
        ),
        (["JPEGImages/1.png", "SegmentationClass/1.png", "x/1.png"], r"\(JPEGImages, SegmentationClass\) are parts"),
        (["good/1.png", "broken/1.png", "ground_truth/1.png"], r"\(ground_truth\) are parts of a set"),
        (["Images/1.png", "masks/1.png"], r"\(Images, masks\) are parts of a set"),
        (["train/images/1.png", "train/labels/1.txt"], r"\(images\) are called like images of all classes"),
        (["images_001/images/1.png", "images_002/images/1.png"], r"\(images_001, images_002\) are called like images"),
        (
            ["images/001.crow/1.png", "images/002.jay/1.png"],
            r"give \S+/images, or say with --class-depth which folders",
        ),
        (["cat/1.png", "cat/masks/1.png", "dog/1.png"], "cat/masks holds labels or maps of other images by its name"),
        (["cat/images/1.png", "cat/masks/1.png", "dog/images/1.png"], "cat/masks holds labels or maps"),
        (["clipart/cat/1.png", "clipart/dog/1.png", "real/cat/1.png"], "clipart holds no images itself but folders"),
        (
            ["cat/1.png", "dog/2.HEIC", "dog/notes.txt"],
            r"dog/2\.HEIC and the other images of its class are in a format that",
        ),
        (["blur/1/n1/1.png", "blur/2/n1/1.png", "fog/1/n1/1.png"], "blur holds no images itself but folders"),
    ],
)
def test_what_is_no_set_of_classes_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imagefolder_sources(tree(tmp_path, *names), None)


def test_a_class_called_train_and_images_one_level_down(tmp_path: Path) -> None:
    (vehicles,) = imagefolder_sources(tree(tmp_path / "a", "train/1.png", "bus/2.png", "bullet_train/3.png"), None)
    assert vehicles.classes == ("bullet_train", "bus", "train")
    (tiny,) = imagefolder_sources(tree(tmp_path / "b", "n1/images/1.png", "n2/images/2.png"), None)
    assert contents(tiny) == [(0, image_of(0)), (1, image_of(1))]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["a/a/1.png", "b/b/1.png"], ("a", "b")),
        (["0/1.png", "0/1/1.png", "0/2/1.png", "1/1.png", "1/0/1.png", "1/2/1.png", "2/3.png"], ("0", "1", "2")),
        (["bus_station/1.png", "train_station/1.png"], ("bus_station", "train_station")),
        (["vehicle/train/1.png", "vehicle/2.png", "cat/1.png"], ("cat", "vehicle")),
        (["mask/1.png", "no_mask/1.png"], ("mask", "no_mask")),
        (["image/1.png", "text/1.png"], ("image", "text")),
        (["label_1/1.png", "label_2/1.png"], ("label_1", "label_2")),
        (["ppe/masks/1.png", "tool/saws/1.png"], ("ppe", "tool")),
        (["valid/1.png", "invalid/1.png"], ("invalid", "valid")),
        (
            ["test tube/1.png", "train/1.png", "training shoe/1.png", "bus/1.png", "trainer/1.png"],
            ("bus", "test tube", "train", "trainer", "training shoe"),
        ),
        (["with_mask/1.png", "without_mask/1.png", "face/1.png"], ("face", "with_mask", "without_mask")),
        (
            ["ski/1.png", "ski mask/1.png", "cat/1.png", "dog/1.png", "eel/1.png"],
            ("cat", "dog", "eel", "ski", "ski mask"),
        ),
    ],
)
def test_classes_that_are_called_or_arranged_like_something_else(
    tmp_path: Path, names: list[str], classes: tuple[str, ...]
) -> None:
    assert imagefolder_sources(tree(tmp_path, *names), None)[0].classes == classes


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (
            ["cat/1.png", "dog/1.png", "new/c/1.png", "new/d/1.png"],
            "new holds 2 folders of images, all taken for the class new",
        ),
        (["cat/1.png", "dog/1.png", "old/cat/1.png"], "old holds cat, called like classes beside it"),
        (
            ["cat/1.png", "dog/1.png", "test/1.png"],
            "1 folders called like other parts of a set are taken for classes (test)",
        ),
        (["cat/1.png", "dog/1.png", "test/1.png", "val/1.png"], "taken for classes (test, val); move them away if"),
        (["a/1.png", "b/1.png", "c/1.png", "alien_test/1.png"], "taken for classes (alien_test)"),
        (["yes/1.png", "no/1.png", "pred/1.png"], "taken for classes (pred)"),
        (["data/images/1.png"], "there is one class alone, data"),
        (
            ["a/a/1.png", "a/a/CROPPED/1.png", "b/1.png", "b/CROPPED/1.png"],
            "a/a holds images itself and in folders (CROPPED), all taken for one class, as in 1 other folders; move away",
        ),
        (
            [f"v_{name}_g01_c{clip}/1.png" for name in ("Archery", "Diving") for clip in range(3)],
            "the 6 classes are called by 2 names with numbers, such as v_Archery_g01_c0, v_Archery_g01_c1, v_Archery_g01_c2; if",
        ),
        (["a/1.jpg", "a/1.png", "b/1.png"], "1 images differ from another in the extension alone, such as a/1.png"),
    ],
)
def test_folders_and_images_that_may_be_no_classes_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture, names: list[str], line: str
) -> None:
    (source,) = imagefolder_sources(tree(tmp_path, *names), None)
    assert len(source) == len(names)
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.parametrize("depth", [1, "any"])
def test_folders_called_like_splits_are_classes_where_the_user_says_so(tmp_path: Path, depth: ClassDepth) -> None:
    tree(tmp_path, "train set/1.png", "test set/2.png", "tea set/3.png")
    (source,) = imagefolder_sources(tmp_path, None, class_depth=depth)
    assert source.classes == ("tea set", "test set", "train set")


@pytest.mark.parametrize("depth", [None, 1, 2, "any"])
def test_splits_that_hold_folders_of_classes_are_none_whatever_the_user_says(
    tmp_path: Path, depth: ClassDepth | None
) -> None:
    tree(tmp_path, "seg_train/seg_train/sea/1.png", "seg_train/seg_train/ice/2.png", "seg_test/seg_test/sea/3.png")
    with pytest.raises(UserError, match=r"are called like splits.* to something else$"):
        imagefolder_sources(tmp_path, None, class_depth=depth)


def test_a_class_called_train_is_not_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    imagefolder_sources(tree(tmp_path, "bus/1.png", "train/1.png", "tank/1.png"), None)
    assert capsys.readouterr().err == ""


def test_class_depth_says_on_which_level_the_classes_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = [
        f"{split}/{path}"
        for split in ("train", "val")
        for path in ("A/g1/1.png", "A/g2/1.png", "B/g1/1.png", "B/2.png")
    ]
    root = tree(tmp_path, *names, "train/A/.hidden/1.png")
    train, val = imagefolder_sources(root, None, class_depth=1)
    assert (train.classes, val.classes, len(train)) == (("A", "B"), ("A", "B"), 4)
    capsys.readouterr()
    train, val = imagefolder_sources(root, None, class_depth=2)
    assert (train.classes, [label for label, _ in contents(val)]) == (("A/g1", "A/g2", "B/g1"), [0, 1, 2])
    assert "train: left out 1 images or archives beside the class folders, which are of no class, such as B/2.png" in (
        capsys.readouterr().err
    )
    with pytest.raises(UserError, match="has no class folders but 4 images"):
        imagefolder_sources(root, None, class_depth=3)
    office = tree(tmp_path / "office", "dslr/images/bag/1.png", "dslr/images/gas mask/1.png")
    (source,) = imagefolder_sources(office, None, class_depth=3)
    assert source.classes == ("dslr/images/bag", "dslr/images/gas mask")


def test_every_folder_of_images_may_be_a_class(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The layout of SUN397: classes on two levels and more."""
    names = ["a/abbey/1.png", "a/house/indoor/1.png", "a/house/outdoor/1.png", "b/barn/1.png", "b/barn/old/1.png"]
    root = tree(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in names))
    tree(root, "train/a/abbey/.x.png", "train/b/notes/x.txt", "train/2.png", "train/b/barn/1_mask.png", "train/z/x.txt")
    train, val = imagefolder_sources(root, None, class_depth="any")
    assert train.classes == val.classes == ("a/abbey", "a/house/indoor", "a/house/outdoor", "b/barn", "b/barn/old")
    assert contents(train) == [(label, image_of(label)) for label in range(5)]
    said = capsys.readouterr().err
    assert "all taken for one class" not in said
    assert "train: left out 2 folders that are no classes (hidden or no images), such as" in said
    assert "left out 1 images or archives beside the class folders, which are of no class, such as 2.png" in said
    assert "left out 1 images that are called like maps of others" in said
    assert "left out 1 hidden files and leftovers of other programs, such as a/abbey/.x.png" in said
    archive(root / "train/b/cave/cave.zip", "1.png")
    with pytest.raises(UserError, match=r"b/cave/cave\.zip looks like a class that is not unpacked"):
        imagefolder_sources(root, None, class_depth="any")


@pytest.mark.parametrize(
    ("maps", "photographs", "depth", "classes"),
    [
        (["1.png", "2.png"], False, None, False),
        (["mask_1.png", "mask_2.png"], False, None, False),
        (["1.png", "2.png"], False, 1, True),
        (["1.jpg", "2.jpg"], True, None, True),
        (["00731.png", "00732.png"], False, None, True),  # of other images
    ],
)
def test_a_class_called_like_the_maps_of_another(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    maps: list[str],
    photographs: bool,
    depth: ClassDepth | None,
    classes: bool,
) -> None:
    tree(tmp_path, "face/1.png", "face/2.png", "face/3.png", *(f"face_mask/{name}" for name in maps))
    for name in maps if photographs else ():
        noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "face_mask" / name, quality=95)
    with contextlib.nullcontext() if classes else pytest.raises(UserError, match="are parts of a set by name"):
        assert imagefolder_sources(tmp_path, None, class_depth=depth)[0].classes == ("face", "face_mask")
        assert "face, face_mask are taken for classes, and are called like images and maps" in capsys.readouterr().err


def test_a_split_that_is_asked_for_is_made_whatever_lies_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tree(tmp_path, "train/a/1.png", "train/b/1.png", "Test/1.png", "unlabeled/1.png")
    (source,) = imagefolder_sources(root, "train")
    assert (source.split, source.classes) == ("train", ("a", "b"))
    assert "left out 1 folders that are no splits, such as unlabeled" in capsys.readouterr().err


def test_splits_in_folders_of_their_own_name_are_numbered_by_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tree(tmp_path, "train/train/a/1.png", "train/train/b/1.png", "test/test/b/1.png", "val/val/b/1.png")
    for folder, split in (("test/test", SplitChoice("test", "val")), ("val/val", None), ("val", None)):
        (source,) = imagefolder_sources(root / folder, split)
        assert (source.split, source.classes, contents(source)[0][0]) == ("val", ("a", "b"), 1)
    (root / "train").rename(root / "seg")
    imagefolder_sources(root / "val/val", None)
    assert "no training split beside it, so its own 1 folders number the classes" in capsys.readouterr().err


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # macOS writes the second
    for number, name in enumerate((f"train/{composed}", "train/dog", f"val/{decomposed}", "val/dog ")):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(image_of(number))
    train, val = imagefolder_sources(tmp_path / "set", None)
    assert train.classes == val.classes == (composed, "dog")
    assert [int(val.sample(number)[1]["cls"]) for number in range(2)] == [0, 1]
    (tmp_path / "set" / "train" / decomposed).mkdir()
    (tmp_path / "set" / "train" / decomposed / "b.png").write_bytes(image_of(5))
    with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9' in \S+ look the same"):
        imagefolder_sources(tmp_path / "set", None)


def test_folders_that_are_there_twice_through_links_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/2.png")
    (tmp_path / "train" / "cat" / "again").symlink_to("..")  # a circle: nothing new
    assert len(imagefolder_sources(tmp_path, None)[0]) == 2
    (tmp_path / "train" / "cat" / "more").symlink_to("../dog")
    with pytest.raises(UserError, match=r"cat/more and dog in \S+ are the same folder, through a link"):
        imagefolder_sources(tmp_path, None)
    (tmp_path / "train" / "cat" / "more").unlink()
    (tmp_path / "val").symlink_to("train")
    with pytest.raises(UserError, match=r"train and val in \S+ are the same folder, through a link"):
        imagefolder_sources(tmp_path, None)


@pytest.mark.parametrize("name", ["val", "train/emu"])
def test_a_folder_that_is_a_link_to_nothing_is_refused(tmp_path: Path, name: str) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/2.png")
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=rf"{name} is a link to nothing; restore or remove it"):
        imagefolder_sources(tmp_path, None)


def test_images_beside_the_class_folders_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/3.png", "train/train_images.tar", "train/notes.txt")
    assert len(imagefolder_sources(tmp_path, None)[0]) == 2
    assert "left out 2 images or archives beside the class folders, which are of no class, such as 3.png" in (
        capsys.readouterr().err
    )


def archive(path: Path, *members: str) -> Path:
    """A zip archive or a (compressed) tar of empty files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as content:
            for member in members:
                content.writestr(member, b"")
    else:
        path.write_bytes(gzip.compress(tar_bytes([(member, b"") for member in members])))
    return path


LOST_ARCHIVES = (
    "zip.part zip.crdownload zip.001 7z.001 z01 r00 tgz.001 tar.gz.001 tar.gz.aa tar.gzab tar.gz.tmp taz zipx zip~"
).split()


@pytest.mark.parametrize("name", ["eel.npz", "eel.h5", "eel.tfrecord", "eel.mat", "eel.parquet", "eel.gz"])
def test_files_of_many_images_beside_the_classes_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    tree(tmp_path, "cat/1.png", "dog/2.png", name)
    assert imagefolder_sources(tmp_path, None)[0].classes == ("cat", "dog")
    line = "left out 1 files beside the class folders that may hold images and are not read; save the images of a class"
    assert f"{line} in a folder of its name, such as {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "members", "refused"),
    [
        ("train/eel.zip", ["1.png"], True),
        ("train/eel.tar.gz", ["eel/1.jpg"], True),
        ("train/eel.rar", None, True),
        *((f"train/eel.{ending}", None, True) for ending in LOST_ARCHIVES),
        ("train/eel/eel.zip", ["1.png"], True),
        ("train/eel/images.tar.gz", ["images/1.png"], True),
        ("train/Cat.zip", ["1.png"], False),  # unpacked
        ("train/all.rar", None, False),
        ("train/pets.tar.gz", ["pets/train/cat/1.png"], False),  # what the classes were unpacked from
        ("train/downloads/pets.zip", ["train/cat/1.png"], False),
        ("train/boxes.zip", ["1.xml"], False),
        ("train/animals.zip", ["1.png"], False),  # called like the folder of the set
        ("eel.zip", ["1.png"], False),  # beside the splits
    ],
)
def test_a_class_that_is_not_unpacked_is_refused(
    tmp_path: Path, path: str, members: list[str] | None, refused: bool
) -> None:
    root = tree(tmp_path / "animals", "train/cat/1.png", "train/dog/2.png")
    if members is None:
        tree(root, path)
    else:
        archive(root / path, *members)
    with pytest.raises(UserError) if refused else contextlib.nullcontext() as caught:
        assert imagefolder_sources(root, None)[0].classes == ("cat", "dog")
    if caught is not None:
        assert str(caught.value) == (
            f"{root / path} looks like a class that is not unpacked, beside 2 that are, such as cat; unpack it, or move it away "
            "if it is none"
        )


@pytest.mark.parametrize(
    ("images", "maps"),
    [
        (["a (1).png", "with_mask.png"], ["a (1)_mask.png", "a (1)_mask_1.png"]),
        (["1-001.BMP", "1-002.BMP"], ["1-001-d.bmp", "1-002-d.bmp"]),
        (["1.png", "2.png", "2-d.png", "3.png", "4.png"], []),  # of few: something else
        (["a.jpg", "b.jpg"], ["a_seg.png", "b-gt.png"]),
        (["ISIC_1.jpg"], ["ISIC_1_segmentation.png", "ISIC_1_Lesion.bmp"]),
        (["x.tif"], ["x_contour.tif", "x-label.png", "x_binary_mask.png"]),
        (["y.png"], ["y_gtFine_labelIds.png", "y_gtFine_color_mask.png"]),
        (["a_mask.png", "label.png"], []),  # of nothing that is there
    ],
)
def test_images_called_like_maps_of_others_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture, images: list[str], maps: list[str]
) -> None:
    (source,) = imagefolder_sources(tree(tmp_path, *(f"{c}/{name}" for c in "ab" for name in images + maps)), None)
    assert len(source) == 2 * len(images)
    line = f"left out {2 * len(maps)} images that are called like maps of others (masks, ground truth); rename what is an image"
    assert capsys.readouterr().err.count(line) == bool(maps)


def test_images_that_nothing_reads_are_counted_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tree(tmp_path, "cat/1.png", "cat/2.heic", "cat/3.DNG", "cat/notes.txt", "4.cr2")
    assert len(imagefolder_sources(tmp_path, None)[0]) == 1
    said = capsys.readouterr().err
    assert "left out 2 images in formats that are not read; convert them to JPEG or PNG, such as cat/2.heic" in said
    assert "left out 1 files that are no images by name, such as cat/notes.txt" in said
    assert "left out 1 images or archives beside the class folders, which are of no class, such as 4.cr2" in said


def test_a_tree_may_be_deeper_than_python_calls_functions(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    deep = tmp_path / "a" / "/".join("x" * sys.getrecursionlimit())
    subprocess.run(["mkdir", "-p", deep], check=True)
    assert len(imagefolder_sources(tmp_path, None)[0]) == 2
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # for pytest, whose clean-up calls itself too


def test_classes_json_lies_beside_the_classes_or_above_them(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/dog/3.png")
    (tmp_path / "train" / "classes.json").write_text(json.dumps({"dog": 0, "cat": 1}))
    for root in (tmp_path, tmp_path / "train", tmp_path / "val"):
        assert imagefolder_sources(root, None)[0].classes == ("dog", "cat")
    (tmp_path / "classes.json").write_text('{"cat": 0, "dog": 1, "cat": 2}')
    with pytest.raises(UserError, match=r"'cat' is there twice"):
        imagefolder_sources(tmp_path, None)


def test_class_words_that_may_not_be_meant_as_they_stand_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    imagefolder_sources(tree(tmp_path / "a", "Dog/1.png", "cat/2.png", "dog/3.png"), None)
    assert "'Dog' and 'dog' are two classes, which differ in capitals alone" in capsys.readouterr().err
    tree(tmp_path / "b", "1.png", "2.png")
    (tmp_path / "b" / "t.csv").write_text("path,label\n1.png,cat\n2.png,NaN\n")
    csv_sources(tmp_path / "b" / "t.csv", None, CsvColumns(), None)
    assert "'NaN' is taken for the name of a class; if it marks a missing label" in capsys.readouterr().err


def test_a_class_folder_that_is_a_link_to_another_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(image_of(1))
    (tmp_path / "kitty").symlink_to(tmp_path / "cat")
    with pytest.raises(UserError, match=r"cat and kitty in \S+ are the same folder"):
        imagefolder_sources(tmp_path, None)


def test_numbers_are_sorted_as_numbers_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sort_classes(["10", "2", "0"]) == ["0", "2", "10"]
    assert sort_classes(["b10", "b2"]) == ["b10", "b2"]
    (source,) = imagefolder_sources(tree(tmp_path / "n", *(f"{n}/x.png" for n in range(12))), None)
    assert contents(source) == [(n, image_of(n)) for n in range(12)]
    assert "are numbers and labelled in their order" in capsys.readouterr().err
    imagefolder_sources(tree(tmp_path / "w", "c10/x.png", "c2/x.png"), None)
    assert "label 0 is c10; timm's reader would give it to c2" in capsys.readouterr().err


def test_splits_made_one_at_a_time_share_one_numbering(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/3.png", "val/c/4.png")
    for source, split in ((root, "val"), (root / "val", None), (root / "val", "val")):
        (val,) = imagefolder_sources(source, split)
        assert (val.classes, contents(val)) == (("a", "b", "c"), [(2, image_of(3))])
    (root / "classes.json").write_text(json.dumps({"a": "A", "b": "B", "c": "C"}))
    assert imagefolder_sources(root / "val", None)[0].classes == ("A", "B", "C")


def test_train_and_val_lists_are_compared() -> None:
    train = Manifest("t", "train", ("a", "b", "c"), ())
    check_same_classes(train, Manifest("v", "val", ("a", "b", "c"), ()))
    check_same_classes(train, Manifest("v", "val", None, ()))
    composed, decomposed = Manifest("t", "train", ("caf\u00e9",), ()), Manifest("v", "val", ("cafe\u0301",), ())
    check_same_classes(composed, decomposed)
    with pytest.raises(UserError, match=r"\(3 and 2\): label 1 is b in t and c in v"):
        check_same_classes(train, Manifest("v", "val", ("a", "c"), ()))


def test_image_formats_are_what_pillow_reads_in_the_decoder() -> None:
    Image.init()
    known = {end[1:] for end, kind in Image.registered_extensions().items() if kind in PILLOW_FORMATS}
    assert known <= set(IMAGE_EXTENSIONS)
    assert all(is_image_name(f"a/b.{end.upper()}") for end in IMAGE_EXTENSIONS)
    assert not any(map(is_image_name, ("jpg", "a.jpg/b", "a.heic", "a.txt", ".")))
    assert [
        member_extension(f"x.{end}") for end in ("JPEG", "jfif", "jpe", "jp2", "PNG")
    ] == "jpg jpg jpg jp2 png".split()


@pytest.mark.parametrize("name", ["README", "._a.jpg", "__MACOSX/a.jpg", "x/.DS_Store", "x/@eaDir/a.jpg"])
def test_members_that_are_no_samples(name: str) -> None:
    assert not is_sample_member(name)
    assert all(map(is_sample_member, ("a.jpg", "x/a.seg.png", "./a.cls")))


def test_tables_take_the_same_formats(tmp_path: Path) -> None:
    tree(tmp_path, "a.jfif", "b.heic")
    (tmp_path / "t.csv").write_text("\ufeffpath,label\na.jfif,1\nb.heic,0\n")
    with pytest.raises(UserError, match=r"line 3: 'b.heic' is no image by name"):
        csv_sources(tmp_path / "t.csv", None, CsvColumns(), None)


def test_tables_made_one_at_a_time_share_the_numbers_of_classes_json(tmp_path: Path) -> None:
    tree(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("path,label,part\na.png,dog,test\n")
    (tmp_path / "classes.json").write_text(json.dumps({"cat": "Cat", "dog": "Dog"}))
    (source,) = csv_sources(tmp_path / "t.csv", None, CsvColumns(split="part"), SplitChoice("test", "val"))
    assert (source.split, source.classes, contents(source)) == ("val", ("Cat", "Dog"), [(1, image_of(0))])


def test_compressed_tars_say_how_to_unpack_them(tmp_path: Path) -> None:
    packed = gzip.compress(tar_bytes(sample_members(1)))
    (tmp_path / "train-0.tar.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"train-0.tar.gz .* is compressed, .*gunzip"):
        load_manifest(tmp_path, "train")
    (tmp_path / "train-0.tar").write_bytes(packed)
    with pytest.raises(UserError, match=r"compressed with gzip; .*gunzip < FILE"):
        check_shards(load_manifest(tmp_path, "train"))


@pytest.mark.parametrize("name", ["train-1.tbz2", "train-1.tar.Z", "train-1.zip", "train-1.tar.part", "train-1.tar.1"])
def test_archives_that_cannot_be_read_in_place_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"{name} .*is compressed, or not downloaded to its end"):
        load_manifest(tmp_path, "train")
    make_shards(tmp_path, [1], "train")
    (tmp_path / "train-2.tar").mkdir()
    load_manifest(tmp_path, "train")
    lines = capsys.readouterr().err
    assert f"left out 1 archives that are compressed or not downloaded to their end, such as {name}" in lines
    assert "left out 1 folders called like tars, such as train-2.tar" in lines


def test_tars_in_folders_beside_others_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_shards(tmp_path / "more" / "0", [1], "b")
    make_shards(tmp_path / "old" / ".trash", [1], "b")
    with pytest.raises(
        UserError, match=r"no \.tar files, but 1 in the folders in it, such as more/0/b-0000\.tar; give their"
    ):
        load_manifest(tmp_path, "train")
    make_shards(tmp_path, [1], "a")
    with pytest.raises(UserError, match=r"a-0000\.tar is not a folder; give the folder that it lies in"):
        load_manifest(tmp_path / "a-0000.tar", "train")
    for read in (lambda: load_manifest(tmp_path, "train"), lambda: manifests_at(tmp_path)):
        read()
        said = capsys.readouterr().err
        assert said.count("left out 1 .tar files in the folders in it, such as more/0/b-0000.tar") == 1


@pytest.mark.parametrize(
    ("folder", "given", "split"), [("train/a", "", "train"), ("train/a", "train", "train"), ("val/a", "", "val")]
)
def test_tars_one_folder_further_down_are_said_of_the_split_that_they_are_of(
    tmp_path: Path, folder: str, given: str, split: str
) -> None:
    make_shards(tmp_path / folder, [1], "x")
    with pytest.raises(
        UserError, match=rf"no {split} shards in \S+/{split}: .* 1 in the folders in it, such as a/x-0000\.tar"
    ):
        manifests_at(tmp_path / given)


def test_tars_beside_val_are_the_training_shards(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_shards(tmp_path, [3], "x")
    make_shards(tmp_path / "val", [2], "x")
    assert [(manifest.split, manifest.root) for manifest in manifests_at(tmp_path)] == [
        ("train", str(tmp_path)),
        ("val", str(tmp_path / "val")),
    ]
    assert capsys.readouterr().err == ""


def test_tars_in_linked_folders_are_counted_and_links_not_followed_further(tmp_path: Path) -> None:
    for name in ("other/b.tar", "other/deeper/c.tar", "data/sub/d.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, target in (
        ("data/link", "other"),
        ("data/sub/link", "other"),
        ("data/round", "data"),
        ("data/gone", "no"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert _tars_below(tmp_path / "data") == ["link/b.tar", "sub/d.tar", "sub/link/b.tar"]


def test_bare_tars_that_are_copies_are_refused_and_listed_ones_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_shards(tmp_path, [2, 3], "train")
    (tmp_path / "train-0002.tar").write_bytes((tmp_path / "train-0000.tar").read_bytes())
    said = "1 shard holds the same samples as another one, such as train-0000.tar and train-0002.tar"
    with pytest.raises(UserError, match=f"{said}.* move the copies away"):
        load_manifest(tmp_path, "train")
    with pytest.raises(UserError, match="1 problems"):
        verify_folder(tmp_path)
    assert said in capsys.readouterr().out
    names = [f"train-000{number}.tar" for number in range(3)]
    info = {"splits": {"train": {"filenames": names, "shard_lengths": [2, 3, 2], "num_samples": 7}}}
    (tmp_path / "_info.json").write_text(json.dumps(info))
    check_shards(load_manifest(tmp_path, "train"))
    assert said in capsys.readouterr().err
    verify_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("labels.txt", 5, True),
        ("labels.csv", 6, True),
        ("train-0001.lst", 3, True),
        ("labels.txt", 6, False),
        ("notes.txt", 3, False),
        ("labels.md", 5, False),
        (".hidden.txt", 5, False),
    ],
)
def test_lists_that_may_be_labels_of_the_samples_are_said_not_to_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, lines: int, said: bool
) -> None:
    make_shards(tmp_path, [2, 3], "train")
    (tmp_path / name).write_text("\n".join("2" * lines))
    check_shards(load_manifest(tmp_path, "train"))
    verify_folder(tmp_path)
    remark = f"{name} has a line for each sample, and nothing of it is read: labels are in the samples themselves (cls)"
    assert capsys.readouterr().err.count(remark) == 2 * said


def test_shards_that_are_not_all_there_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_shards(tmp_path, [2], "train")
    (tmp_path / "train-0000.tar").rename(tmp_path / "train-0-of-3.tar")
    make_shards(tmp_path / "x", [3], "x")
    (tmp_path / "x" / "x-0000.tar").rename(tmp_path / "train-1-of-3.tar")
    check_shards(load_manifest(tmp_path, "train"))
    lines = capsys.readouterr().err
    assert "only 2 of the 3 parts train-N-of-3 are there" in lines
    make_shards(tmp_path / "both" / "train", [1])
    make_shards(tmp_path / "both", [2], "train")
    assert load_manifest(tmp_path / "both", "train").total == 1
    assert "left out 1 .tar files beside the folder train, such as train-0000.tar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"cat"', 'it holds "cat" instead of a list of words'),
        ("3", "it holds 3 instead"),
        ("null", "it holds null instead"),
        ("[]", r"it holds \[\] instead"),
        ("{}", "it holds {} instead"),
        ('["cat", "dog", "cat "]', "'cat' is there twice"),
        ('["cat", ["dog"]]', r'its list holds \["dog"\], which is no word'),
        ('["cat", null]', "its list holds null, which is no word"),
        (
            '{"cat": null, "dog": null}',
            "gives 'cat' the entry null; expected a name for every class, a label for every",
        ),
        ('{"cat": 0, "dog": "Dog"}', "gives 'dog' the entry \"Dog\"; expected"),
        ('{"cat": {"index": 0, "name": null}, "dog": {"index": 1, "name": "Dog"}}', "gives 'cat' the entry"),
        ('{"classes": ["cat", "dog"]}', "gives 'classes' the entry"),
    ],
)
def test_what_classes_json_may_not_hold_is_one_line_for_every_reader(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "classes.json").write_text(content)
    for read in (read_label_words, lambda file: read_class_table(["cat", "dog"], file)):
        with pytest.raises(UserError, match=message):
            read(tmp_path / "classes.json")


def test_a_word_that_is_another_number_than_its_label_is_refused(tmp_path: Path) -> None:
    make_shards(tmp_path, [2], "train")
    (tmp_path / "classes.json").write_text(json.dumps([f"{label:03d}" for label in range(7)]))
    assert load_manifest(tmp_path, "train").num_classes == 7
    (tmp_path / "classes.json").write_text(json.dumps({str(label + 1): label for label in range(7)}))
    with pytest.raises(UserError, match="gives the word '1' the label 0, so that it is not clear"):
        load_manifest(tmp_path, "train")


def write_lists(root: Path, *, inline: bool) -> Path:
    """iNaturalist's lists as of 2019 (categories in the lists) or 2018 (in a file of their own, ids in the lists)."""
    levels = [("Bufo bufo", "Bufo"), ("Apus apus", "Apus"), ("Bufo viridis", "Bufo")]
    categories = [{"id": number, "name": name, "genus": genus} for number, (name, genus) in enumerate(levels)]
    listed = categories if inline else [{"id": number, "name": str(number)} for number in range(3)]
    for split, chosen in (("train", [2, 0, 1]), ("val", [1])):
        names = [f"img/{split}/{number}.jpg" for number in chosen]
        tree(root, *names)
        images = [{"id": 10 + number, "file_name": name} for number, name in zip(chosen, names, strict=True)]
        labels = [{"id": i, "image_id": 10 + number, "category_id": number} for i, number in enumerate(chosen)]
        content = {"images": images, "annotations": labels, "categories": listed}
        (root / f"{split}201{9 if inline else 8}.json").write_text(json.dumps(content))
    if not inline:
        (root / "categories.json").write_text(json.dumps(categories))
    return root


@pytest.mark.parametrize("inline", [False, True])
def test_inaturalist(tmp_path: Path, inline: bool) -> None:
    root = write_lists(tmp_path, inline=inline)
    train, val = inaturalist_sources(root)
    assert train.classes == val.classes == ("Bufo bufo", "Apus apus", "Bufo viridis")
    assert contents(train) == [(0, image_of(1)), (1, image_of(2)), (2, image_of(0))]
    assert contents(val) == [(1, image_of(0))]
    genera, _ = inaturalist_sources(root, "genus")
    assert (genera.classes, [label for label, _ in contents(genera)]) == (("Apus", "Bufo"), [0, 1, 1])
    with pytest.raises(UserError, match="category 0 has no family; levels there are: name, genus"):
        inaturalist_sources(root, "family")
    with pytest.raises(UserError, match="no lists such as"):
        inaturalist_sources(root / "img")


def test_inaturalist_of_2021_with_fewer_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_lists(tmp_path, inline=True)
    for split, name in (("train", "train_mini"), ("val", "val")):
        (root / f"{split}2019.json").rename(root / f"{name}.json")
    (root / "train_bboxes.json").write_text("{}")
    assert [(source.split, len(source)) for source in inaturalist_sources(root)] == [("train", 3), ("val", 1)]
    assert (
        "left out 1 JSON files that are no lists of images by name, such as train_bboxes.json"
        in capsys.readouterr().err
    )
    (root / "train.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"the train split 2 times, in train\.json and train_mini\.json; move all but one"
    ):
        inaturalist_sources(root)


def test_inaturalist_names_that_occur_in_two_kingdoms_are_two_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_lists(tmp_path, inline=True)
    tree_of = {0: ("Plantae", "Lamiaceae", "Prunella"), 2: ("Animalia", "Prunellidae", "Prunella")}
    for name in ("train2019.json", "val2019.json"):
        content = json.loads((root / name).read_text())
        for entry in content["categories"]:
            where = tree_of.get(entry["id"], ("Animalia", "Apodidae", "Apus"))
            entry |= dict(zip(("kingdom", "family", "genus"), where, strict=True))
        (root / name).write_text(json.dumps(content))
    train, _ = inaturalist_sources(root, "genus")
    assert train.classes is not None
    assert len(train.classes) == 3
    assert set(train.classes) == {"Apus", "Prunella (Animalia)", "Prunella (Plantae)"}
    assert "are Prunella (Animalia), Prunella (Plantae): kept apart" in capsys.readouterr().err
    assert inaturalist_sources(root, "kingdom")[0].classes == ("Animalia", "Plantae")


def _edit_list(root: Path, name: str, **entries: list[dict[str, object]]) -> None:
    """Add entries to a list of iNaturalist."""
    content = json.loads((root / name).read_text())
    for key, added in entries.items():
        content[key] += added
    (root / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("train2019.json", {"images": [{"id": 10, "file_name": "img/train/1.jpg"}]}, "4 images of 3 ids"),
        (
            "train2019.json",
            {"categories": [{"id": 2, "name": "another"}]},
            "different categories, or one of them twice",
        ),
        (
            "train2019.json",
            {
                "images": [{"id": 20, "file_name": "img/val/../val/1.jpg"}],
                "annotations": [{"id": 9, "image_id": 20, "category_id": 0}],
            },
            r"name the file img/val/1\.jpg twice, as img/val/\.\./val/1\.jpg before",
        ),
        (
            "val2019.json",
            {
                "images": [{"id": 20, "file_name": "x.heic"}],
                "annotations": [{"id": 9, "image_id": 20, "category_id": 0}],
            },
            "the val list in .* names x.heic, which is no image by name",
        ),
        ("val2019.json", {"annotations": [{"id": 9, "image_id": 11.5, "category_id": 0}]}, "11.5 is no whole number"),
        ("val2019.json", {"annotations": [{"id": 9, "image_id": True, "category_id": 0}]}, "True is no whole number"),
    ],
)
def test_inaturalist_lists_that_contradict_themselves(
    tmp_path: Path, name: str, entries: dict[str, list[dict[str, object]]], message: str
) -> None:
    root = write_lists(tmp_path, inline=True)
    _edit_list(root, name, **entries)
    with pytest.raises(UserError, match=message):
        inaturalist_sources(root)


def test_inaturalist_categories_of_another_year(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_lists(tmp_path, inline=True)
    (root / "test2019.json").write_text("{}")
    inaturalist_sources(root)
    assert "test2019.json not used" in capsys.readouterr().err
    content = json.loads((root / "val2019.json").read_text())
    content["categories"][0]["name"] = "Apus apus"
    (root / "val2019.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="the name of category 0 is Bufo bufo and Apus apus in the lists"):
        inaturalist_sources(root)


@pytest.mark.parametrize("timm", [False, True])
def test_tars_that_no_manifest_names_are_said(tmp_path: Path, timm: bool, capsys: pytest.CaptureFixture) -> None:
    make_shards(tmp_path, [2, 3])
    names = ["shard-0000.tar", "shard-0001.tar"]
    timm_splits = {
        split: {"filenames": [name], "shard_lengths": [size], "num_samples": size}
        for split, name, size in (("train", names[0], 2), ("validation", names[1], 3))
    }
    shards = [
        {"name": name, "samples": size, "bytes": 1, "sha256": "x"} for name, size in zip(names, (2, 3), strict=True)
    ]
    ours = {"format": "sar_dist-shards-1", "split": "train", "classes": None, "total": 5, "shards": shards}
    content = {"splits": timm_splits} if timm else ours
    (tmp_path / ("_info.json" if timm else "manifest.json")).write_text(json.dumps(content))
    assert load_manifest(tmp_path, "train").total == (2 if timm else 5)
    assert capsys.readouterr().err == ""
    for name in ("more.tar", "._shard-0000.tar"):
        (tmp_path / name).write_bytes((tmp_path / "shard-0000.tar").read_bytes())
    load_manifest(tmp_path, "train")
    file = "_info.json" if timm else "manifest.json"
    said = f"{tmp_path}: left out 1 .tar files that {file} does not name, such as more.tar\n"
    assert capsys.readouterr().err == said


def test_labels_in_quotes_are_not_taken_for_names(tmp_path: Path) -> None:
    tree(tmp_path / "images", "cat/1.png", "dog/2.png")
    make_shards(tmp_path / "tars", [2], "train")
    (tmp_path / "t.csv").write_text("path,label\nimages/cat/1.png,cat\nimages/dog/2.png,dog\n")
    for folder in (tmp_path, tmp_path / "images", tmp_path / "tars"):
        (folder / "classes.json").write_text('{"cat": "1", "dog": "0"}')
    (tmp_path / "tars" / "manifest.json").unlink(missing_ok=True)
    for read in (
        lambda: csv_sources(tmp_path / "t.csv", None, CsvColumns(), None),
        lambda: imagefolder_sources(tmp_path / "images", None),
        lambda: load_manifest(tmp_path / "tars", "train"),
    ):
        with pytest.raises(
            UserError, match=r"gives 'cat' the name \"1\".*labels in quotes; write labels without quotes"
        ):
            read()
    (tmp_path / "images" / "classes.json").write_text('{"cat": "0", "dog": "Dog"}')
    assert imagefolder_sources(tmp_path / "images", None)[0].classes == ("0", "Dog")


def test_a_link_is_of_the_split_that_it_is_called(tmp_path: Path) -> None:
    tree(tmp_path / "train", "cat/1.png", "dog/2.png")
    tree(tmp_path / "store", "dog/3.png")
    make_shards(tmp_path / "tars", [2], "0")
    (tmp_path / "tars" / "manifest.json").unlink(missing_ok=True)
    (tmp_path / "val").symlink_to(tmp_path / "store")
    (source,) = imagefolder_sources(tmp_path / "val", None)
    assert (source.split, source.classes, source.sample(0)[1]["cls"]) == ("val", ("cat", "dog"), b"1")
    (tmp_path / "val").rename(tmp_path / "test")
    with pytest.raises(UserError, match="test is a test split by name"):
        imagefolder_sources(tmp_path / "test", None)
    (tmp_path / "validation").symlink_to(tmp_path / "tars")
    assert [manifest.split for manifest in manifests_at(tmp_path / "validation")] == ["val"]


def test_a_link_of_another_name_to_a_split_is_refused_until_it_is_said_what_it_is(tmp_path: Path) -> None:
    tree(tmp_path / "val", "cat/1.png", "dog/2.png")
    (tmp_path / "photos").symlink_to("val")
    with pytest.raises(UserError, match=r"photos leads to \S+/val, a val split by name.*--split val or --split train"):
        imagefolder_sources(tmp_path / "photos", None)
    assert [source.split for source in imagefolder_sources(tmp_path / "photos", "train")] == ["train"]
    (tmp_path / "train").symlink_to("val")
    assert [source.split for source in imagefolder_sources(tmp_path / "train", None)] == ["train"], "it is called so"
