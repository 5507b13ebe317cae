"""The probes as tasks: a trained model against a random one, several processes, kill -9, bad data, real images."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from striped_set import CLASSES, write_striped_set, write_trained_run
from support import REAL_DATA, jpeg, run_processes, start_processes, tool, write_tar

from sar_dist.config import apply_overrides
from sar_dist.errors import UserError
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.registry import find_task
from sar_dist.transfer.task import Outcome, TransferJob
from sar_dist.transfer.tasks.finetune import FinetuneSettings
from sar_dist.transfer.tasks.probes.data import ProbeData


class FakeSamples:
    """Two samples that nobody reads."""

    classes = None
    fingerprint = "fake"

    def __len__(self) -> int:
        return 2


TRAIN, VAL = 240, 80
LINEAR = ["workers=0", "batch=16", "global_batch=40", "iterations=60", "checkpoint_every=2", "crop_scale=[0.7,1]"]
KNN = ["workers=0", "batch=16", "k=[5,20,500]", "random_baseline=false"]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_striped_set(tmp_path_factory.mktemp("stripes") / "stripes", TRAIN, VAL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained_run(tmp_path_factory.mktemp("runs"))


def run_task(name: str, model: Path | str, data: Path, out: Path, overrides: list[str], said: list[str] | None = None):
    """What ``tools/transfer_eval.py`` computes, in this process and without a process group."""
    task_type = find_task(name)
    settings = apply_overrides(task_type.settings_type, overrides)
    say = (said if said is not None else []).append
    job = TransferJob(Backbone.load(str(model), torch.device("cpu")), data, out, settings, say)
    task = task_type(job)
    prepared = task.prepare()
    assert set(prepared.fingerprints) == {"train", "val"}
    return task.run(prepared)


@pytest.fixture(scope="module")
def linear(stripes: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """An unbroken run in one process."""
    return run_task("linear", trained, stripes, tmp_path_factory.mktemp("linear"), LINEAR)


def check_outcome(outcome: Outcome) -> None:
    """What every probe's result must hold."""
    assert outcome.samples == VAL
    assert outcome.skipped == 0
    assert outcome.baselines["chance"]["top1"] == 100 / CLASSES
    assert {"class_accuracy", "confusion"} <= set(outcome.figures)
    assert [entry["samples"] for entry in outcome.tables["classes"]] == [VAL // CLASSES] * CLASSES
    mean = np.mean([entry["top1"] for entry in outcome.tables["classes"]])
    assert outcome.metrics["mean_per_class"] == pytest.approx(mean)
    json.dumps([outcome.metrics, outcome.protocol, outcome.tables], allow_nan=False)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("knn", ["k=[20]"]),
        ("logreg", ["max_iterations=30"]),
        ("linear", ["cached=true", "iterations=60", "random_baseline=true"]),
    ],
)
def test_a_trained_model_is_far_better_than_its_random_twin(name, overrides, stripes, trained, tmp_path):
    outcome = run_task(name, trained, stripes, tmp_path, ["workers=0", *overrides])
    check_outcome(outcome)
    assert outcome.primary == "top1"
    assert outcome.metrics["top1"] > 85
    assert outcome.baselines["random backbone"]["top1"] < 70
    if name == "linear":
        assert "cached" in outcome.protocol["augmentation"]


def test_the_linear_probe_trains_on_augmented_images_and_chooses_on_held_out_ones(linear):
    check_outcome(linear)
    sweep, protocol = linear.tables["sweep"], linear.protocol
    assert len(sweep) == protocol["heads"] == 4 * 13
    best = max(range(len(sweep)), key=lambda number: sweep[number]["held_out_top1"])
    assert protocol["head"] == f"{sweep[best]['features']}, lr {sweep[best]['learning_rate']:g}"
    assert linear.metrics["top1"] == sweep[best]["val_top1"] > 70
    assert linear.metrics["held_out_top1"] == sweep[best]["held_out_top1"]
    assert linear.metrics["top1_best_on_val"] == max(entry["val_top1"] for entry in sweep)
    assert protocol["training_samples"] == TRAIN - TRAIN // 10
    assert "random resized crop (0.7, 1.0)" in protocol["augmentation"]
    # Of the rates of one kind of features, the lowest have hardly moved from chance and the chosen one has.
    assert sweep[0]["val_top1"] < linear.metrics["top1"] - 20


