"""The robustness tasks from folders to results: an oracle has 100 %, a constant guess the chance level, labels are right."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import write_tar
from timm.data import ImageNetInfo, RealLabelsImagenet
from torch import Tensor

from sar_dist.config import AugmentSettings
from sar_dist.data.images.augment import build_eval_transform
from sar_dist.data.making.sources import imagefolder_sources
from sar_dist.data.making.writing import WritingOptions, write_splits
from sar_dist.errors import UserError
from sar_dist.transfer import imagenet_synsets
from sar_dist.transfer.registry import find_task
from sar_dist.transfer.task import Outcome, TransferJob
from sar_dist.transfer.tasks.robustness import corruptions as robustness_corruptions
from sar_dist.transfer.tasks.robustness.corruptions import CentreCrop, ImageNetC
from sar_dist.transfer.tasks.robustness.samples import class_index, class_indices, list_class_folders, real_labels
from sar_dist.transfer.tasks.robustness.scores import ALEXNET_ERRORS, CORRUPTIONS
from sar_dist.transfer.tasks.robustness.tasks import (
    ImageNetA,
    ImageNetR,
    ImageNetReal,
    ImageNetSketch,
    ImageNetV2,
    check_imagenet_classifier,
)

SYNSETS = list(imagenet_synsets())
LEVELS = 10


def colored(label: int, size: int = 8) -> bytes:
    """An image whose colour says its class."""
    color = (25 * (label % LEVELS), 25 * (label // LEVELS % LEVELS), 25 * (label // LEVELS**2))
    out = io.BytesIO()
    Image.new("RGB", (size, size), color).save(out, "PNG")
    return out.getvalue()


class FakeBackbone:
    """Sees colours and answers with ``answer(class of each image)``, logits (B, 1000)."""

    spec, fingerprint, precision, num_classes, image_size = "fake", "fake", "fp32", 1000, 8
    augment = AugmentSettings()
    classes: tuple[str, ...] | None = None
    device = torch.device("cpu")

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        self.answer = answer

    def eval_transform(self) -> Any:
        return build_eval_transform(self.augment, self.image_size, 10**6)

    def normalise(self, images: Tensor) -> Tensor:
        return images.float()

    def logits(self, images: Tensor) -> Tensor:
        digits = (images[:, :, 4, 4] / 25).round().long()
        return self.answer(digits[:, 0] + LEVELS * digits[:, 1] + LEVELS**2 * digits[:, 2])


def oracle(classes: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(classes, 1000).float()


def always(label: int) -> Callable[[Tensor], Tensor]:
    return lambda classes: oracle(torch.full_like(classes, label))


def make(task: Any, data: Path, answer: Callable[[Tensor], Tensor] = oracle, **settings: object) -> Any:
    values = task.settings_type.model_validate({"workers": 0, "batch": 50, **settings})
    job = TransferJob(FakeBackbone(answer), data, data / ".out", values, lambda text: None)
    return task(job)


def run(task: Any, data: Path, answer: Callable[[Tensor], Tensor] = oracle, **settings: object) -> Outcome:
    made = make(task, data, answer, **settings)
    made.job = TransferJob(**{**made.job.__dict__, "out": data.parent / f"out_{len(list(data.parent.iterdir()))}"})
    return made.run(made.prepare())


def write(folder: Path, labels: list[int], name: Callable[[int], str] = SYNSETS.__getitem__) -> Path:
    """One image of each class."""
    for label in labels:
        (folder / name(label)).mkdir(parents=True)
        (folder / name(label) / f"image_{label}.jpeg").write_bytes(colored(label))
    return folder


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_classifier_with_imagenets_classes_in_another_order_is_refused(tmp_path: Path) -> None:
    backbone = FakeBackbone(oracle)
    check_imagenet_classifier(backbone)
    for names, message in (
        ([*SYNSETS[:-2], SYNSETS[-1], SYNSETS[-2]], "label 998 is n15075141, which is class 999 there"),
        (["n99999999", *SYNSETS[1:]], "label 0 is n99999999, which is no class there"),
    ):
        backbone.classes = tuple(names)
        with pytest.raises(UserError, match=message):
            check_imagenet_classifier(backbone)
    for names in (SYNSETS, [f"word {label}" for label in range(1000)], list(map(str, range(1000)))):
        backbone.classes = tuple(names)
        check_imagenet_classifier(backbone)


def test_the_synsets_are_imagenets_in_alphabetical_order() -> None:
    assert ImageNetInfo("imagenet-1k").label_names() == SYNSETS == sorted(SYNSETS)
    assert class_index("n01440764") == 0
    assert class_index("n15075141") == class_index("999") == 999
    assert class_index("1000") is class_index("n00000000") is None


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_the_index_lists_are_those_of_timms_synsets(name: str) -> None:
    import timm.data

    synsets = (Path(timm.data.__file__).parent / "_info" / f"{name}_synsets.txt").read_text().split()
    assert [SYNSETS[index] for index in class_indices(name)] == synsets
    assert len(synsets) == 200


def test_46837_images_have_real_labels() -> None:
    assert len(real_labels()) == 50000
    assert sum(map(bool, real_labels())) == 46837


# --- class folders ----------------------------------------------------------------------------------------------------


def test_other_images_under_the_same_names_are_another_set(tmp_path: Path, ten_classes: list[int]) -> None:
    folders, corrupted = write(tmp_path / "data", [3, 4]), write_corruptions(tmp_path / "c", ten_classes)
    for task, data in ((ImageNetSketch, folders), (ImageNetC, corrupted)):
        before = make(task, data, allow_incomplete=True).prepare().fingerprints["val"]
        assert make(task, data, allow_incomplete=True).prepare().fingerprints["val"] == before
        file = sorted(data.rglob("*.jpeg"))[-1]
        file.write_bytes(file.read_bytes())
        assert make(task, data, allow_incomplete=True).prepare().fingerprints["val"] != before


@pytest.mark.parametrize("task", [ImageNetA, ImageNetR])
def test_subsets_of_200_classes(task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "images", 200)
    labels = class_indices(task.class_list).tolist()
    data = write(tmp_path / "data", labels)
    (data / "README.txt").write_text("a file")
    assert run(task, data).metrics == {"top1": 100, "top5": 100}
    guess = run(task, data, always(labels[70]))
    assert guess.metrics["top1"] == guess.baselines["chance"]["top1"] == 0.5
    # A class outside of the subset has the largest logit: only the 200 classes count.
    outside = next(index for index in range(1000) if index not in labels)
    distracted = run(task, data, lambda classes: oracle(classes) + 5 * oracle(torch.full_like(classes, outside)))
    assert distracted.metrics["top1"] == 100
    assert distracted.protocol["classes"] == "argmax over 200 of the 1000 logits"
    # The same answers one class too far are wrong, but for a guess among equal logits.
    assert run(task, data, lambda classes: oracle((classes + 1) % 1000)).metrics["top1"] <= 0.5


@pytest.mark.parametrize(("task", "name"), [(ImageNetV2, str), (ImageNetSketch, SYNSETS.__getitem__)])
def test_sets_of_1000_classes(task: Any, name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "images", 1000)
    write(tmp_path / "data" / task.folder_names[0], list(range(1000)), name)
    data = tmp_path / "data"
    assert run(task, data).metrics == {"top1": 100, "top5": 100}
    guess = run(task, data, always(123))
    assert guess.metrics["top1"] == pytest.approx(guess.baselines["chance"]["top1"]) == 0.1
    assert guess.baselines["chance"]["top5"] == 0.5


@pytest.mark.parametrize("name", ["\u00b2", "\u0663", "1000", "-1", "dog"])
def test_folders_that_are_no_class(name: str) -> None:
    assert class_index(name) is None


@pytest.mark.parametrize("name", ["imagenetv2-top-images-format-val", "imagenetv2-threshold0.7-format-val"])
def test_another_set_of_imagenetv2_is_refused(name: str, tmp_path: Path) -> None:
    data = write(tmp_path / name, [0, 1], str)
    for given in (data, tmp_path):
        with pytest.raises(UserError, match=f"{name} is not the matched-frequency set"):
            make(ImageNetV2, given, allow_incomplete=True).prepare()
    write(tmp_path / ImageNetV2.folder_names[0], [0, 1], str)
    assert len(make(ImageNetV2, tmp_path, allow_incomplete=True).prepare().samples) == 2


def test_numbers_as_folder_names_are_not_sorted_as_strings(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [0, 1, 2, 10, 100, 999], str)
    assert run(ImageNetV2, data, allow_incomplete=True).metrics["top1"] == 100
    found = make(ImageNetV2, data, allow_incomplete=True).prepare()
    assert [int(found.samples.sample(number)[1]["cls"]) for number in range(6)] == [0, 1, 2, 10, 100, 999]


@pytest.mark.parametrize(("name", "task"), [(str, ImageNetV2), (SYNSETS.__getitem__, ImageNetR)])
def test_shards_made_of_some_classes_give_imagenets_indices(task: Any, name: Any, tmp_path: Path) -> None:
    labels = [2, 6, 99, 107, 988]  # of which ImageNet-R has 2, 6, 99, 107, 988
    write(tmp_path / "source", labels, name)
    write_splits(imagefolder_sources(tmp_path / "source", "val"), tmp_path / "shards", WritingOptions(0, 100, 1))
    found = run(task, tmp_path / "shards", allow_incomplete=True)
    assert (found.metrics["top1"], found.samples) == (100, 5)


def test_shards_without_imagenets_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "source", [1, 2], lambda label: f"kind_{label}")
    write_splits(imagefolder_sources(tmp_path / "source", "val"), tmp_path / "shards", WritingOptions(0, 100, 1))
    with pytest.raises(UserError, match="'kind_1', that are not WordNet ids"):
        make(ImageNetSketch, tmp_path / "shards", allow_incomplete=True).prepare()


def test_an_archive_that_was_not_unpacked_is_called_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "imagenet-a.tar", {f"imagenet-a/{SYNSETS[6]}/{name}.jpg": colored(6) for name in "ab"})
    with pytest.raises(UserError, match=r"holds class folders, such as that of \S*a, and no labels: unpack it there"):
        make(ImageNetA, tmp_path, allow_incomplete=True).prepare()


def test_labels_that_count_a_sets_own_classes_are_refused(tmp_path: Path) -> None:
    """Bare tars have no names: labels 0 to 199 would be taken for ImageNet's numbers."""
    members = {
        f"{label}.{kind}": content
        for label in (0, 6)
        for kind, content in (("jpg", colored(6)), ("cls", b"%d" % label))
    }
    write_tar(tmp_path / "val-0.tar", members)
    with pytest.raises(
        UserError, match=r"such as class 0 of ImageNet-1k; if its labels count its own classes, put a classes"
    ):
        make(ImageNetA, tmp_path, allow_incomplete=True).prepare()
    (tmp_path / "classes.json").write_text(json.dumps([SYNSETS[label] for label in class_indices("imagenet_a")]))
    assert len(make(ImageNetA, tmp_path, allow_incomplete=True).prepare().samples) == 2


