"""Public data sets in the layouts in which they are downloaded: read, or refused with the command that reads them."""

from __future__ import annotations

import argparse
import shlex
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from shard_factory import image_of

from sar_dist.data.making.sources import (
    COMMANDS,
    CsvColumns,
    FileSource,
    Source,
    csv_sources,
    how_it_is_read,
    imagefolder_sources,
    list_sources,
    torchvision_sources,
)
from sar_dist.errors import UserError
from sar_dist.transfer.samples import open_labelled_samples

CUB = {
    "images.txt": "1 001.Auk/a.png\n2 002.Owl/b.png\n3 002.Owl/c.png\n",
    "image_class_labels.txt": "1 1\n2 2\n3 2\n",
    "train_test_split.txt": "1 1\n2 1\n3 0\n",
    "classes.txt": "1 001.Auk\n2 002.Owl\n",
}


def write(root: Path, images: list[str], texts: dict[str, str]) -> Path:
    for number, name in enumerate(images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_of(number))
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def labels(source: Source) -> dict[str, str]:
    """The class of each key."""
    assert source.classes is not None
    samples = [source.sample(number) for number in range(len(source))]
    return {key: source.classes[int(members["cls"])] for key, members in samples}


def sources_of(command: str) -> list[Source]:
    """What ``make_shards.py COMMAND`` would write."""
    _, name, *arguments = shlex.split(command)
    made = next(made for made in COMMANDS if made.name == name)
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out")
    parser.add_argument("--split")
    made.add_arguments(parser)
    return list(made.sources(parser.parse_args(arguments)))


@pytest.mark.parametrize(
    ("images", "texts", "expected"),
    [
        pytest.param(
            ["data/images/01.jpg", "data/images/02.jpg"],
            {
                "data/variants.txt": "A 1\nB 2\n",
                "data/images_variant_trainval.txt": "01 A 1\n",
                "data/images_variant_test.txt": "02 B 2\n",
            },
            [{"01": "A 1"}, {"02": "B 2"}],
            id="FGVC-Aircraft",
        ),
        pytest.param(
            ["images/Pug_1.jpg", "images/Pug_2.jpg", "images/Cat_1.jpg", "images/Cat_2.jpg"],
            {
                "annotations/list.txt": "#\n",
                "annotations/trainval.txt": "Cat_1 1 1 1\nPug_1 2 2 1\n",
                "annotations/test.txt": "Cat_2 1 1 1\nPug_2 2 2 1\n",
            },
            [{"Pug_1": "Pug", "Cat_1": "Cat"}, {"Cat_2": "Cat", "Pug_2": "Pug"}],
            id="Pets",
        ),
        pytest.param(
            ["images/pie/1.jpg", "images/pie/2.jpg", "images/tea/3.jpg"],
            {
                "meta/train.json": '{"pie": ["pie/1"], "tea": ["tea/3"]}',
                "meta/test.json": '{"pie": ["pie/2"], "tea": []}',
            },
            [{"1": "pie", "3": "tea"}, {"2": "pie"}],
            id="Food-101",
        ),
        pytest.param(
            ["a/abbey/1.jpg", "a/x/out/2.jpg"],
            {"Training_01.txt": "/a/abbey/1.jpg\n/a/x/out/2.jpg\n"},
            [{"1": "a/abbey", "2": "a/x/out"}],
            id="SUN397",
        ),
        pytest.param(
            ["images/001.Auk/a.png", "images/002.Owl/b.png", "images/002.Owl/c.png"],
            CUB,
            [{"a": "001.Auk", "b": "002.Owl"}, {"c": "002.Owl"}],
            id="CUB",
        ),
        pytest.param(
            ["images_part_1/x1.jpg", "images_part_2/x2.jpg"],
            {"metadata.csv": "lesion_id,image_id,dx,age\nl,x1,nv,3\nl,x2,mel,4\n"},
            [{"x1": "nv", "x2": "mel"}],
            id="HAM10000",
        ),
        pytest.param(
            ["train/f1.jpg", "train/f2.jpg", "test/f3.jpg"],
            {"labels.csv": "id,breed\nf1,pug\nf2,boxer\n"},
            [{"f1": "pug", "f2": "boxer"}],
            id="Kaggle",
        ),
    ],
)
def test_the_command_that_a_refusal_gives_reads_the_set(
    tmp_path: Path, images: list[str], texts: dict[str, str], expected: list[dict[str, str]]
) -> None:
    root = write(tmp_path / "set", images, texts)
    with pytest.raises(UserError) as refused:
        imagefolder_sources(root, None)
    made = sources_of(str(refused.value).split("`")[1])
    assert [source.split for source in made] == ["train", "val"][: len(made)]
    assert [labels(source) for source in made] == expected


