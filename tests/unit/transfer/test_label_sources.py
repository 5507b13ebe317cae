"""Labels of shards as numbers, as words and in JSON members: every evaluation finds them where training does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from striped_set import write_striped_set, write_trained_run
from support import write_tar

from sar_dist.config import apply_overrides
from sar_dist.data import load_manifest
from sar_dist.data.shards import open_index
from sar_dist.errors import UserError
from sar_dist.transfer import (
    Backbone,
    TransferJob,
    find_task,
    imagenet_synsets,
    open_labelled_samples,
    open_shard_samples,
)
from sar_dist.transfer.result import identity
from sar_dist.transfer.tasks.probes.data import read_labels
from sar_dist.transfer.tasks.robustness.samples import open_class_folders

DIRECTIONS = [f"direction_{number}" for number in range(4)]
WORDS = ["up", "left", "slope", "rise"]
LABEL = {"numbers": "cls", "words": "cls", "json numbers": "json.target", "json words": "json.info.word"}


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_striped_set(tmp_path_factory.mktemp("set") / "stripes", 80, 40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def sets(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stripes as tars with labels of each kind."""
    root = tmp_path_factory.mktemp("sets")
    for kind in LABEL:
        for split in ("train", "val"):
            members: dict[str, bytes] = {}
            for number, file in enumerate(sorted((stripes / split).glob("*/*.png"))):
                label = DIRECTIONS.index(file.parent.name)
                key = f"{number:06d}"
                members[f"{key}.png"] = file.read_bytes()
                if kind == "numbers":
                    members[f"{key}.cls"] = str(label).encode()
                elif kind == "words":
                    members[f"{key}.cls"] = f"{WORDS[label]}\n".encode()
                else:
                    content = {"target": label, "info": {"word": WORDS[label]}, "caption": "x"}
                    members[f"{key}.json"] = json.dumps(content).encode()
                    members[f"{key}.cls"] = b"0"  # what a reader of cls alone would take
            write_tar(root / kind / split / "00000.tar", members)
            if "words" in kind:
                (root / kind / split / "classes.json").write_text(json.dumps(WORDS))
    return {kind: root / kind for kind in LABEL}


def run_task(name: str, model: Path, data: Path, out: Path, *overrides: str) -> Any:
    task_type = find_task(name)
    settings = apply_overrides(task_type.settings_type, ["workers=0", "batch=20", *overrides])
    task = task_type(
        TransferJob(Backbone.load(str(model), torch.device("cpu")), data, out, settings, lambda text: None)
    )
    return task.run(task.prepare())


@pytest.mark.parametrize("kind", LABEL)
def test_labels_are_those_that_training_reads(kind: str, sets: dict[str, Path]) -> None:
    found = open_labelled_samples(sets[kind], "val", "shards", LABEL[kind])
    trained = open_index(load_manifest(sets[kind], "val", LABEL[kind])).records["label"]
    assert read_labels(found).tolist() == trained.tolist() == [label for label in range(4) for _ in range(10)]


@pytest.mark.parametrize("kind", LABEL)
@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("imagenet_val", []),
        ("knn", ["k=[5]", "quoted_k=5", "random_baseline=false"]),
        ("logreg", ["max_iterations=5", "random_baseline=false"]),
        ("linear", ["cached=true", "iterations=4", "random_baseline=false"]),
    ],
)
def test_every_task_scores_the_same_labels(
    task: str, overrides: list[str], kind: str, stripes: Path, sets: dict[str, Path], trained: Path, tmp_path: Path
) -> None:
    expected = run_task(task, trained, sets["numbers"], tmp_path / "numbers", *overrides)
    found = run_task(task, trained, sets[kind], tmp_path / "out", *overrides, f"label={LABEL[kind]}")
    assert found.metrics == expected.metrics
    assert found.metrics["top1"] > (80 if task in ("imagenet_val", "knn") else 0)


@pytest.mark.parametrize("kind", LABEL)
def test_fine_tuning_takes_them_too(kind: str, sets: dict[str, Path], trained: Path, tmp_path: Path) -> None:
    task_type = find_task("finetune")
    settings = apply_overrides(task_type.settings_type, ["train.optim.min_lr=0", f"label={LABEL[kind]}"])
    backbone = Backbone.load(str(trained), torch.device("cpu"))
    task = task_type(TransferJob(backbone, sets[kind], tmp_path, settings, lambda text: None))
    prepared = task.prepare()
    assert prepared.config.model.num_classes == 4
    task._make_shards("val", prepared.samples["val"])
    written = open_index(load_manifest(tmp_path / "shards" / "val", "val")).records["label"]
    assert sorted(written.tolist()) == [label for label in range(4) for _ in range(10)]


def test_robustness_sets_take_words(sets: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(sets["json words"] / "val", tmp_path / "set")
    synsets = list(imagenet_synsets())[7:11]
    (tmp_path / "set" / "classes.json").write_text(json.dumps(dict(zip(WORDS, synsets, strict=True))))
    found = open_class_folders(tmp_path / "set", (), "shards", "json.info.word")
    assert found.labels == frozenset((7, 8, 9, 10))
    # Whatever the number of a word in the shards, its name is a WordNet id, which has a place in ImageNet-1k.
    by_word = {word: 7 + place for place, word in enumerate(WORDS)}
    assert read_labels(found.samples).tolist() == [by_word[word] for word in WORDS for _ in range(10)]


@pytest.mark.parametrize("task", ["knn", "finetune"])
def test_tars_that_tell_no_split_are_not_both_trained_and_scored_on(task: str, trained: Path, tmp_path: Path) -> None:
    members = {f"{number}.{end}": b"1" for number in range(3) for end in ("jpg", "cls")}
    write_tar(tmp_path / "set" / "00000.tar", members)
    with pytest.raises(
        UserError, match=r"1 shards with the same samples are in the train and in the val split .*00000"
    ):
        run_task(task, trained, tmp_path / "set", tmp_path / "out")


def test_labels_that_are_nowhere_are_refused(stripes: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    for label in ("json.nothing", "txt"):
        with pytest.raises(UserError, match=rf"none of the 40 samples .* has a label in {label}; .* label=json\.label"):
            open_labelled_samples(sets["json words"], "val", "shards", label)
    shutil.copytree(sets["words"], tmp_path / "words")
    (tmp_path / "words" / "val" / "classes.json").unlink()
    assert open_labelled_samples(tmp_path / "words", "val", "shards").classes == tuple(WORDS), "those of train"
    (tmp_path / "words" / "train" / "classes.json").unlink()
    with pytest.raises(UserError, match=r"none of the 40 samples .* has a label in cls; .* classes\.json beside"):
        open_labelled_samples(tmp_path / "words", "val", "shards")
    with pytest.raises(UserError, match=r"label=json\.label says where shards have their labels, but there are none"):
        open_labelled_samples(stripes, "val", "shards", "json.label")
    assert open_shard_samples(tmp_path / "words", "val") is not None, "attention and segmentation need no labels"


def test_results_from_before_the_choice_are_the_same_evaluation() -> None:
    old, new = {"seed": 0, "workers": 4}, {"seed": 0, "workers": 8, "label": "cls"}
    assert identity("knn", old, "m", {}) == identity("knn", new, "m", {})
    assert identity("knn", old, "m", {}) != identity("knn", {**new, "label": "json.label"}, "m", {})
