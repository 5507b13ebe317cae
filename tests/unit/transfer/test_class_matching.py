"""Labels mean the same class in a model and in what it is scored on, or nothing is measured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from striped_set import write_striped_set, write_trained_run
from support import jpeg, write_tar

from sar_dist.data.layout import named_classes, read_class_table
from sar_dist.errors import UserError
from sar_dist.transfer import Backbone, TransferJob, TransferSettings, match_classes
from sar_dist.transfer.task import Outcome
from sar_dist.transfer.tasks.classification import ImageNetValidation
from sar_dist.transfer.tasks.probes.data import open_probe_data, read_labels

DIRECTIONS = [f"direction_{number}" for number in range(4)]


class Labels:
    """One sample of each label, and one without."""

    def __init__(self, classes: Sequence[str] | None, labels: Sequence[int] = (0, 1, 2)) -> None:
        self.classes = None if classes is None else tuple(classes)
        self.labels = labels
        self.fingerprint = "labels"

    def __len__(self) -> int:
        return len(self.labels) + 1

    def sample(self, number: int) -> tuple[str, dict[str, bytes]]:
        members = {"jpg": b""} if number == len(self.labels) else {"cls": str(self.labels[number]).encode()}
        return str(number), members


@pytest.mark.parametrize(
    ("data", "model", "labels", "remark"),
    [
        (["cat", "dog", "eel"], ["cat", "dog", "eel"], [0, 1, 2], "by number: names agree"),
        (["cat", "dog", "eel"], ["cat", "dog", "eel", "fox"], [0, 1, 2], "by number: names agree"),
        (["cat", "dog", "eel"], ["eel", "dog", "cat"], [2, 1, 0], "by name: label 0 of the data, cat, is 2 of M"),
        (
            ["dog", "eel", "cat"],
            ["ape", "cat", "dog", "eel"],
            [2, 3, 1],
            "by name: label 0 of the data, dog, is 2 of M",
        ),
        (["cat", "class 1", "eel"], ["cat", "dog", "eel"], [0, 1, 2], "by number: names agree"),
        (["cat", "class 1", "eel"], ["eel", "cat"], [1, -1, 0], "by name: label 0"),
        (["cat", "class 1", "eel"], ["cat", "dog", "class 2", "eel"], [0, -1, 3], "by name: label 2"),
        (None, ["cat"], [0, 1, 2], "by number: the data names no classes"),
        (None, ["0", "1"], [0, 1, 2], "by number: the data names no classes"),
        (["cat", "dog"], None, [0, 1, 2], "by number: M names no classes"),
        (["cat", "dog"], ["n01440764", "n01443537"], [0, 1, 2], "by number: of data and model one names WordNet ids"),
        (["n01440764", "n01443537"], ["tench", "goldfish"], [0, 1, 2], "by number: .* words agree for 2 classes"),
        (
            ["n01440764", "n01443537"],
            ["goldfish", "Tench, Tinca tinca"],
            [1, 0, -1],
            "by name: label 0 of the data, n01440764, is 1 of M",
        ),
        (["great_white_shark", "goldfish"], ["n01443537", "n01484850", "n01440764"], [1, 0, -1], "by name: label 0"),
        (["n02012849", "n03126707"], ["crane (n03126707)", "crane (n02012849)"], [1, 0, -1], "by name: label 0"),
    ],
)
def test_labels_follow_the_names(
    data: list[str] | None, model: list[str] | None, labels: list[int], remark: str
) -> None:
    matched = match_classes(Labels(data), model, "M")
    assert re.match(remark, matched.remark)
    assert read_labels(matched.samples).tolist() == [*labels, -1]
    renumbered = remark.startswith("by name")
    assert (matched.samples.fingerprint == "labels") is not renumbered
    if renumbered:
        assert matched.samples.classes == tuple(model or ())


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (["cat", "dog"], ["cat", "eel"], r"label 1 is dog in the data and eel there, and 1 of its classes .* as dog"),
        (["cat", "dog", "eel"], ["cat", "dog"], r"label 2 is eel in the data and no class there"),
        (["crane", "cat", "crane"], ["crane", "crane", "cat"], r"label 1 is cat in the data and crane there, .* twice"),
        (
            ["n01440764", "n01443537"],
            ["goldfish", "my fish"],
            r"label 0 is n01440764 in the data and goldfish there, which",
        ),
    ],
)
def test_other_classes_are_refused_with_the_first_difference(data: list[str], model: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_classes(Labels(data), model, "M")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_striped_set(tmp_path_factory.mktemp("set") / "stripes", 8, 80)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained_run(tmp_path_factory.mktemp("runs"), classes=DIRECTIONS)


def top1(model: Path, data: Path, out: Path) -> Outcome:
    settings = TransferSettings(workers=0, batch=20)
    job = TransferJob(Backbone.load(str(model), torch.device("cpu")), data, out, settings, lambda text: None)
    task = ImageNetValidation(job)
    return task.run(task.prepare())


def renamed(stripes: Path, root: Path, names: dict[str, str], splits: Sequence[str] = ("train", "val")) -> Path:
    """The set with other folders for its classes."""
    for split in splits:
        (root / split).mkdir(parents=True)
        for folder, name in names.items():
            (root / split / name).symlink_to(stripes / split / folder)
    return root


def test_a_classifier_is_scored_on_the_same_classes_in_another_order(
    stripes: Path, trained: Path, tmp_path: Path
) -> None:
    usual = top1(trained, stripes, tmp_path / "usual")
    assert usual.metrics["top1"] > 85
    assert usual.protocol["labels"] == "by number: names agree"
    # classes.json gives the names, so that folders in another order are labelled in another order.
    order = ["direction_2", "direction_0", "direction_3", "direction_1"]
    other = renamed(stripes, tmp_path / "other", {name: f"folder_{place}" for place, name in enumerate(order)})
    (other / "classes.json").write_text(json.dumps({f"folder_{place}": name for place, name in enumerate(order)}))
    found = top1(trained, other, tmp_path / "out")
    assert found.metrics == usual.metrics
    assert found.protocol["labels"].startswith("by name: label 0 of the data, direction_2, is 2 of ")
    (other / "classes.json").unlink()
    with pytest.raises(UserError, match=r"label 0 is folder_0 in the data and direction_0 there"):
        top1(trained, other, tmp_path / "refused")


def test_a_subset_is_scored_among_all_classes(stripes: Path, trained: Path, tmp_path: Path) -> None:
    half = renamed(stripes, tmp_path / "half", {name: name for name in DIRECTIONS[2:]})
    found = top1(trained, half, tmp_path / "out")
    assert (found.samples, found.baselines["chance"]["top1"]) == (40, 25)
    assert found.metrics["top1"] > 80


def test_a_subset_says_its_place_by_index(stripes: Path, tmp_path: Path) -> None:
    """A model from before checkpoints named classes: the index of each class in classes.json is its label."""
    run = write_trained_run(tmp_path / "runs")
    half = renamed(stripes, tmp_path / "half", {name: name for name in DIRECTIONS[1:3]})
    with pytest.raises(UserError, match=r"tells 4 classes apart and the data set has 2; .* index and name"):
        top1(run, half, tmp_path / "refused")
    table = {name: {"name": f"stripes {label}", "index": label} for label, name in enumerate(DIRECTIONS)}
    (half / "classes.json").write_text(json.dumps({name: table[name] for name in DIRECTIONS[1:3]}))
    found = top1(run, half, tmp_path / "out")
    assert found.metrics["top1"] > 80
    table["direction_2"]["index"] = 4
    (half / "classes.json").write_text(json.dumps({name: table[name] for name in DIRECTIONS[1:3]}))
    with pytest.raises(UserError, match="tells 4 classes apart and the data set has 5"):
        top1(run, half, tmp_path / "beyond")


def test_labels_beyond_the_classes_are_no_wrong_answers(tmp_path: Path) -> None:
    run = write_trained_run(tmp_path / "runs", steps=1)
    write_tar(tmp_path / "set" / "val-0.tar", {"a.jpg": jpeg(0), "a.cls": b"0", "b.jpg": jpeg(1), "b.cls": b"7"})
    with pytest.raises(UserError, match=r"a sample has the label 7, but .* tells 4 classes apart"):
        top1(run, tmp_path / "set", tmp_path / "out")


def test_probes_take_a_validation_split_that_lacks_classes(stripes: Path, tmp_path: Path) -> None:
    from sar_dist.data.making import WritingOptions, write_shards
    from sar_dist.data.making.sources import imagefolder_sources

    part = renamed(stripes, tmp_path / "part", {name: name for name in DIRECTIONS[1:]}, ["val"])
    for source, split in ((stripes, "train"), (part, "val")):
        write_shards(imagefolder_sources(source / split, split)[0], tmp_path / "shards" / split, WritingOptions())
    data = open_probe_data(tmp_path / "shards", None, "shards")
    assert data.names == tuple(DIRECTIONS)
    assert sorted(set(read_labels(data.val).tolist())) == [1, 2, 3]
    (tmp_path / "turned").mkdir()
    (tmp_path / "turned" / "train").symlink_to(tmp_path / "shards" / "val")
    (tmp_path / "turned" / "val").symlink_to(tmp_path / "shards" / "train")
    with pytest.raises(UserError, match=r"classes of the data are not those of the training split \(3\)"):
        open_probe_data(tmp_path / "turned", None, "shards")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"a": {"name": "A", "index": "3"}, "b": {"name": "B", "index": 1}},
            r"gives a the index '3'; expected a whole",
        ),
        ({"a": {"name": "A", "index": 1.5}, "b": {"name": "B", "index": 1}}, r"gives a the index 1\.5"),
        ({"a": {"name": "A", "index": True}, "b": {"name": "B", "index": 0}}, r"gives a the index True"),
        ({"a": {"name": "A", "index": -1}, "b": {"name": "B", "index": 0}}, r"gives a the index -1"),
        ({"a": {"name": "A", "index": 10**9}, "b": {"name": "B", "index": 0}}, r"gives a the index 1000000000"),
        (
            {"a": {"name": "A", "index": 2}, "c": {"name": "C", "index": 2}, "b": {"name": "B", "index": 0}},
            r"a and c the",
        ),
        ({"a": {"name": "A", "index": 2}, "b": {"name": "B"}}, "gives 'b' the entry .*; expected a name for every"),
        ([1, 2], r"does not name every class"),
    ],
)
def test_index_in_classes_json_is_checked(table: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        read_class_table(["a", "b"], tmp_path / "classes.json")


def test_places_that_a_subset_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"a": {"name": "A", "index": 2}, "b": {"name": "B", "index": 0}}))
    names = read_class_table(["a", "b"], tmp_path / "classes.json").names
    assert named_classes(names) == {0: "B", 2: "A"}


def test_numbers_that_may_be_names_or_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"M calls the class with label 1 '2', and the data set names no classes"):
        match_classes(Labels(None), ["0", "2", "5"], "M")


def test_classes_called_like_unnamed_places_are_classes() -> None:
    assert named_classes(["class 0", "class 1"]) == {0: "class 0", 1: "class 1"}
    assert named_classes(["class 0", "dog"]) == {1: "dog"}
    with pytest.raises(UserError, match="label 0 is class 0 in the data and cat there"):
        match_classes(Labels(["class 0", "class 1"]), ["cat", "dog"], "M")
    matched = match_classes(Labels(["class 0", "class 1", "dog"]), ["class 0", "class 1", "class 2", "dog"], "M")
    assert read_labels(matched.samples).tolist() == [0, 1, 3, -1]