def test_tables_prefer_the_column_of_paths(tmp_path: Path) -> None:
    write(
        tmp_path,
        ["Train/0/a.png", "Meta/0.png", "Test/b.png"],
        {"Train.csv": "Width,ClassId,Path\n2,0,Train/0/a.png\n", "Test.csv": "Width,ClassId,Path\n2,0,Test/b.png\n"},
    )
    said = how_it_is_read(tmp_path) or ""
    assert f"csv {tmp_path}/Train.csv OUT --image-column Path --label-column ClassId`" in said
    assert "Test.csv beside it names others: the same with it, --split test=val" in said


def test_a_table_of_test_images_alone_is_said_behind_what_folders_say(tmp_path: Path) -> None:
    """As GTSRB has it: training images in folders, test images in a table."""
    images = ["Final_Training/Images/0/a.ppm", "Final_Training/Images/1/b.ppm", "Final_Test/Images/c.ppm"]
    write(tmp_path, images, {"GT-final_test.csv": "Filename;Width;ClassId\nc.ppm;2;0\n"})
    said = r"give one of them alone; .* csv \S+GT-final_test.csv OUT --image-column Filename .*--split test=val"
    with pytest.raises(UserError, match=said):
        imagefolder_sources(tmp_path, None)


def test_evaluations_say_what_reads_a_set(tmp_path: Path) -> None:
    listed = write(tmp_path / "a", ["images/x/1.png", "images/x/2.png"], {"train.txt": "x/1\n", "test.txt": "x/2\n"})
    said = r"no train split; .*`make_shards.py lists \S+train.txt OUT --val \S+test.txt` .*--data OUT"
    with pytest.raises(UserError, match=said):
        open_labelled_samples(listed, "train", "files")
    nested = write(tmp_path / "b", ["deep/data/train/x/1.png", "deep/data/val/x/2.png"], {})
    with pytest.raises(UserError, match=r"no train split; give \S+/deep/data, which holds splits, or files"):
        open_labelled_samples(nested, "train", "files")


def test_lists_beside_class_folders_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "set", ["images/a/1.png", "images/b/2.png"], {"meta/train.txt": "a/1\nb/2\n"})
    (source,) = imagefolder_sources(tmp_path / "set" / "images", None)
    assert source.classes == ("a", "b")
    assert "meta/train.txt lists images and their classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cifar/data_batch_1.bin", "holds no images but files such as"),
        ("mnist.npz", "holds no images but files such as"),
    ],
)
def test_arrays_are_named(tmp_path: Path, name: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        imagefolder_sources(write(tmp_path, [], {name: "x"}), None)


def test_mnist_by_its_path(tmp_path: Path) -> None:
    raw = tmp_path / "MyFashion" / "files"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">HBBIII", 0, 8, 3, 2, 28, 28) + bytes(2 * 28 * 28)
        )
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 2) + bytes([3, 7]))
    train, val = torchvision_sources(tmp_path)
    assert labels(train) == labels(val) == {"000000": "Dress", "000001": "Sneaker"}
    (made,) = torchvision_sources(tmp_path, "val")
    assert made.split == "val"


def test_an_incomplete_set_of_torchvision_is_refused(tmp_path: Path) -> None:
    lists = dict.fromkeys(("annotations/list.txt", "annotations/trainval.txt", "annotations/test.txt"), "Pug_2 2 2 1\n")
    with pytest.raises(UserError, match=r"a label 1 .* of 1 classes.*; complete it"):
        torchvision_sources(write(tmp_path, ["images/Pug_2.jpg"], lists))


def test_two_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    files = {"cifar-10-batches-py": ("data_batch_1", "test_batch"), "cifar-100-python": ("train", "test", "meta")}
    both = write(tmp_path / "both", [], {f"{folder}/{name}": "" for folder, names in files.items() for name in names})
    for read in (torchvision_sources, lambda root: open_labelled_samples(root, "val", "a set")):
        with pytest.raises(
            UserError, match=r"holds CIFAR10 in \S*batches-py and CIFAR100 in \S*python: give the folder"
        ):
            read(both)
    assert "CIFAR10" in (how_it_is_read(both) or "")
    beside = write(tmp_path / "beside", ["train/a/1.png", "val/a/2.png"], {"cifar-100-python/meta": ""})
    with pytest.raises(UserError, match=r"holds splits and, beside them, CIFAR100 in cifar-100-python: give \S*python"):
        open_labelled_samples(beside, "val", "a set")


def one_list(root: Path, text: str, **options: int) -> FileSource:
    (root / "t.txt").write_text(text)
    (source,) = list_sources(root / "t.txt", None, None, None, **options)
    return source