@pytest.mark.parametrize("name", ["linear", pytest.param("knn", marks=pytest.mark.long)])
def test_one_and_two_processes_agree_to_the_last_bit(name, stripes, trained, linear, tmp_path):
    overrides = KNN if name == "knn" else LINEAR
    alone = linear if name == "linear" else run_task(name, trained, stripes, tmp_path / "one", overrides)
    arguments = ["--task", name, "--model", str(trained), "--data", str(stripes), "--out", str(tmp_path / "two")]
    output = run_processes(2, "tools/transfer_eval.py", *arguments, *overrides)
    result = json.loads((tmp_path / "two" / f"{name}_stripes" / "result.json").read_text())
    assert result["environment"]["world_size"] == 2
    assert result["metrics"] == alone.metrics
    assert result["tables"] == alone.tables
    assert {name: result["protocol"][name] for name in alone.protocol} == json.loads(json.dumps(alone.protocol))
    assert output.count("result.json") == 1, "one process speaks"


def test_a_killed_linear_probe_goes_on_with_the_same_result(stripes, trained, linear, tmp_path):
    arguments = ["--task", "linear", "--model", str(trained), "--data", str(stripes), "--out", str(tmp_path)]
    (process,) = start_processes(1, "tools/transfer_eval.py", *arguments, *LINEAR)
    file = tmp_path / "linear_stripes" / "checkpoint" / "trained" / "heads.safetensors"
    deadline = time.monotonic() + 200
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    output = process.communicate()[0]
    assert file.exists(), output
    with safe_open(file, framework="pt") as content:
        steps = json.loads(content.metadata()["training"])["steps"]
    assert 0 < steps < 60, "killed too late to show anything"
    said: list[str] = []
    resumed = run_task("linear", trained, stripes, tmp_path / "linear_stripes", LINEAR, said)
    assert f"going on after step {steps} of 60" in said
    assert resumed.metrics == linear.metrics
    assert resumed.tables == linear.tables


def test_an_interrupted_sweep_of_strengths_goes_on(stripes, trained, tmp_path):
    overrides = ["workers=0", "random_baseline=false", "max_iterations=15"]
    whole = run_task("logreg", trained, stripes, tmp_path, overrides)
    for number in range(10, 45):
        (tmp_path / "sweep" / "trained" / f"{number:02d}.json").unlink()
    kept = tmp_path / "sweep" / "trained" / "03.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "top1": 12.5}))
    resumed = run_task("logreg", trained, stripes, tmp_path, overrides)
    assert resumed.tables["sweep"][3]["top1"] == 12.5, "what is stored is not computed again"
    assert resumed.metrics == whole.metrics
    kept.write_text("{")
    with pytest.raises(UserError, match=r"03\.json is damaged"):
        run_task("logreg", trained, stripes, tmp_path, overrides)


def test_the_mae_and_dino_presets_run(stripes, trained, tmp_path):
    for preset in ("mae", "dino"):
        overrides = ["workers=0", f"preset={preset}", "iterations=6", "global_batch=32", "batch=16"]
        outcome = run_task("linear", trained, stripes, tmp_path / preset, overrides)
        check_outcome(outcome)
        assert outcome.protocol["heads"] == 1
        assert outcome.protocol["training_samples"] == TRAIN, "a single head needs no held-out samples"


def test_choosing_on_val_is_possible_and_said(stripes, trained, tmp_path):
    overrides = ["workers=0", "held_out=0", "cached=true", "iterations=20", "learning_rates=[1e-5,0.1]"]
    outcome = run_task("linear", trained, stripes, tmp_path, overrides)
    assert outcome.metrics["top1"] == max(entry["val_top1"] for entry in outcome.tables["sweep"])
    assert "val itself" in outcome.protocol["head_chosen_on"]


