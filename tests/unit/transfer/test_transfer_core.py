"""Backbone, samples, features, results: what every transfer task is made of."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from matplotlib.figure import Figure
from result_factory import some_result
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from support import jpeg, write_tar

from sar_dist import distributed
from sar_dist.config import AugmentSettings, ModelSettings, RegularizerSettings
from sar_dist.errors import UserError
from sar_dist.models import build_model
from sar_dist.models.model_spec import LoadedModel, load_model
from sar_dist.transfer import runner
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.class_scores import ClassificationScores
from sar_dist.transfer.features import Features, extract, last_block_tokens, logits_of
from sar_dist.transfer.registry import TASKS, find_task
from sar_dist.transfer.result import (
    MeasuredModel,
    identity,
    identity_differences,
    list_result,
    read_result,
    write_result,
)
from sar_dist.transfer.runner import Request, claimed_folder, evaluate, find_data, newest_finished_run, result_label
from sar_dist.transfer.samples import SelectedSamples, limited, open_labelled_samples, open_shard_samples
from sar_dist.transfer.task import Outcome, TransferJob, TransferSettings, TransferTask
from sar_dist.transfer.tasks.classification import ImageNetValidation, top_classes

MODEL = ModelSettings(
    name="vit_tiny_patch16_224",
    image_size=32,
    patch_size=8,
    num_classes=4,
    no_skip_last_block=True,
    options={"embed_dim": 24, "depth": 3, "num_heads": 2},
)


def make_backbone(seed: int = 0) -> Backbone:
    build = functools.partial(build_model, MODEL, RegularizerSettings())
    torch.manual_seed(seed)
    loaded = LoadedModel(build(), 32, AugmentSettings(), "small", build, MODEL, None)
    return Backbone("small", loaded, torch.device("cpu"), "fp32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of 3 classes: 14 training and 11 validation images, one of which is no image."""
    for split, count in (("train", 14), ("val", 11)):
        for number in range(count):
            file = tmp_path / "set" / split / f"class_{number % 3}" / f"{number:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"not an image" if (split, number) == ("val", 4) else jpeg(number))
    return tmp_path / "set"


def run_extract(backbone: Backbone, root: Path, out: Path, batch: int = 2) -> Features:
    samples = open_labelled_samples(root, "val", "help")
    return extract(
        backbone, samples, last_block_tokens(2), name="val", folder=out, batch=batch, workers=0, say=lambda _: None
    )


def test_tokens_are_the_normed_outputs_of_the_last_blocks():
    backbone = make_backbone()
    images = backbone.normalise(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    outputs: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for block in backbone.vit.blocks]
    tokens, patch_mean = backbone.tokens(images, 2)
    for hook in hooks:
        hook.remove()
    expected = [backbone.vit.norm(output) for output in outputs[-2:]]
    torch.testing.assert_close(tokens, torch.stack([output[:, 0] for output in expected], 1))
    torch.testing.assert_close(patch_mean, expected[-1][:, 1:].mean(1))
    torch.testing.assert_close(backbone.logits(images), backbone.model(images)["logits"])


def test_similarity_is_the_scaled_product_of_query_and_keys():
    backbone = make_backbone()
    images = torch.randn(2, 3, 32, 32)
    output = backbone.model(images)
    query, keys = output["queries"][-1], output["keys"][-1]
    expected = torch.einsum("bhd,bhnd->bhn", query, keys) * query.shape[-1] ** -0.5
    torch.testing.assert_close(backbone.similarity(images).flatten(2), expected)


def test_resizing_keeps_the_model_and_interpolates_the_positions():
    backbone = make_backbone()
    larger = backbone.resized(48, 64)
    assert larger.similarity(torch.randn(1, 3, 48, 64)).shape == (1, 2, 6, 8)
    assert backbone.vit.pos_embed.shape[1] == 17
    assert backbone.similarity(torch.randn(1, 3, 32, 32)).shape == (1, 2, 4, 4)
    with pytest.raises(UserError, match="patches of 8"):
        backbone.resized(50, 64)


def test_random_twin_has_the_architecture_and_other_weights():
    backbone = make_backbone(7)
    twin = backbone.randomly_initialised()
    assert {n: p.shape for n, p in twin.vit.named_parameters()} == {
        n: p.shape for n, p in backbone.vit.named_parameters()
    }
    assert twin.fingerprint != backbone.fingerprint
    assert (
        twin.fingerprint == backbone.randomly_initialised().fingerprint != backbone.randomly_initialised(1).fingerprint
    )


