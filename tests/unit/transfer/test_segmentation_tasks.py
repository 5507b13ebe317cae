import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from segmentation_factory import CLASSES, colors_to_logits, png_of, scene, small_backbone, small_task, write_ade_layout

from sar_dist.errors import UserError
from sar_dist.transfer.registry import find_task
from sar_dist.transfer.task import TransferJob
from sar_dist.transfer.tasks.segmentation import tasks, training
from sar_dist.transfer.tasks.segmentation.evaluation import Predictor, count_confusions
from sar_dist.transfer.tasks.segmentation.metrics import scores
from sar_dist.transfer.tasks.segmentation.settings import SegmentationSettings
from sar_dist.transfer.tasks.segmentation.tasks import VocSegmentation


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_ade_layout(tmp_path_factory.mktemp("scenes") / "set")


def run(data, out, said=None, **settings):
    task = small_task(data, out, said, **settings)
    return task.run(task.prepare())


def count_perfect(task, windows):
    data = task.prepare()
    predictor = Predictor(windows, task.job.backbone.normalise, data.recipe, batch=2)
    return count_confusions(data.val, predictor, data.recipe, workers=0, device=torch.device("cpu"), say=task.job.say)


@pytest.mark.parametrize(
    "size", [{"height": 32, "width": 96}, {"height": 80, "width": 32}, {"height": 32, "width": 32}]
)
def test_a_perfect_model_scores_100_through_the_whole_evaluation(size, tmp_path):
    task = small_task(write_ade_layout(tmp_path / "set", **size), tmp_path / "out")
    backbone = task.job.backbone
    assert scores(count_perfect(task, lambda images: colors_to_logits(backbone, images))) == {
        "mIoU": 100,
        "mAcc": 100,
        "aAcc": 100,
    }


def test_a_model_that_confuses_two_classes_does_not(tmp_path):
    task = small_task(write_ade_layout(tmp_path / "set", height=32, width=96), tmp_path / "out")
    backbone = task.job.backbone
    counts = count_perfect(task, lambda images: colors_to_logits(backbone, images)[:, [1, 0, 2, 3]])
    assert counts[0, 1] > 0
    assert counts[0, 0] == counts[1, 1] == 0
    assert scores(counts)["mIoU"] == pytest.approx(50)


def test_every_image_must_be_scored_once(scenes, tmp_path, monkeypatch):
    task = small_task(scenes, tmp_path)
    monkeypatch.setattr("sar_dist.distributed.gather_objects", lambda mine: [mine, mine])
    with pytest.raises(AssertionError, match="exactly once"):
        count_perfect(task, lambda images: colors_to_logits(task.job.backbone, images))


@pytest.mark.parametrize("head", ["linear", "upernet", "dpt"])
def test_a_task_gives_scores_baselines_pictures_and_tables(head, scenes, tmp_path):
    said = []
    outcome = run(scenes, tmp_path, said, head=head, random_baseline=head == "linear")
    assert outcome.metrics.keys() == {"mIoU", "mAcc", "aAcc"}
    assert outcome.samples == 5
    assert outcome.figures.keys() == {"class_iou", "predictions"}
    assert next(iter(outcome.baselines)) == "majority class"
    assert ("random backbone" in outcome.baselines) == (head == "linear")
    assert [row["class"] for row in outcome.tables["per_class"]] == list(CLASSES)
    json.dumps([outcome.protocol, outcome.tables], allow_nan=False)
    assert outcome.protocol["head"] == head
    assert "crop 32 instead of 512" in outcome.protocol["deviations"]
    assert ("the head looks at block 2 instead of the last, 3" in outcome.protocol["deviations"]) == (head == "linear")
    assert any(line.startswith("training: 4 of 4 steps, ") and ", loss " in line for line in said)
    assert find_task("ade20k").variant(SegmentationSettings(head=head)) == head


@pytest.mark.parametrize("head", ["linear", "upernet", "dpt"])
def test_bfloat16_trains_too(head, scenes, tmp_path):
    settings = {"head": head, "iterations": 2, "random_baseline": False, "pictures": 0}
    rough, fine = (run(scenes, tmp_path / p, precision=p, **settings) for p in ("bf16", "fp32"))
    assert rough.metrics["aAcc"] == pytest.approx(fine.metrics["aAcc"], abs=15)
    assert rough.metrics != fine.metrics


def test_the_majority_baseline_is_the_most_frequent_training_class_on_the_validation_labels(scenes, tmp_path):
    task = small_task(scenes, tmp_path, iterations=1, random_baseline=False)
    prepared = task.prepare()
    outcome = task.run(prepared)
    labels = [
        torch.cat([data.read(n)[2].flatten() for n in range(len(data))]) for data in (prepared.train, prepared.val)
    ]
    train, val = (part[part != 255].long() for part in labels)
    majority = int(torch.bincount(train).argmax())
    share = 100 * float((val == majority).double().mean())
    assert outcome.baselines["majority class"] == pytest.approx({"mIoU": share / 4, "mAcc": 25, "aAcc": share})