def test_1000_classes_in_words_must_be_in_imagenets_order(tmp_path: Path) -> None:
    words = [f"{name}, {label}" for label, name in enumerate(ImageNetInfo("imagenet-1k").label_descriptions())]
    write_tar(tmp_path / "val-0.tar", {"a.jpg": colored(6), "a.cls": b"6"})
    for names, taken in ((words, True), (sorted(words), False), ([f"word {label}" for label in range(1000)], False)):
        (tmp_path / "classes.json").write_text(json.dumps(names))
        task = make(ImageNetSketch, tmp_path, allow_incomplete=True)
        if taken:
            assert len(task.prepare().samples) == 1
            continue
        with pytest.raises(UserError, match="nor all of ImageNet-1k's in its order"):
            task.prepare()
    backbone = FakeBackbone(oracle)
    backbone.classes = tuple(sorted(words))
    with pytest.raises(UserError, match="classes in another order"):
        check_imagenet_classifier(backbone)


def test_an_image_that_cannot_be_read_counts_as_wrong(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [0, 1, 2, 3])
    (data / SYNSETS[2] / "image_2.jpeg").write_bytes(b"not an image")
    found = run(ImageNetSketch, data, allow_incomplete=True)
    assert (found.metrics["top1"], found.samples, found.skipped) == (75, 4, 1)


