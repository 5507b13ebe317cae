"""Tiny ImageNet as it is downloaded: shards of the same samples as class folders give, and boxes for ``attention_boxes``."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import jpeg

from sar_dist.data.making.sources import imagefolder_sources, tiny_imagenet_sources
from sar_dist.errors import UserError
from sar_dist.transfer.tasks.attention.boxed_images import BoxedImages, has_boxes

SYNSETS = ("n01443537", "n01629819")
BOX = (3, 10, 40, 63)


def write_tiny(root: Path) -> Path:
    val = root / "val"
    (val / "images").mkdir(parents=True)
    lines = []
    for number in range(4):
        (val / "images" / f"val_{number}.JPEG").write_bytes(jpeg(number))
        lines.append("\t".join([f"val_{number}.JPEG", SYNSETS[number % 2], *map(str, BOX)]))
    (val / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    for place, synset in enumerate(SYNSETS):
        images = root / "train" / synset / "images"
        images.mkdir(parents=True)
        names = [f"{synset}_{number}.JPEG" for number in range(3)]
        for number, name in enumerate(names):
            (images / name).write_bytes(jpeg(10 * (1 + place) + number))
        table = "".join("\t".join([name, *map(str, BOX)]) + "\n" for name in names)
        (root / "train" / synset / f"{synset}_boxes.txt").write_text(table)
    (root / "wnids.txt").write_text("\n".join(reversed(SYNSETS)))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn00001740\tentity\n")
    return root


def test_samples_are_those_of_class_folders(tmp_path: Path) -> None:
    root = write_tiny(tmp_path / "tiny-imagenet-200")
    for number in range(4):
        folder = tmp_path / "tree" / "val" / SYNSETS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "val" / "images" / f"val_{number}.JPEG", folder)
    for synset in SYNSETS:
        shutil.copytree(root / "train" / synset / "images", tmp_path / "tree" / "train" / synset)
    made, expected = tiny_imagenet_sources(root), imagefolder_sources(tmp_path / "tree", None)
    for ours, theirs in zip(made, expected, strict=True):
        assert ours.split == theirs.split
        assert {key: dict(members) for key, members in map(ours.sample, range(len(ours)))} == {
            key: dict(members) for key, members in map(theirs.sample, range(len(theirs)))
        }
        assert ours.classes == ("goldfish", "n01629819")
    assert [len(source) for source in tiny_imagenet_sources(root, "val")] == [4]


def test_images_of_classes_without_training_images_are_left_out_and_counted(tmp_path: Path, capsys) -> None:
    root = write_tiny(tmp_path)
    shutil.rmtree(root / "train" / SYNSETS[1])
    assert [len(source) for source in tiny_imagenet_sources(root)] == [3, 2]
    assert (
        "left out 2 images of classes without training images, such as val/images/val_1.JPEG" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 4)])
def test_boxes_are_those_of_its_lists(split, count: int, tmp_path: Path) -> None:
    root = write_tiny(tmp_path)
    assert has_boxes(root)
    boxes = BoxedImages(root, split)
    assert len(boxes) == count
    path, members = boxes.sample(1)
    assert (root / path).read_bytes() == members["jpg"]
    size = Image.open(io.BytesIO(members["jpg"])).size
    mask = np.asarray(Image.open(io.BytesIO(members["mask.png"])))
    assert mask.shape == size[::-1]
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min()) == BOX[:2]
    assert (columns.max(), rows.max()) == (min(BOX[2], size[0] - 1), min(BOX[3], size[1] - 1))


def remove(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


def write(path: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("wnids.txt"), r"is not Tiny ImageNet as it is downloaded.*imagefolder"),
        (remove("val/images/val_2.JPEG"), r"lists 4 images, and 3 are there; val/images/val_2\.JPEG is not in both"),
        (write("val/images/val_9.JPEG", ""), r"lists 4 images, and 5 are there; val/images/val_9\.JPEG is not in both"),
        (remove("train/n01443537/n01443537_boxes.txt"), r"cannot read .*n01443537_boxes\.txt"),
        (
            write("train/n01443537/n01443537_boxes.txt", "a.JPEG\t1\t2\t3\n"),
            r"line 1 does not list an image and its box",
        ),
        (write("val/val_annotations.txt", "val_0.JPEG\tn01443537\t9\t0\t3\t4\n"), r"line 1 does not list an image"),
        (write("val/val_annotations.txt", 4 * "val_0.JPEG\tn01443537\t0\t0\t3\t4\n"), r"lists 4 images"),
    ],
)
def test_what_is_damaged_is_said(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    root = write_tiny(tmp_path)
    change(root)
    with pytest.raises(UserError, match=message):
        tiny_imagenet_sources(root)