def test_fingerprint_is_of_the_weights_alone():
    assert make_backbone(3).fingerprint == make_backbone(3).fingerprint != make_backbone(4).fingerprint


def test_features_are_in_order_and_bad_samples_are_marked(folder, tmp_path):
    backbone = make_backbone()
    found = run_extract(backbone, folder, tmp_path)
    samples = open_labelled_samples(folder, "val", "help")
    labels = [int(samples.sample(number)[1]["cls"]) for number in range(len(samples))]
    assert found.labels.tolist() == labels
    keys = [samples.sample(number)[0] for number in range(len(samples))]
    assert [key for key, bad in zip(keys, found.bad, strict=True) if bad] == [
        key for key in keys if key.endswith("004")
    ]
    image = backbone.eval_transform()(samples.sample(7)[1]["jpg"])
    torch.testing.assert_close(
        torch.from_numpy(found.values["tokens"][7]), backbone.tokens(backbone.normalise(image[None]), 2)[0][0]
    )
    assert len(found.good().labels) == 10


def test_features_of_two_processes_are_bit_for_bit_those_of_one(folder, tmp_path, monkeypatch):
    backbone = make_backbone()
    monkeypatch.setattr("sar_dist.transfer.features.BATCHES_IN_A_CHUNK", 2)
    alone = run_extract(backbone, folder, tmp_path / "one")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    with pytest.raises(UserError, match="missing or damaged"):  # the other process has not written its chunks yet
        run_extract(backbone, folder, tmp_path / "two")
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    together = run_extract(backbone, folder, tmp_path / "two")
    np.testing.assert_array_equal(alone.values["tokens"], together.values["tokens"])
    np.testing.assert_array_equal(alone.labels, together.labels)


def test_only_missing_or_damaged_chunks_are_computed_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sar_dist.transfer.features.BATCHES_IN_A_CHUNK", 1)
    backbone = make_backbone()
    first = run_extract(backbone, folder, tmp_path)
    chunks = sorted(tmp_path.glob("val_*/*.safetensors"))
    assert len(chunks) == 6
    chunks[2].write_bytes(chunks[2].read_bytes()[:-10])
    chunks[4].unlink()
    save_arrays({"other": np.zeros(2)}, chunks[3])
    whole = load_file(chunks[5])
    save_arrays({name: values for name, values in whole.items() if name != "labels"}, chunks[5])
    calls = []
    original = Backbone.tokens
    monkeypatch.setattr(Backbone, "tokens", lambda self, *a: calls.append(1) or original(self, *a))
    again = run_extract(backbone, folder, tmp_path)
    assert len(calls) == 4
    np.testing.assert_array_equal(first.values["tokens"], again.values["tokens"])
    run_extract(make_backbone(5), folder, tmp_path)
    assert len(calls) == 10, "features of other weights must not be taken up"


def test_limit_takes_samples_of_every_part(folder):
    samples = open_labelled_samples(folder, "train", "help")
    few = limited(samples, 3)
    assert isinstance(few, SelectedSamples)
    assert few.numbers.tolist() == [0, 6, 13] or few.numbers.tolist() == [0, 7, 13]
    assert few.fingerprint != samples.fingerprint
    assert limited(samples, 99) is samples


def test_shards_and_folders_hold_the_same_samples(folder, tmp_path):
    from sar_dist.data.making.sources import imagefolder_sources
    from sar_dist.data.making.writing import WritingOptions, write_splits

    write_splits(imagefolder_sources(folder, None), tmp_path / "shards", WritingOptions())
    shards = open_labelled_samples(tmp_path / "shards", "train", "help")
    files = open_labelled_samples(folder, "train", "help")
    assert shards.classes == files.classes
    shards.sample(0)
    copied = pickle.loads(pickle.dumps(shards))
    assert sorted(copied.sample(n)[0] for n in range(14)) == sorted(files.sample(n)[0] for n in range(14))
    by_key = dict(files.sample(n) for n in range(14))
    key, members = shards.sample(3)
    assert members == by_key[key]


class FakeCifar:
    classes = ("plane", "car")

    def __init__(self, root: Path, train: bool) -> None:
        self.data = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
        self.targets = [0, 1, 1, 0, 1]