def test_what_is_missing_or_foreign_is_said_in_one_line(tmp_path: Path) -> None:
    data = write(tmp_path / "data", class_indices("imagenet_a").tolist()[:3])
    with pytest.raises(UserError, match=r"3 images of 3 classes instead of 7500 of 200; .*allow_incomplete=true$"):
        make(ImageNetA, data).prepare()
    assert run(ImageNetA, data, allow_incomplete=True).protocol["incomplete"].startswith("3 images")
    with pytest.raises(UserError, match=r"no class folders in .*; expected imagenet-r/"):
        make(ImageNetR, tmp_path / "data" / SYNSETS[6]).prepare()
    write(data, [0])
    with pytest.raises(UserError, match="1 classes that imagenet_a does not have, such as class 0"):
        make(ImageNetA, data).prepare()
    shutil.copytree(next(path for path in data.iterdir() if path.is_dir()), data / "kind")
    with pytest.raises(UserError, match="kind names no class of ImageNet-1k"):
        make(ImageNetA, data).prepare()


@pytest.mark.parametrize("task", [ImageNetA, ImageNetR, ImageNetV2, ImageNetSketch, ImageNetReal, ImageNetC])
def test_every_task_needs_1000_classes_and_is_registered(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_task(task.name) is task
    assert "\n" not in task.data_help
    monkeypatch.setattr(FakeBackbone, "num_classes", 10)
    with pytest.raises(UserError, match="fake tells 10 classes apart; this task needs a classifier of the 1000"):
        make(task, tmp_path).prepare()
    monkeypatch.setattr(FakeBackbone, "num_classes", 0)
    with pytest.raises(UserError, match="has no classifier"):
        make(task, tmp_path).prepare()


def test_a_set_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for name in ImageNetSketch.folder_names:
        write(tmp_path / name, [1])
    with pytest.raises(UserError, match=r"class folders in \S+/sketch and in \S+/imagenet-sketch; move one set away"):
        make(ImageNetSketch, tmp_path, allow_incomplete=True).prepare()


@pytest.mark.parametrize(
    ("inside", "name", "message"),
    [
        ("test", SYNSETS.__getitem__, r"no class folders in \S+, but in test there; give \S+/data/test; expected"),
        (
            "",
            lambda label: f"word {label}",
            "but 2 others: word 1, word 2; classes go by WordNet ids such as n01443537",
        ),
        ("a/b", SYNSETS.__getitem__, "but 1 others: a; classes go by"),
    ],
)
def test_what_is_there_instead_of_class_folders_is_said(inside: str, name: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / inside, [1, 2], name)
    with pytest.raises(UserError, match=message):
        make(ImageNetR, tmp_path / "data", allow_incomplete=True).prepare()


# --- ReaL -------------------------------------------------------------------------------------------------------------


def validation_images(count: int = 60) -> dict[int, int]:
    """Number of validation images, not consecutive, and the class that each shows: the last of its ReaL labels."""
    numbers = np.random.default_rng(0).choice(50000, count, replace=False)
    return {int(number) + 1: max(real_labels()[number], default=0) for number in numbers}


def write_validation(folder: Path, images: dict[int, int], *, flat: bool) -> Path:
    for place, (number, label) in enumerate(images.items()):
        file = folder / ("" if flat else SYNSETS[999 - place]) / f"ILSVRC2012_val_{number:08d}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(colored(label))
    return folder


@pytest.mark.parametrize("layout", ["folders", "flat", "shards"])
def test_real_labels_go_by_the_number_in_the_name(layout: str, tmp_path: Path) -> None:
    images = validation_images()
    data = tmp_path / "data"
    write_validation(data / "val", images, flat=layout == "flat")
    (data / "ILSVRC2012_img_val.tar").write_bytes(b"an archive, no shard")
    if layout == "shards":
        write_splits(imagefolder_sources(data, "val"), tmp_path / "shards", WritingOptions(3, 7, 1))
        data = tmp_path / "shards"
    labelled = sum(bool(real_labels()[number - 1]) for number in images)
    assert 0 < labelled < len(images)
    found = run(ImageNetReal, data, allow_incomplete=True)
    assert (found.metrics["top1"], found.samples) == (100, labelled)
    assert found.protocol["images_without_label"] == len(images) - labelled
    wrong = run(ImageNetReal, data, lambda classes: oracle((classes + 1) % 1000), allow_incomplete=True)
    assert wrong.metrics["top1"] < 10


def test_real_labels_agree_with_timms_evaluator(tmp_path: Path) -> None:
    images = validation_images(200)
    data = write_validation(tmp_path / "val", images, flat=True)

    def noisy(classes: Tensor) -> Tensor:
        return oracle(classes) + 2 * oracle((classes * 7) % 1000) * (classes % 3 == 0)[:, None]

    found = run(ImageNetReal, data, noisy, allow_incomplete=True)
    timm = RealLabelsImagenet.__new__(RealLabelsImagenet)
    timm.real_labels = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": list(labels) for i, labels in enumerate(real_labels())}
    timm.filenames = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in images]
    timm.topk, timm.is_correct, timm.sample_idx = (1,), {1: []}, 0
    timm.add_result(noisy(torch.tensor(list(images.values()))))
    assert found.metrics["top1"] == pytest.approx(timm.get_accuracy(1))
    assert 40 < found.metrics["top1"] < 90


