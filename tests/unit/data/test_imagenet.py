"""ImageNet-1k as it is downloaded, in small: archives and folders give the samples of a tree of class folders."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from support import jpeg, tool

from sar_dist.data.making.sources import Source, imagefolder_sources, imagenet_sources
from sar_dist.errors import UserError

SYNSETS = ("n01440764", "n01443537", "n02012849")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane")
# The kit numbers the synsets in an order of its own, and one above them has no images.
NUMBERS = {"n01440764": 3, "n01443537": 1, "n02012849": 2}
ABOVE = ("n00001740", 4, "entity", 3)
VALIDATION = {f"ILSVRC2012_val_{place:08d}": SYNSETS[place % 3] for place in range(1, 8)}
TRAINING = {f"{synset}_{number}": synset for synset in SYNSETS for number in (7, 10, 293)}
IMAGES = {name: jpeg(place) for place, name in enumerate([*TRAINING, *VALIDATION])}


def packed(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def class_tars() -> dict[str, bytes]:
    return {
        f"{synset}.tar": packed({f"{name}.JPEG": IMAGES[name] for name, of in TRAINING.items() if of == synset})
        for synset in reversed(SYNSETS)
    }


def write_kit(folder: Path) -> None:
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(NUMBERS[synset], synset, word, "", 0) for synset, word in zip(SYNSETS, WORDS, strict=True)]
    rows.append((ABOVE[1], ABOVE[0], ABOVE[2], "", ABOVE[3]))
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kind)})
    truth = "".join(f"{NUMBERS[synset]}\n" for synset in VALIDATION.values())
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(folder / "meta.mat", "ILSVRC2012_devkit_t12/data/meta.mat")
        member = tarfile.TarInfo("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")
        member.size = len(truth)
        tar.addfile(member, io.BytesIO(truth.encode()))
    (folder / "meta.mat").unlink()


def write_archives(folder: Path) -> Path:
    """As image-net.org has it."""
    write(folder / "ILSVRC2012_img_train.tar", packed(class_tars()))
    write(folder / "ILSVRC2012_img_val.tar", packed({f"{name}.JPEG": IMAGES[name] for name in VALIDATION}))
    write_kit(folder)
    return folder


def write_kaggle(folder: Path) -> Path:
    """As Kaggle has it."""
    images = folder / "ILSVRC" / "Data" / "CLS-LOC"
    for name, synset in TRAINING.items():
        write(images / "train" / synset / f"{name}.JPEG", IMAGES[name])
    for name in VALIDATION:
        write(images / "val" / f"{name}.JPEG", IMAGES[name])
    write(images / "test" / "ILSVRC2012_test_00000001.JPEG", b"of no class")
    rows = [f"{name},{synset} 1 2 3 4 {synset} 5 6 7 8 \n" for name, synset in reversed(VALIDATION.items())]
    write(folder / "LOC_val_solution.csv", "".join(["ImageId,PredictionString\n", *rows]).encode())
    names = [f"{synset} {word}\n" for synset, word in zip(SYNSETS, WORDS, strict=True)]
    write(folder / "LOC_synset_mapping.txt", "".join(names).encode())
    return folder


def write_tree(folder: Path) -> Path:
    """As scripts for either arrange it."""
    for split, names in (("train", TRAINING), ("val", VALIDATION)):
        for name, synset in names.items():
            write(folder / split / synset / f"{name}.JPEG", IMAGES[name])
    return folder


def content(sources: list[Source]) -> dict[str, dict[str, Mapping[str, bytes]]]:
    """Members of every sample by split and key."""
    return {source.split: dict(source.sample(number) for number in range(len(source))) for source in sources}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, dict[str, Mapping[str, bytes]]]:
    return content([*imagefolder_sources(write_tree(tmp_path / "tree"), None)])


@pytest.mark.parametrize("layout", [write_archives, write_kaggle, write_tree])
def test_every_download_gives_the_samples_of_class_folders(layout, expected, tmp_path: Path) -> None:
    sources = imagenet_sources(layout(tmp_path / "imagenet"))
    assert content([*sources]) == expected
    assert [len(source) for source in sources] == [9, 7]
    assert sources[1].sample(0)[0].startswith("ILSVRC2012_val_0"), "the name by which the ReaL labels are found"
    named = SYNSETS if layout is write_tree else ("tench", "goldfish", "crane")
    assert {source.classes for source in sources} == {named}


def test_what_is_unpacked_in_part_is_read_as_it_lies(expected, tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "imagenet")
    (folder / "ILSVRC2012_img_train.tar").unlink()
    for name, data in class_tars().items():
        write(folder / "train" / name, data)
    shutil.unpack_archive(folder / "train" / f"{SYNSETS[0]}.tar", folder / "train" / SYNSETS[0])
    (folder / "train" / f"{SYNSETS[0]}.tar").unlink()
    shutil.unpack_archive(folder / "ILSVRC2012_img_val.tar", folder / "val")
    (folder / "ILSVRC2012_img_val.tar").unlink()
    shutil.unpack_archive(folder / "ILSVRC2012_devkit_t12.tar.gz", folder)
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert content([*imagenet_sources(folder)]) == expected


def test_one_split_has_the_numbers_of_both(expected, tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "imagenet")
    (source,) = imagenet_sources(folder, "val")
    assert content([source]) == {"val": expected["val"]}
    (folder / "ILSVRC2012_img_train.tar").unlink()
    assert content([*imagenet_sources(folder)]) == {"val": expected["val"]}


def test_what_is_not_there_or_no_image_is_said(tmp_path: Path, capsys) -> None:
    folder = write_kaggle(tmp_path / "imagenet")
    train = folder / "ILSVRC" / "Data" / "CLS-LOC" / "train"
    write(train / SYNSETS[0] / "._n01440764_7.JPEG", b"left by another system")
    write(train / SYNSETS[1] / "list.txt", b"")
    write(train / SYNSETS[1] / f"{SYNSETS[1]}_7.JPEG", b"")
    write(train / "n01.txt", b"")
    shutil.rmtree(train.parent / "val")
    (source,) = imagenet_sources(folder)
    assert len(source) == 9
    said = capsys.readouterr().err
    assert said.count("n01.txt") == 1
    assert "no val images, ILSVRC2012_img_val.tar or val/; that split is not made" in said
    assert "1 files are empty, such as n01443537_7.JPEG, and will be bad samples" in said
    assert "left out 2 files that are no images by name, such as ._n01440764_7.JPEG" in said
    assert "left out 1 files and folders that are no images or classes of ImageNet, such as n01.txt" in said


def test_validation_images_of_other_classes_are_left_out_and_counted(tmp_path: Path, capsys) -> None:
    folder = write_kaggle(tmp_path / "imagenet")
    shutil.rmtree(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train" / SYNSETS[0])
    train, val = imagenet_sources(folder)
    assert (len(train), len(val)) == (6, 5)
    assert {val.sample(number)[1]["cls"] for number in range(5)} == {b"0", b"1"}
    assert "left out 2 images of classes without training images" in capsys.readouterr().err


def test_classes_that_share_a_word_keep_their_synset(tmp_path: Path) -> None:
    folder = write_kaggle(tmp_path / "imagenet")
    names = folder / "LOC_synset_mapping.txt"
    names.write_text(names.read_text().replace("tench, Tinca", "crane, Tinca"))
    assert imagenet_sources(folder)[0].classes == ("crane (n01440764)", "goldfish", "crane (n02012849)")


def without_lists(folder: Path) -> None:
    (folder / "LOC_val_solution.csv").unlink()


def with_a_strange_list(folder: Path) -> None:
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,tench\n")


def with_a_short_list(folder: Path) -> None:
    file = folder / "LOC_val_solution.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))


def with_images_twice(folder: Path) -> None:
    write(folder / "ILSVRC2012_img_val.tar", packed({}))


def with_a_damaged_kit(folder: Path) -> None:
    write(folder / "ILSVRC2012_devkit_t12.tar.gz", b"\x1f\x8b cut off")


def with_a_strange_archive(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train")
    write(folder / "ILSVRC2012_img_train.tar", packed({"dogs.tar": b""}))


def with_a_cut_archive(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train")
    write(folder / "ILSVRC2012_img_train.tar", packed(class_tars())[:20_000])


def with_a_damaged_class(folder: Path) -> None:
    tars = class_tars()
    tars["n01443537.tar"] = tars["n01443537.tar"][:3000]
    shutil.rmtree(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train")
    write(folder / "ILSVRC2012_img_train.tar", packed(tars))


def with_a_compressed_archive(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train")
    write(folder / "ILSVRC2012_img_train.tar", b"\x1f\x8b\x08" + bytes(1000))


def with_an_archive_appended(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train")
    once = class_tars()
    again = packed({f"{SYNSETS[0]}_7.JPEG": b"1", f"./{SYNSETS[0]}_7.JPEG": b"2"})
    write(folder / "ILSVRC2012_img_train.tar", packed(once | {f"{SYNSETS[0]}.tar": again}))


def with_a_class_twice(folder: Path) -> None:
    write(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train" / f"{SYNSETS[0]}.tar", packed({}))


def with_images_further_down(folder: Path) -> None:
    write(folder / "ILSVRC" / "Data" / "CLS-LOC" / "train" / SYNSETS[0] / "more" / "n01440764_8.JPEG", jpeg(1))


def with_a_validation_image_in_a_class_too(folder: Path) -> None:
    write(folder / "ILSVRC" / "Data" / "CLS-LOC" / "val" / SYNSETS[0] / "ILSVRC2012_val_00000001.JPEG", jpeg(1))


def with_a_pointer(folder: Path) -> None:
    image = next((folder / "ILSVRC" / "Data" / "CLS-LOC" / "train" / SYNSETS[0]).iterdir())
    image.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n")


def without_images(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_lists, r"nothing in .*imagenet says of which classes.*devkit_t12\.tar\.gz.*or LOC_val_solution\.csv"),
        (with_a_strange_list, r"LOC_val_solution\.csv: line 2 does not name one more image and its synset"),
        (
            with_a_short_list,
            r"says of which class ILSVRC2012_val_00000001 is, and 1 others|of which class ILSVRC2012_val",
        ),
        (with_images_twice, r"the val images are there twice, in .*img_val\.tar and .*CLS-LOC/val"),
        (with_a_damaged_kit, r"cannot read .*devkit_t12\.tar\.gz .*download the development kit"),
        (with_a_strange_archive, r"img_train\.tar holds dogs\.tar, where a tar for each class"),
        (with_a_cut_archive, r"ILSVRC2012_img_train\.tar: truncated"),
        (with_a_damaged_class, r"ILSVRC2012_img_train\.tar, n01443537: truncated"),
        (with_a_compressed_archive, r"img_train\.tar is compressed with gzip"),
        (with_an_archive_appended, r"holds n01440764_7\.JPEG of n01440764 twice"),
        (with_a_class_twice, r"holds the class n01440764 twice"),
        (
            with_images_further_down,
            r"n01440764/more is a folder within that of a class and holds images, such as n01440764_8",
        ),
        (
            with_a_validation_image_in_a_class_too,
            r"holds ILSVRC2012_val_00000001\.JPEG twice, .* beside the class folders",
        ),
        (with_a_pointer, r"\.JPEG is a pointer of Git LFS, .*fetch it with `git lfs pull`"),
        (without_images, r"holds no images of ImageNet-1k as they are downloaded.*imagefolder"),
    ],
)
def test_what_is_missing_or_damaged_is_said(change, message: str, tmp_path: Path) -> None:
    folder = write_kaggle(tmp_path / "imagenet")
    change(folder)
    with pytest.raises(UserError, match=message):
        imagenet_sources(folder)


def test_from_the_command_line(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "imagenet")
    made = tool("tools/make_shards.py", "imagenet", str(folder), str(tmp_path / "out"), "--samples-per-shard=4")
    assert made.status == 0, made.stderr
    assert "9 samples of 3 classes in 3 shards" in made.stdout
    assert "7 samples of 3 classes in 2 shards" in made.stdout
    again = tool("tools/make_shards.py", "imagenet", str(folder), str(tmp_path / "out"), "--samples-per-shard=4")
    assert "finished by an earlier call" in again.stdout