class FakeFlowers:
    def __init__(self, root: Path, split: str) -> None:
        self._image_files = [root / "flowers-102" / "jpg" / f"{split}_{n}.jpg" for n in range(2)]
        self._labels = [4, 7]


def test_tars_without_a_manifest_are_known_by_their_content(tmp_path):
    """Also where name, size and number of samples stay what they were."""
    found = []
    for label in (b"0", b"1", b"0"):
        root = tmp_path / str(len(found)) / "set"
        write_tar(root / "val-0.tar", {"a.jpg": jpeg(1), "a.cls": label})
        samples = open_shard_samples(root, "val")
        assert samples is not None
        found.append(samples.fingerprint)
    assert found[0] == found[2] != found[1]


def test_files_exchanged_between_folders_are_another_set(folder):
    """Names and sizes are the same then."""
    root = folder
    files = sorted(root.glob("train/*/*.jpg"))[:2]
    before = open_labelled_samples(root, "train", "help").fingerprint
    assert open_labelled_samples(root, "train", "help").fingerprint == before
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    assert open_labelled_samples(root, "train", "help").fingerprint != before


def test_torchvision_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCifar)
    monkeypatch.setattr(torchvision.datasets, "Flowers102", FakeFlowers)
    (tmp_path / "cifar-10-batches-py").mkdir()
    cifar = open_labelled_samples(tmp_path, "val", "help")
    key, members = cifar.sample(2)
    pixels = make_backbone().eval_transform()(members["png"])
    assert (len(cifar), key, members["cls"], cifar.classes, pixels.dtype) == (
        5,
        "000002",
        b"1",
        ("plane", "car"),
        torch.uint8,
    )

    flowers = tmp_path / "other" / "flowers-102" / "jpg"
    flowers.mkdir(parents=True)
    (flowers / "val_1.jpg").write_bytes(b"content")
    training = open_labelled_samples(tmp_path / "other", "train", "help")
    assert len(training) == 4, "Flowers-102 is trained on its training and validation images"
    assert training.sample(3) == ("val_1", {"jpg": b"content", "cls": b"7"})
    with pytest.raises(UserError, match="cannot read"):
        training.sample(0)


def test_damaged_torchvision_set_says_how_to_fetch_it(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(UserError, match=r"CIFAR100.*download=True"):
        open_labelled_samples(tmp_path, "val", "help")


@pytest.mark.parametrize(("make", "message"), [(False, "there is no folder"), (True, "no val split")])
def test_missing_data_says_what_is_expected(tmp_path, make, message):
    if make:
        (tmp_path / "gone").mkdir()
    with pytest.raises(UserError, match=f"{message}.*expected the files"):
        open_labelled_samples(tmp_path / "gone", "val", "the files")


def test_perfect_and_broken_predictions():
    labels = np.array([0, 1, 2, 3, 0])
    order = top_classes(np.eye(8)[labels], 5)
    good, bad = np.zeros(5, dtype=bool), np.array([False, False, False, False, True])
    assert ClassificationScores(order, labels, good, 8).metrics == {"top1": 100, "top5": 100, "mean_per_class": 100}
    assert ClassificationScores(order, labels, bad, 8).metrics == {"top1": 80, "top5": 80, "mean_per_class": 87.5}
    np.testing.assert_array_equal(top_classes(np.array([[1.0, 2.0, 2.0]]), 2), [[1, 2]])


def test_weights_of_a_file_are_loaded_strictly(tmp_path):
    name = "vit_tiny_patch16_224"
    torch.manual_seed(9)
    state = load_model(f"random:{name}").model.vit.state_dict()
    headless = {key: value + 1 for key, value in state.items() if not key.startswith("head.")}
    save_file({key: value.contiguous() for key, value in headless.items()}, tmp_path / "dino.safetensors")
    loaded = load_model(f"timm:{name}:{tmp_path / 'dino.safetensors'}")
    assert loaded.model.vit.num_classes == 0
    torch.testing.assert_close(loaded.model.vit.pos_embed, state["pos_embed"] + 1)
    del headless["norm.weight"]
    save_file({key: value.contiguous() for key, value in headless.items()}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"(?s)do not fit timm's.*norm\.weight"):
        load_model(f"timm:{name}:{tmp_path / 'part.safetensors'}")
    backbone = Backbone("headless", loaded, torch.device("cpu"), "fp32")
    with pytest.raises(UserError, match="no classifier"):
        backbone.logits(torch.zeros(1, 3, 224, 224))


def test_result_survives_and_is_listed(tmp_path):
    folder = tmp_path / "knn"
    folder.mkdir()
    result = some_result()
    assert read_result(write_result(result, folder)) == result
    assert json.loads((tmp_path / "results.jsonl").read_text())["metrics"] == {"top1": 50.0}


@pytest.mark.parametrize("changes", [{"primary": "top5"}, {"metrics": {"top1": float("nan")}}, {"unknown": 1}])
def test_a_wrong_result_is_refused(changes):
    with pytest.raises(ValueError, match=r"primary|finite|Extra"):
        some_result(**changes)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "it is cut off, or no JSON"),
        ("{}", "task is missing"),
        (some_result().model_dump_json().replace('"seconds"', '"secondz"'), "seconds is missing"),
        (some_result().model_dump_json()[:-1] + ',"x":1}', "unknown key 'x'"),
        (some_result().model_dump_json().replace("50.0", '"many"'), "metrics.top1='many': "),
        (some_result().model_dump_json().replace('"primary":"top1"', '"primary":"top5"'), "the primary metric 'top5'"),
    ],
)
def test_a_file_that_is_no_result_is_refused_in_one_line(tmp_path, content, problem):
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(UserError) as refused:
        read_result(file)
    assert str(refused.value).startswith(f"{file} is not a result of tools/transfer_eval.py: {problem}")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="No such file"):
        read_result(tmp_path / "none.json")