def test_training_learns_what_colours_mean(scenes, tmp_path):
    """The scenes' classes are their colours: even random features must do better than the majority class."""
    settings = {"head": "linear", "iterations": 60, "random_baseline": False, "short_side": 64, "lr": 5e-2}
    outcome = run(scenes, tmp_path, **settings)
    assert outcome.metrics["aAcc"] > outcome.baselines["majority class"]["aAcc"] + 12


def stop_after(last):
    step = training.SegmentationTraining.step

    def stop(self, number, batch):
        if number == last:
            raise KeyboardInterrupt
        step(self, number, batch)

    return stop


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(head, scenes, tmp_path, monkeypatch):
    settings = {"head": head, "iterations": 5, "checkpoint_every": 2, "drop_path": 0.3, "random_baseline": False}
    whole = run(scenes, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(training.SegmentationTraining, "step", stop_after(4))
        with pytest.raises(KeyboardInterrupt):
            run(scenes, tmp_path / "stopped", **settings)
    said = []
    resumed = run(scenes, tmp_path / "stopped", said, **settings)
    assert "going on after step 4 of 5" in said
    assert resumed.metrics == whole.metrics
    files = [tmp_path / name / "training.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_done_is_not_done_again(scenes, tmp_path, monkeypatch):
    settings = {"iterations": 2, "random_baseline": False, "pictures": 0}
    first = run(scenes, tmp_path, **settings)
    for name in ("_step", "TrainTransform"):
        monkeypatch.setattr(training, name, lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(tasks, "count_confusions", lambda *_, **__: pytest.fail("scored again"))
    monkeypatch.setattr(training, "_batches", lambda *_: [])
    assert run(scenes, tmp_path, **settings).metrics == first.metrics


def test_a_damaged_confusion_matrix_is_counted_again(scenes, tmp_path):
    file, good = tmp_path / "confusion.safetensors", torch.ones(4, 5, dtype=torch.int64)
    for content, taken in (
        ({"counts": good}, True),
        ({"counts": good[:3]}, False),
        ({"counts": -good}, False),
        ({"counts": good.double()}, False),
        ({"other": good}, False),
    ):
        save_file(content, file)
        assert (tasks._read_counts(file, 4) is not None) is taken
    file.write_bytes(file.read_bytes()[:50])
    settings = {"iterations": 1, "random_baseline": False, "pictures": 0}
    first = run(scenes, tmp_path, **settings)
    assert sum(row["pixels"] for row in first.tables["per_class"]) == int(tasks._read_counts(file, 4).sum()) > 20


def test_a_damaged_checkpoint_is_a_user_error(scenes, tmp_path):
    (tmp_path / "training.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"training\.safetensors is damaged .*remove it"):
        run(scenes, tmp_path)


def test_unreadable_images_are_named_counted_and_wrong(tmp_path):
    root = write_ade_layout(tmp_path / "set")
    for split, number in (("training", 3), ("validation", 1002)):
        file = root / "images" / split / f"{number:06d}.jpg"
        file.write_bytes(file.read_bytes()[:300])
    said = []
    task = small_task(root, tmp_path / "out", said, iterations=2, random_baseline=False)
    outcome = task.run(task.prepare())
    assert (outcome.samples, outcome.skipped) == (5, 1)
    assert outcome.protocol["training_samples"] == 5
    assert [reason[:6] for reason in outcome.protocol["unreadable"]["val"]] == ["001002"]
    assert any(line.startswith("train: 1 samples cannot be read: 000003") for line in said)
    perfect = scores(count_perfect(task, lambda images: colors_to_logits(task.job.backbone, images)))
    assert 50 < perfect["aAcc"] < 100  # one of five is wrong at every pixel


def test_a_loss_that_is_not_finite_is_a_user_error(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "zero_padding", lambda images, *_: images * float("nan"))
    with pytest.raises(UserError, match="the loss is nan at step 4; try a smaller lr"):
        run(scenes, tmp_path)


def test_a_limit_uses_fewer_samples(scenes, tmp_path):
    outcome = run(scenes, tmp_path, limit=3, iterations=1, random_baseline=False)
    assert outcome.samples == 3
    assert outcome.protocol["training_samples"] == 3


def test_voc_keeps_its_labels(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for split, keys in (("train", ["a", "b"]), ("val", ["c"])):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(keys))
        for number, key in enumerate(keys):
            labels = scene(number, labels=3)
            labels[labels == 2] = 20
            labels[:4] = 255
            (base / "SegmentationClass" / f"{key}.png").write_bytes(png_of(labels))
            Image.new("RGB", (96, 64)).save(base / "JPEGImages" / f"{key}.jpg")
    settings = SegmentationSettings(crop=32, workers=0, iterations=1, global_batch=2, random_baseline=False)
    said = []
    job = TransferJob(small_backbone(), tmp_path / "VOCdevkit", tmp_path / "out", settings, said.append)
    task = VocSegmentation(job)
    prepared = task.prepare()
    assert len(prepared.val.classes) == 21
    assert set(prepared.val.read(0)[2].unique().tolist()) == {0, 1, 20, 255}
    assert task.run(prepared).samples == 1