def test_chance_of_real_labels_is_the_mean_size_of_the_sets(tmp_path: Path) -> None:
    images = validation_images()
    data = write_validation(tmp_path / "val", images, flat=True)
    sizes = [len(real_labels()[number - 1]) for number in images if real_labels()[number - 1]]
    uniform = [  # every class once, for every image
        np.mean([label in real_labels()[number - 1] for label in range(1000)])
        for number in images
        if real_labels()[number - 1]
    ]
    found = run(ImageNetReal, data, always(5), allow_incomplete=True)
    assert found.baselines["chance"]["top1"] == pytest.approx(100 * np.mean(uniform)) == 100 * np.mean(sizes) / 1000
    hits = np.mean([5 in real_labels()[number - 1] for number in images if real_labels()[number - 1]])
    assert found.metrics["top1"] == pytest.approx(100 * hits)


def test_what_is_left_out_of_class_folders_and_may_be_none_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in (
        "n01440764/a.png",
        "n01440764/a_mask.png",
        "n01440764/b.HEIC",
        "n01440764/x.txt",
        ".old/c.png",
        "d.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    assert list_class_folders(tmp_path) == [("n01440764/a.png", 0)]
    said = capsys.readouterr().err
    assert "there is one class alone, n01440764" in said
    for count_and_kind in (
        "1 folders that are no classes",
        "1 images or archives beside the class folders",
        "1 images that are called like maps of others",
        "1 images in formats that are not read",
        "1 files that are no images by name",
    ):
        assert f"{tmp_path}: left out {count_and_kind}" in said


def test_real_labels_need_the_original_names_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    deep = tmp_path / "deep"
    (write_validation(deep / "val" / "a" / "b", {4: 0}, flat=True) / "circle").symlink_to(deep / "val")
    write_validation(deep / "val", {3: 0}, flat=True)
    assert len(make(ImageNetReal, deep, allow_incomplete=True).prepare().samples) == 2
    data = write(tmp_path / "val", [0, 1])
    with pytest.raises(UserError, match="no files called ILSVRC2012_val_00000001"):
        make(ImageNetReal, data).prepare()
    write_validation(data, {3: 0}, flat=False)
    with pytest.raises(UserError, match="1 validation images instead of 50000"):
        make(ImageNetReal, data).prepare()
    assert "left out 2 images that are not called like validation images, such as" in capsys.readouterr().err
    write_validation(data, {3: 0}, flat=True)
    with pytest.raises(UserError, match="a validation image twice"):
        make(ImageNetReal, data, allow_incomplete=True).prepare()
    write_splits(imagefolder_sources(write(tmp_path / "a", [1]), "val"), tmp_path / "s", WritingOptions(0, 9, 1))
    with pytest.raises(UserError, match="image_1 does not name a validation image"):
        make(ImageNetReal, tmp_path / "s").prepare()


# --- ImageNet-C -------------------------------------------------------------------------------------------------------


def write_corruptions(root: Path, labels: list[int], names: tuple[str, ...] = CORRUPTIONS, inside: str = "") -> Path:
    for name in names:
        for severity in range(1, 6):
            write(root / inside / name / str(severity), labels)
    return root


@pytest.fixture
def ten_classes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """ImageNet-C is whole with one image of each of ten classes."""
    monkeypatch.setattr(robustness_corruptions, "IMAGES", 10)
    monkeypatch.setattr(robustness_corruptions, "IMAGENET_CLASSES", 10)
    return list(range(0, 1000, 100))


def test_corruptions_of_an_oracle_and_of_a_guess(tmp_path: Path, ten_classes: list[int]) -> None:
    data = write_corruptions(tmp_path / "data", ten_classes)
    perfect = run(ImageNetC, data)
    assert perfect.metrics == {"mce": 0, "mean_error": 0}
    assert (perfect.samples, perfect.skipped) == (15 * 5 * 10, 0)
    guess = run(ImageNetC, data, always(300))
    assert guess.metrics["mean_error"] == pytest.approx(90)
    assert guess.metrics["mce"] == pytest.approx(100 * np.mean([0.9 / error for error in ALEXNET_ERRORS.values()]))
    assert guess.metrics == {name: pytest.approx(value) for name, value in guess.baselines["chance"].items()}
    assert set(guess.figures) == {"corruption_errors"}


def test_each_corruption_and_severity_is_told_apart(tmp_path: Path, ten_classes: list[int]) -> None:
    """Images of which (place of the corruption + severity) % 10 are painted as another class."""
    data = write_corruptions(tmp_path / "data", ten_classes)
    expected = {}
    for place, name in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            wrong = (place + severity) % 10
            for label in ten_classes[:wrong]:
                file = data / name / str(severity) / SYNSETS[label] / f"image_{label}.jpeg"
                file.write_bytes(colored(label + 1))
            expected.setdefault(name, []).append(wrong * 10)
    found = run(ImageNetC, data)
    for name, errors in expected.items():
        assert found.tables["top1_error"][name] == pytest.approx(errors)
        assert found.tables["corruption_error"][name] == pytest.approx(np.mean(errors) / ALEXNET_ERRORS[name])
    assert found.metrics["mce"] == pytest.approx(
        np.mean([np.mean(errors) / ALEXNET_ERRORS[name] for name, errors in expected.items()])
    )


def test_missing_corruptions_are_named_and_partial_scores_are_called_so(tmp_path: Path, ten_classes: list[int]) -> None:
    data = write_corruptions(tmp_path / "data", ten_classes, CORRUPTIONS[1:14], inside="noise")
    with pytest.raises(
        UserError, match="corruptions gaussian_noise, jpeg_compression are missing; expected CORRUPTION"
    ):
        make(ImageNetC, data).prepare()
    found = run(ImageNetC, data, allow_incomplete=True)
    assert found.primary == "mce_partial"
    assert "mce" not in found.metrics
    assert "gaussian_noise" in found.protocol["incomplete"]


def test_half_unpacked_archives_are_found(tmp_path: Path, ten_classes: list[int]) -> None:
    with pytest.raises(UserError, match=r"no corruptions in .*; expected CORRUPTION/SEVERITY"):
        make(ImageNetC, tmp_path).prepare()
    data = write_corruptions(tmp_path / "data", ten_classes)
    lost = data / "fog" / "3" / SYNSETS[100] / "image_100.jpeg"
    lost.unlink()
    with pytest.raises(UserError, match=r"1 images are in only one of .*gaussian_noise/1 and .*fog/3, such as n\d+/im"):
        make(ImageNetC, data, allow_incomplete=True).prepare()
    for file in data.glob("*/*/*/image_100.jpeg"):
        file.unlink()
    with pytest.raises(UserError, match="9 images of 9 classes at each severity instead of 10 of 10"):
        make(ImageNetC, data).prepare()


def test_a_corruption_that_is_there_twice_is_refused(tmp_path: Path, ten_classes: list[int]) -> None:
    data = write_corruptions(tmp_path / "data", ten_classes)
    (data / "weather" / "fog").mkdir(parents=True)
    with pytest.raises(UserError, match=r"data/fog and .*data/weather/fog are the same corruption; move one"):
        make(ImageNetC, data).prepare()


def test_images_of_another_size_than_imagenet_cs_are_resized_and_said(
    tmp_path: Path, ten_classes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_corruptions(tmp_path / "data", ten_classes)
    for file in data.glob("*/*/*/*"):
        file.write_bytes(colored(int(file.stem.removeprefix("image_")), 24))
    with pytest.raises(
        UserError, match="images of 24x24 pixels instead of 224x224 pixels, which the model's own valid"
    ):
        make(ImageNetC, data).prepare()
    found = run(ImageNetC, data, allow_incomplete=True)
    assert found.metrics["mce"] == 0
    assert found.protocol["transform"].startswith("resize")
    monkeypatch.setattr(robustness_corruptions, "STORED_SIZE", (24, 24))
    said: list[str] = []
    for root in (write_corruptions(tmp_path / "of 8 pixels", ten_classes), data):
        made = make(ImageNetC, root)
        made.job = TransferJob(**{**made.job.__dict__, "say": said.append})
        assert made.prepare().cropped
    assert said == ["the model sees the middle 8x8 pixels of images that are stored with 24x24 pixels"]


def test_stored_images_are_cropped_and_never_resized_unless_too_small() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    np.testing.assert_array_equal(CentreCrop(224)(out.getvalue()).permute(1, 2, 0), pixels)
    np.testing.assert_array_equal(CentreCrop(160)(out.getvalue()).permute(1, 2, 0), pixels[32:192, 32:192])
    assert CentreCrop(384)(out.getvalue()).shape == (3, 384, 384)


def test_a_killed_evaluation_goes_on(tmp_path: Path, ten_classes: list[int]) -> None:
    data = write_corruptions(tmp_path / "data", ten_classes)
    made = make(ImageNetC, data)
    first = made.run(made.prepare())
    chunks = sorted((data / ".out").rglob("*.safetensors"))
    assert len(chunks) == 75
    chunks[7].unlink()
    calls: list[int] = []
    again = make(ImageNetC, data, lambda classes: calls.append(len(classes)) or oracle(classes))
    assert again.run(again.prepare()).metrics == first.metrics
    assert calls == [10]