def test_a_folder_belongs_to_one_evaluation(tmp_path):
    result = some_result()
    wanted = result.identity()
    for _ in ("begun", "unfinished: to be continued"):
        with claimed_folder(tmp_path / "knn", wanted) as done:
            assert not done
    write_result(result, tmp_path / "knn")
    with claimed_folder(tmp_path / "knn", wanted) as done:
        assert done
    being_written = tmp_path / "knn" / ".features.0a1b2c3d.part"
    being_written.touch()
    with (
        pytest.raises(UserError, match="another model"),
        claimed_folder(tmp_path / "knn", {**wanted, "model": "other weights"}),
    ):
        pass
    assert being_written.exists(), "by an evaluation whose folder it is"
    assert "workers" not in wanted["settings"], "how it is run does not make it another evaluation"


def test_another_model_is_refused_before_the_data_are_known(tmp_path):
    wanted = some_result().identity()
    runner.refuse_another(tmp_path / "knn", wanted)
    with claimed_folder(tmp_path / "knn", wanted):
        pass
    known = {key: value for key, value in wanted.items() if key != "data"}
    runner.refuse_another(tmp_path / "knn", known)
    with pytest.raises(UserError, match="another model; give another --out"):
        runner.refuse_another(tmp_path / "knn", {**known, "model": "another checkpoint"})
    with pytest.raises(UserError, match="another data; give another --out"):
        runner.refuse_another(tmp_path / "knn", {**wanted, "data": {"val": "others"}})


def test_a_kill_before_the_result_is_listed_is_made_up_for(tmp_path):
    result, listed = some_result(), tmp_path / "results.jsonl"
    (tmp_path / "knn").mkdir()
    listed.write_text('{"torn')
    write_result(result, tmp_path / "knn")
    once = listed.read_text()
    assert json.loads(once.splitlines()[-1])["metrics"] == {"top1": 50.0}
    list_result(result, tmp_path / "knn")
    assert listed.read_text() == once
    listed.unlink()
    list_result(result, tmp_path / "knn")
    assert listed.read_text() == once.splitlines()[-1] + "\n"


def test_a_list_of_results_that_cannot_be_written_is_said_before_anything_is_computed(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with (
        pytest.raises(UserError, match=r"results\.jsonl is no file that can be written"),
        claimed_folder(tmp_path / "a", {}),
    ):
        pytest.fail("nothing must be computed")


def test_a_start_removes_what_a_killed_one_was_writing(tmp_path):
    result = some_result()
    part = tmp_path / "knn" / "features" / ".0.safetensors.0a1b2c3d.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x")
    with claimed_folder(tmp_path / "knn", result.identity()):
        assert not part.exists()