@pytest.mark.parametrize("name", ["knn", "logreg", "linear"])
def test_bad_data_is_one_clear_error(name, stripes, trained, tmp_path):
    overrides = ["workers=0"]

    def run(data: Path, *more: str):
        with pytest.raises(UserError) as found:
            run_task(name, trained, data, tmp_path / "out", [*overrides, *more])
        return str(found.value)

    assert "there is no folder" in run(tmp_path / "nowhere")
    shutil.copytree(stripes / "val", tmp_path / "half" / "val")
    assert "has no train split; expected train and val as shards" in run(tmp_path / "half")
    shutil.copytree(stripes / "train", tmp_path / "half" / "train")
    (tmp_path / "half" / "train" / "direction_3").rename(tmp_path / "half" / "train" / "direction_9")
    assert "direction_3 is not among the 4 training classes" in run(tmp_path / "half")
    for split in ("train", "val"):
        for folder in sorted((tmp_path / "half" / split).iterdir())[1:]:
            shutil.rmtree(folder)
    assert "single class" in run(tmp_path / "half")


def test_labels_beyond_the_named_classes_are_an_error():
    data = ProbeData(FakeSamples(), FakeSamples(), ("one", "two"))
    assert data.count_classes(np.array([0, 1, -1])) == 2
    with pytest.raises(UserError, match="label 5, and the data set names 2 classes"):
        data.count_classes(np.array([0, 5]))
    with pytest.raises(UserError, match="no sample"):
        data.count_classes(np.array([-1]))


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_shards_that_name_no_classes_have_those_of_their_labels(name, small_shards, trained, tmp_path):
    overrides = {"knn": ["k=[5,20]"], "linear": ["iterations=2", "global_batch=32", "batch=16"]}[name]
    outcome = run_task(name, trained, small_shards, tmp_path, ["workers=0", *overrides])
    assert outcome.samples == 21
    assert [entry["class"] for entry in outcome.tables["classes"]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", ["knn", "logreg", "linear"])
def test_classes_that_only_the_validation_split_has_are_said(name, small_shards, trained, tmp_path):
    data = tmp_path / "set"
    shutil.copytree(small_shards / "train", data / "train", ignore=shutil.ignore_patterns("*.index", "*.json"))
    write_tar(data / "val" / "0.tar", {"a.jpg": jpeg(1), "a.cls": b"0", "b.jpg": jpeg(2), "b.cls": b"7"})
    overrides = {"linear": ["iterations=2", "global_batch=32", "batch=16"]}.get(name, [])
    said: list[str] = []
    run_task(name, trained, data, tmp_path / "out", ["workers=0", *overrides], said)
    lines = [line for line in said if "without a training sample" in line]
    assert lines == [
        "1 of the 2 validation samples are of 1 classes without a training sample, such as label 7: they cannot be right"
    ]


def test_fine_tuning_counts_classes_as_probes_do(small_shards, trained, tmp_path):
    def prepare(members):
        write_tar(data / "val" / "0.tar", members)
        said.clear()
        job = TransferJob(
            Backbone.load(str(trained), torch.device("cpu")), data, tmp_path / "out", settings, said.append
        )
        return find_task("finetune")(job).prepare()

    data, said = tmp_path / "set", []
    settings = FinetuneSettings(global_batch=8)
    shutil.copytree(small_shards / "train", data / "train", ignore=shutil.ignore_patterns("*.index", "*.json"))
    prepared = prepare({"a.jpg": jpeg(1), "a.cls": b"0", "b.jpg": jpeg(2), "b.cls": b"7"})
    assert len(prepared.names) == prepared.config.model.num_classes == 8
    assert any("1 of the 2 validation samples are of 1 classes without a training sample" in line for line in said)
    shutil.rmtree(data)
    for split in ("train", "val"):
        write_tar(data / split / "0.tar", {"a.jpg": jpeg(1 + len(split)), "a.cls": b"0"})
    with pytest.raises(UserError, match="single class"):
        prepare({"a.jpg": jpeg(1), "a.cls": b"0"})


@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_linear_probe_says_what_it_was_not_trained_on(cached, stripes, trained, tmp_path):
    data = tmp_path / "stripes"
    shutil.copytree(stripes, data)
    for file in (data / "train" / "direction_1").glob("*.png"):
        file.write_bytes(b"no image")
    said: list[str] = []
    settings = ["workers=0", f"cached={cached}", "iterations=3", "held_out=0", "limit=40"]
    run_task("linear", trained, data, tmp_path / "out", [*settings, "global_batch=40"], said)
    count = "30 of the 120 images drawn for training" if cached == "false" else "10 training images"
    assert f"{count} cannot be read, or have no label: they train nothing" in said
    assert [line for line in said if "of 1 classes without a training sample, such as label 1" in line]


def test_bad_settings_are_clear_errors(stripes, trained, tmp_path):
    for overrides, message in (
        (["iterations=1", "epochs=1"], "give one of them"),
        (["last_blocks=[3]"], "has 2 blocks"),
        (["crop_scale=[0.5,2]"], "is not a range"),
        (["held_out=0.001"], "leaves nothing to choose on"),
        (["preset=moco"], "preset"),
        (["epochs=1e300"], "more than 100,000,000 steps; set fewer epochs or iterations"),
        (["iterations=999999999999"], "more than 100,000,000 steps"),
        (["global_batch=100000", "iterations=2"], r"global_batch=100000, but there are \d+ samples to train on"),
        (["workers=100000"], "workers"),
    ):
        with pytest.raises(UserError, match=message):
            run_task("linear", trained, stripes, tmp_path, overrides)


def test_unreadable_images_count_as_wrong_and_train_nothing(stripes, trained, tmp_path):
    data = tmp_path / "stripes"
    shutil.copytree(stripes, data)
    for split in ("train", "val"):
        for file in sorted((data / split).glob("*/*.png"))[:5]:
            file.write_bytes(b"no image")
    said: list[str] = []
    knn = run_task("knn", trained, data, tmp_path / "knn", KNN, said)
    assert knn.protocol["bank"] == TRAIN - 5
    for line in (f"train tokens 1: 5 of {TRAIN} samples", f"val tokens 1: 5 of {VAL} samples"):
        (found,) = [text for text in said if text.startswith(line)]
        assert re.search(r"cannot be used, the first is \S+: not an image", found)
    linear = run_task("linear", trained, data, tmp_path / "linear", [*LINEAR, "iterations=6"])
    for outcome in (knn, linear):
        assert outcome.skipped == 5
        assert outcome.samples == VAL
        assert outcome.tables["classes"][0]["top1"] <= 75, "5 of the 20 of the first class"


@pytest.mark.long
@pytest.mark.parametrize("name", ["logreg", "linear"])
def test_two_processes_of_a_launcher_share_the_work(name, stripes, trained, tmp_path):
    overrides = (
        ["workers=0", "cached=true", "preset=mae", "iterations=10"]
        if name == "linear"
        else ["workers=0", "max_iterations=20"]
    )
    results = []
    for processes in (1, 2):
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        arguments = [
            "--task",
            name,
            "--model",
            str(trained),
            "--data",
            str(stripes),
            "--out",
            str(tmp_path / str(processes)),
        ]
        done = tool(*launch, "tools/transfer_eval.py", *arguments, *overrides, timeout=600)
        assert done.status == 0, done.stderr
        (file,) = (tmp_path / str(processes)).glob("*/result.json")
        results.append(json.loads(file.read_text()))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["tables"] == results[1]["tables"]


@pytest.mark.long
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real images are not on this machine")
def test_real_photographs_beat_chance_by_far_with_any_features(tmp_path):
    data = REAL_DATA / "tiny_imagenet_10"
    outcome = run_task(
        "knn",
        "random:vit_tiny_patch16_224",
        data,
        tmp_path,
        ["workers=0", "limit=400", "k=[20]", "random_baseline=false"],
    )
    assert outcome.samples == 400
    assert outcome.metrics["top1"] > 15