def test_lines_of_a_list(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, ["a b.png", "c/d.png", "e.png"], {})
    words = one_list(tmp_path, "# x\na b.png\tbig cat\n/c/d.png\n\ne,dog\n")
    assert sorted(labels(words).values()) == ["big cat", "c", "dog"]
    numbers = one_list(tmp_path, "a b.png 1 4\ne 2 5\n", field=1)
    assert [numbers.sample(number)[1]["cls"] for number in range(2)] == [b"1", b"2"]
    assert "the labels begin with 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("e.png 1 4\n", "line 1 has 2 numbers behind the image .* --label-field 1"),
        ("e.png\n", "neither a label behind it nor a folder"),
        ("e.png cat\nf.png cat\n", r"line 2: there is no image f\.png"),
        ("x.png cat\n", "say in which folder the images are, with --images"),
        ("e.png cat\ne cat\n", "names e.png twice, on lines 1 and 2"),
        ("# nothing\n", "lists no images"),
        ("same cat\n", r"same may be one/same\.png or two/same\.png"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    root = write(tmp_path / "a" / "b", ["e.png", "one/same.png", "two/same.png"], {})
    with pytest.raises(UserError, match=message):
        one_list(root, text)


def test_lists_of_splits(tmp_path: Path) -> None:
    root = write(
        tmp_path / "set", ["x/1.png", "y/2.png"], {"train.txt": "x/1\n", "test.txt": "y/2\n", "again.txt": "y/2\nx/1\n"}
    )
    train, val = list_sources(root / "train.txt", root / "test.txt", None, None)
    assert (labels(train), labels(val), train.classes) == ({"1": "x"}, {"2": "y"}, ("x", "y"))
    for first, second, message in (
        ("test.txt", "train.txt", "exchanged"),
        ("train.txt", "again.txt", "1 of its images are in the list of validation images too"),
        ("train.txt", "train.txt", "give two lists"),
    ):
        with pytest.raises(UserError, match=message):
            list_sources(root / first, root / second, None, None)
    with pytest.raises(UserError, match="--split test=val"):
        list_sources(root / "test.txt", None, None, None)


def test_a_table_s_names_must_fit_one_image(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.png", "b/1.png"], {"t.csv": "path,label\n1,x\n"})
    with pytest.raises(UserError, match=r"1 may be a/1\.png or b/1\.png"):
        csv_sources(tmp_path / "t.csv", None, CsvColumns(), None)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            ["test/1.png", "train/1.png"],
            r"1 may be train/1\.png or test/1\.png in .* --images \S+/train or --images \S+/test",
        ),
        (["x/1.png", "x/1.jpg"], r"1 may be x/1\.jpg or x/1\.png in .* list the images with their extensions"),
    ],
)
def test_what_is_said_of_names_that_fit_several_images_helps(tmp_path: Path, images: list[str], message: str) -> None:
    write(tmp_path, images, {"t.csv": "path,label\n1,x\n"})
    with pytest.raises(UserError, match=message):
        csv_sources(tmp_path / "t.csv", None, CsvColumns(), None)


def stanford_cars(root: Path) -> Path:
    """Three training and two test images of three makes, in the layout that the archives make."""
    images = [f"cars_train/{number:05d}.jpg" for number in (1, 2, 3)] + ["cars_test/00001.jpg", "cars_test/00002.jpg"]
    write(root, images, {})
    (root / "devkit").mkdir()
    names = np.array(["Audi S4", "BMW M3", "Ford GT"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    for file, classes in (("devkit/cars_train_annos.mat", (3, 1, 2)), ("cars_test_annos_withlabels.mat", (2, 3))):
        rows = np.zeros((1, len(classes)), [("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
        for place, label in enumerate(classes):
            rows[0, place] = (1, label, f"{place + 1:05d}.jpg")
        savemat(root / file, {"annotations": rows})
    return root


def test_stanford_cars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, file = stanford_cars(tmp_path / "cars"), "cars_test_annos_withlabels.mat"
    for _ in range(2):
        train, val = torchvision_sources(root)
        assert labels(train) == {"00001": "Ford GT", "00002": "Audi S4", "00003": "BMW M3"}
        assert labels(val) == {"00001": "BMW M3", "00002": "Ford GT"}
        if (root / file).exists():
            (root / file).rename(root / "devkit" / file)
    with pytest.raises(UserError, match=r"`make_shards\.py torchvision .*cars OUT` makes shards of it"):
        imagefolder_sources(root, None)
    (root / "devkit" / file).unlink()
    with pytest.raises(UserError, match=f"for the test images, {file}; --split train makes"):
        torchvision_sources(root)
    assert len(torchvision_sources(root, "train")[0]) == 3
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match="pip install scipy"):
        torchvision_sources(root, "train")


@pytest.mark.parametrize("read", [torchvision_sources, lambda root: imagefolder_sources(root, None)])
def test_whole_numbers_of_svhn_are_refused_with_what_to_fetch(tmp_path: Path, read: Callable[[Path], object]) -> None:
    write(tmp_path, ["train/1.png", "test/1.png"], {"train/digitStruct.mat": "x", "test/digitStruct.mat": "x"})
    with pytest.raises(UserError, match=r"digitStruct\.mat is of .* several digits an image; fetch .*train_32x32\.mat"):
        read(tmp_path)