def test_two_starts_at_once_do_not_share_a_folder(tmp_path):
    wanted = some_result().identity()
    part = tmp_path / "knn" / ".features.0a1b2c3d.part"
    with claimed_folder(tmp_path / "knn", wanted):
        part.write_bytes(b"being written")
        with (
            pytest.raises(UserError, match=f"knn is in use by process {os.getpid()} on .*; .* give another --out"),
            claimed_folder(tmp_path / "knn", wanted),
        ):
            pass
        assert part.exists()
    with claimed_folder(tmp_path / "knn", wanted) as done:
        assert not done


def test_the_same_weights_in_another_architecture_are_another_evaluation() -> None:
    of = {spec: identity("knn", {}, "m", {}, spec) for spec in ("runs/a", "timm:a", "timm:a:w.pth", "timm:b:w.pth")}
    assert of["runs/a"] == of["timm:a"] == identity("knn", {}, "m", {})
    assert of["timm:a:w.pth"]["architecture"] == "a"
    assert of["timm:a:w.pth"] != of["timm:b:w.pth"]


def test_the_same_weights_on_images_prepared_otherwise_are_another_evaluation(tmp_path: Path) -> None:
    of = {mean: {"images": {"mean": [mean], "crop_fraction": 0.9}} for mean in (0.4, 0.5)}
    model = MeasuredModel(spec="out", description="out, step 3", fingerprint="f", preparation=of[0.4])
    result = some_result(model=model)
    wanted, other = result.identity(), {**result.identity(), "preparation": of[0.5]}
    (tmp_path / "knn").mkdir()
    write_result(result, tmp_path / "knn")
    (tmp_path / "knn" / runner.JOB_FILE).write_text(json.dumps(wanted))
    with claimed_folder(tmp_path / "knn", wanted) as done:
        assert done
    with pytest.raises(UserError, match=r"holds an evaluation with another images\.mean; give another --out"):
        runner.refuse_another(tmp_path / "knn", other)
    with pytest.raises(UserError, match=r"another model \(out, step 3\); give another --out"):
        runner.refuse_another(tmp_path / "knn", {**wanted, "model": "g"})
    earlier = some_result().identity()  # of a version that did not know it
    assert "preparation" not in earlier
    assert not identity_differences(earlier, {**earlier, "preparation": of[0.5]})


def test_what_a_model_does_to_images_is_part_of_what_is_measured() -> None:
    backbone = make_backbone()
    loaded, one = backbone.loaded, backbone.preparation()
    assert one == make_backbone(seed=1).preparation() == json.loads(json.dumps(one))
    for changes in (
        {"augment": loaded.augment.model_copy(update={"crop_fraction": 0.5})},
        {"settings": loaded.settings.model_copy(update={"options": {"num_heads": 12}})},
    ):
        changed = dataclasses.replace(loaded, **changes)
        assert Backbone("a", changed, torch.device("cpu"), "fp32").preparation() != one


def test_a_checkpoint_has_a_default_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "runs" / "a" / "checkpoints" / "step_00000010"
    export = tmp_path / "checkpoints" / "export"
    for folder in (step, export):
        folder.mkdir(parents=True)
    (step / "manifest.json").touch()
    assert runner.checkpoint_name(str(step)) == ["step_00000010"]
    assert runner.default_output(str(step)) == tmp_path / "runs" / "a" / "transfer"
    for spec, output in (("runs/a", "runs/a/transfer"), ("timm:a:b/c.pth", "runs/transfer/timm_a_b_c.pth")):
        monkeypatch.chdir(tmp_path)
        assert runner.checkpoint_name(spec) == []
        assert runner.default_output(spec) == Path(output)
    assert runner.checkpoint_name(str(export)) == []
    assert runner.default_output(str(export)) == export / "transfer"
    monkeypatch.chdir(step)
    assert runner.default_output(".") == tmp_path / "runs" / "a" / "transfer"


def test_what_is_not_given_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAR_DIST_DATA", raising=False)
    with pytest.raises(UserError, match=r"looked for data/imagenet-1k-wds .*expected the validation split"):
        find_data(ImageNetValidation, None)
    monkeypatch.setenv("SAR_DIST_DATA", str(tmp_path / "sets"))
    (tmp_path / "sets" / "imagenet-1k-wds").mkdir(parents=True)
    assert find_data(ImageNetValidation, None) == tmp_path / "sets" / "imagenet-1k-wds"
    with pytest.raises(UserError, match="no finished run"):
        newest_finished_run()
    for name in ("old", "new"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "summary.json").write_text("{}")
    import os

    os.utime(tmp_path / "runs" / "old" / "summary.json", (1, 1))
    assert newest_finished_run() == "runs/new"


def test_results_of_other_data_have_other_names(tmp_path):
    settings = TransferSettings()
    assert result_label(ImageNetValidation, settings, None) == "imagenet_val"
    assert result_label(ImageNetValidation, settings, tmp_path / "imagenet-1k-wds") == "imagenet_val"
    assert result_label(ImageNetValidation, settings, tmp_path / "pets") == "imagenet_val_pets"


def test_data_are_looked_at_before_a_gpu_is_touched(tmp_path, monkeypatch):
    touched = []
    monkeypatch.setattr(runner, "select_device", lambda rank: touched.append(rank) or torch.device("cpu"))
    monkeypatch.setattr(distributed, "initialize", lambda device: None)
    request = Request("imagenet_val", "random:test_vit", tmp_path, tmp_path / "out", ["workers=0"])
    with pytest.raises(UserError, match="no val split"):
        evaluate(request)
    assert not touched
    (tmp_path / "val" / "class").mkdir(parents=True)
    (tmp_path / "val" / "class" / "0.jpg").write_bytes(jpeg(0))
    with pytest.raises(UserError, match="1000 classes"):
        evaluate(request)
    assert not touched


class _BrokenPictures(TransferTask):
    name = data_folder = "broken_pictures"
    settings_type = TransferSettings

    def prepare(self) -> SimpleNamespace:
        return SimpleNamespace(fingerprints={"val": "x"})

    def run(self, prepared: SimpleNamespace) -> Outcome:
        def fails() -> Figure:
            assert not (self.job.out / "result.json").exists(), (
                "after a kill while drawing the pictures would be missing"
            )
            raise RuntimeError("no\nfont")

        unfit = Figure()
        unfit.text(0, 0, "$x_{$")
        drawings = {"fails": fails, "unfit": unfit, "nothing": lambda: None, "sound": Figure}
        return Outcome({"top1": 50.0}, "top1", 2, figures=drawings)


def test_pictures_that_fail_are_said_and_cost_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "find_task", lambda name: _BrokenPictures)
    monkeypatch.setattr(Backbone, "load", lambda *_: make_backbone())
    result = evaluate(Request("broken_pictures", "small", tmp_path, tmp_path / "out", []))
    folder = tmp_path / "out" / result.label
    assert read_result(folder / "result.json").metrics == {"top1": 50.0}
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "could not be drawn" not in line] == []
    assert f"{folder / 'fails'}.png could not be drawn (RuntimeError: no font); it is left out" in said[0]
    assert f"{folder / 'unfit'}.png" in said[1]
    assert [path.name for path in sorted(folder.glob("*.png"))] == ["sound.png"]


def test_a_job_computes_where_its_backbone_was_moved(tmp_path):
    backbone = make_backbone()
    job = TransferJob(backbone, tmp_path, tmp_path, TransferSettings(), print)
    assert backbone.to(torch.device("meta")) is backbone
    assert job.device.type == backbone.vit.pos_embed.device.type == "meta"


def test_every_task_of_the_registry_is_complete():
    for name in TASKS:
        task = find_task(name)
        assert task.name == name
        assert task.summary
        assert task.data_help
        assert "\n" not in task.data_help
        assert task.data_folder
        task.settings_type()
    with pytest.raises(UserError, match="did you mean imagenet_val"):
        find_task("imagenet_vall")


def test_logits_are_stored_by_name(folder, tmp_path):
    samples = open_labelled_samples(folder, "val", "help")
    found = extract(
        make_backbone(), samples, logits_of, name="x", folder=tmp_path, batch=4, workers=0, say=lambda _: None
    )
    assert found.values["logits"].shape == (11, 4)


def test_weights_and_features_that_are_not_finite_end_an_evaluation(folder: Path, tmp_path: Path) -> None:
    backbone = make_backbone()
    with torch.no_grad():
        backbone.vit.head.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"1 of its tensors hold values that are not finite, such as vit\.head\.weight"):
        Backbone("small", backbone.loaded, torch.device("cpu"), "fp32")
    with torch.no_grad():
        backbone.vit.cls_token.fill_(torch.inf)
    with pytest.raises(UserError, match="gives tokens that are not finite"):
        run_extract(backbone, folder, tmp_path / "features")
