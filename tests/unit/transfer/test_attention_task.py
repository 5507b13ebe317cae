"""``voc_attention`` from files to result: layouts, preprocessing, planted attention, resuming, processes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT, jpeg, run_processes, tool, write_tar

from sar_dist.data.making.demo import demo_samples
from sar_dist.data.making.sources import DemoScenes, ade20k_sources, voc_sources
from sar_dist.data.making.writing import WritingOptions, write_splits
from sar_dist.errors import UserError
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.result import read_result
from sar_dist.transfer.task import Outcome, TransferJob
from sar_dist.transfer.tasks.attention.figures import MASK_COLOR, OBJECT_COLOR, overlay, stretched
from sar_dist.transfer.tasks.attention.masks import AttentionMasks, AttentionMaskSettings
from sar_dist.transfer.tasks.attention.regions import SquareResize, open_masked_samples

SIZE = 64  # four by four patches of 16 pixels


def png(pixels: np.ndarray, palette: bool = False) -> bytes:
    image = Image.fromarray(pixels)
    if palette:
        image = image.convert("P") if pixels.ndim == 3 else image
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A white square of two by two patches on black, and VOC labels: class 1 + number % 20, with a void rim inside."""
    image, labels = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    top, left = 16 * (number % 3), 16 * (number // 3 % 3)
    image[top : top + 32, left : left + 32] = 255
    labels[top : top + 32, left : left + 32] = 1 + number % 20
    return image, labels


def write_voc(root: Path, count: int) -> Path:
    """VOCdevkit/VOC2012 below ``root``; images are PNGs under the name of JPEGs, so that no pixel is lost."""
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (base / folder).mkdir(parents=True)
    keys = [f"2007_{number:06d}" for number in range(count)]
    for number, key in enumerate(keys):
        image, labels = scene(number)
        (base / "JPEGImages" / f"{key}.jpg").write_bytes(png(image))
        (base / "SegmentationClass" / f"{key}.png").write_bytes(png(labels, palette=True))
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(keys) + "\n")
    (base / "ImageSets" / "Segmentation" / "train.txt").write_text(keys[0] + "\n")
    return root


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load("random:test_vit", torch.device("cpu"))


def make_task(backbone: Backbone, data: Path, out: Path, **settings: object) -> AttentionMasks:
    values = {"image_size": SIZE, "workers": 0, "batch": 2, **settings}
    job = TransferJob(backbone, data, out, AttentionMaskSettings.model_validate(values), lambda text: None)
    return AttentionMasks(job)


def run_task(backbone: Backbone, data: Path, out: Path, **settings: object) -> Outcome:
    task = make_task(backbone, data, out, **settings)
    return task.run(task.prepare())


def look_at_white(self: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Head 0 attends to white patches alike, the others to black ones."""
    bright = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), self.patch)  # B 1 gh gw
    white = 20 * (bright > bright.mean(dim=(2, 3), keepdim=True)).float()
    return torch.cat([white, *[-white] * (self.heads - 1)], dim=1)


def test_planted_attention_scores_what_the_kept_mass_allows(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_voc(tmp_path / "data", 9)
    monkeypatch.setattr(Backbone, "similarity", look_at_white)
    found = run_task(backbone, data, tmp_path / "out", mass=0.7)
    # 3 of the 4 patches of each object hold 75 % of its attention: the fewest with at least 70 %.
    assert found.metrics["jaccard"] == pytest.approx(75)
    assert found.metrics["jaccard_single_head"] == pytest.approx(75)
    assert found.tables["heads"]["trained"][0] == pytest.approx(75)
    assert max(found.tables["heads"]["trained"][1:]) == 0
    assert found.baselines["uniform"]["jaccard"] == pytest.approx(100 * 4 / 16)
    assert found.samples == 9
    assert set(found.figures) == {"kept_mass", "attention_masks"}
    assert found.tables["classes"].keys() == {
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
    }
    curve = dict(zip(found.tables["kept_mass"]["mass"], found.tables["kept_mass"]["trained"]["jaccard"], strict=True))
    assert curve[0.95] == pytest.approx(100)
    assert curve[1.0] == pytest.approx(25)


def test_random_weights_are_another_model_and_nothing_is_computed_twice(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_voc(tmp_path / "data", 20)
    first = run_task(backbone, data, tmp_path / "out", seed=3)
    assert first.metrics != first.baselines["random initialisation"]
    chunks = sorted((tmp_path / "out").rglob("*.safetensors"))
    assert len(chunks) == 4  # of 16 images and of 4, for two models
    chunks[1].unlink()
    calls = []
    similarity = Backbone.similarity
    monkeypatch.setattr(
        Backbone, "similarity", lambda self, images: calls.append(len(images)) or similarity(self, images)
    )
    again = run_task(backbone, data, tmp_path / "out", seed=3)
    assert sum(calls) in (4, 16)
    assert (again.metrics, again.baselines, again.tables) == (first.metrics, first.baselines, first.tables)


def test_an_image_that_cannot_be_read_counts_as_zero_and_one_without_objects_not_at_all(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_voc(tmp_path / "data", 4)
    base = data / "VOCdevkit" / "VOC2012"
    (base / "JPEGImages" / "2007_000001.jpg").write_bytes(b"not an image")
    (base / "SegmentationClass" / "2007_000002.png").write_bytes(png(np.full((SIZE, SIZE), 255, np.uint8)))
    monkeypatch.setattr(Backbone, "similarity", look_at_white)
    found = run_task(backbone, data, tmp_path / "out", mass=0.95)
    assert (found.samples, found.skipped, found.protocol["images_without_object"]) == (3, 1, 1)
    assert found.metrics["jaccard"] == pytest.approx(200 / 3)


def test_limit_spreads_and_variants_have_folders_of_their_own(backbone: Backbone, tmp_path: Path) -> None:
    data = write_voc(tmp_path / "data", 9)
    assert run_task(backbone, data, tmp_path / "out", limit=3).samples == 3
    assert AttentionMasks.variant(AttentionMaskSettings()) == ""
    assert AttentionMasks.variant(AttentionMaskSettings(void="ignore", mass=0.5)) == "mass0.5_void-ignore"


def test_the_patch_must_divide_the_image(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image_size=70 is not a multiple .* 16 pixels; set image_size=64"):
        make_task(backbone, write_voc(tmp_path, 1), tmp_path / "out", image_size=70).prepare()


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_in_its_folders_also_beside_its_archive(tmp_path: Path, below: str) -> None:
    root = write_voc(tmp_path, 3) / below
    (root / "VOCtrainval_11-May-2012.tar").write_bytes(b"an archive, no shard")
    found = open_masked_samples(root, "auto", "help")
    assert (found.layout, len(found.samples), found.name(20)) == ("voc", 3, "tvmonitor")
    np.testing.assert_array_equal(found.labels(1, SIZE), scene(1)[1])


def test_shards_hold_the_same_masks_as_the_folders_they_were_made_of(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", 5)
    write_splits(voc_sources(tmp_path / "voc"), tmp_path / "shards", WritingOptions(0, 100, 1))
    found = open_masked_samples(tmp_path / "shards", "auto", "help")
    assert (found.layout, len(found.samples)) == ("voc", 5)
    for number in range(5):
        key, _ = found.samples.sample(number)
        np.testing.assert_array_equal(found.labels(number, SIZE), scene(int(key[-6:]))[1])


@pytest.mark.parametrize("shards", [False, True])
def test_in_ade20k_zero_is_void_and_labels_are_classes(tmp_path: Path, shards: bool) -> None:
    root, labels = tmp_path / "ADEChallengeData2016", np.array([[0, 1], [2, 2]], np.uint8)
    for split in ("training", "validation"):
        for folder, name, data in (("images", "a.jpg", jpeg(1)), ("annotations", "a.png", png(labels))):
            (root / folder / split).mkdir(parents=True)
            (root / folder / split / name).write_bytes(data)
    (root / "objectInfo2.txt").write_text("Idx\tName\n1\twall\n2\tsky\n")
    if shards:
        write_splits(ade20k_sources(root), tmp_path / "shards", WritingOptions(0, 100, 1))
    found = open_masked_samples(tmp_path / "shards" if shards else tmp_path, "auto", "help")
    assert (found.layout, found.name(2)) == ("ade20k", "sky")
    np.testing.assert_array_equal(found.labels(0, 4), np.kron([[255, 1], [2, 2]], np.ones((2, 2), int)))


def test_demo_masks_are_one_object_and_resizing_invents_no_label(tmp_path: Path) -> None:
    write_splits([DemoScenes("val", 8, 8, 96, 0)], tmp_path, WritingOptions(0, 100, 1))
    found = open_masked_samples(tmp_path, "auto", "help")
    assert found.layout == "mask"
    masks = {sample["key"]: sample["mask.png"] for sample in demo_samples("val", 8, 8, 96, 0)}
    for number in range(8):
        key, _ = found.samples.sample(number)
        exact = np.asarray(Image.open(io.BytesIO(masks[key]))) > 0
        np.testing.assert_array_equal(found.labels(number, 96), exact)
        rows = ((np.arange(37) + 0.5) * 96 / 37).astype(int)
        np.testing.assert_array_equal(found.labels(number, 37), exact[rows][:, rows])


def test_images_are_stretched_as_the_reference_does(tmp_path: Path) -> None:
    data = jpeg(3, size=50)
    expected = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    found = SquareResize(32)(data)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no images with object masks; expected VOCdevkit/VOC2012 with"):
        open_masked_samples(tmp_path, "auto", AttentionMasks.data_help)
    assert "\n" not in AttentionMasks.data_help
    write_voc(tmp_path, 2)
    write_splits(voc_sources(tmp_path), tmp_path / "shards", WritingOptions(0, 100, 1))
    with pytest.raises(UserError, match=r"no masks of layout mask \(members: jpg, seg.png\)"):
        open_masked_samples(tmp_path / "shards", "mask", "help")
    file = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000001.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match="sample 2007_000001"):
        open_masked_samples(tmp_path, "auto", "help").labels(1, 32)


def test_pictures_show_the_mask_in_its_colour_over_grey() -> None:
    mask = stretched(np.array([[True, False], [False, False]]), 4)
    assert mask.sum() == 4
    assert mask[:2, :2].all()
    image = np.random.default_rng(0).random((4, 4, 3))
    drawn = overlay(image, mask, OBJECT_COLOR)
    assert (np.ptp(drawn[~mask], axis=1) < 1e-12).all()
    assert OBJECT_COLOR != MASK_COLOR
    assert (drawn[mask][:, 2] > drawn[mask][:, 0]).all()


# --- whole program ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    data = write_voc(tmp_path / "data", 21)
    results = []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        command = ["--task", "voc_attention", "--model", "random:test_vit", "--data", str(data), "--out", str(out)]
        settings = [f"image_size={SIZE}", "workers=0", "batch=1", "pictures=2"]
        run_processes(processes, str(ROOT / "tools/transfer_eval.py"), *command, *settings)
        (file,) = out.glob("*/result.json")
        results.append(read_result(file))
        assert (file.parent / "attention_masks.png").stat().st_size > 0
    one, two = results
    assert (one.metrics, one.baselines, one.tables, one.data) == (two.metrics, two.baselines, two.tables, two.data)
    assert one.data.samples == 21


@pytest.mark.long
def test_a_model_trained_on_the_demo_covers_its_objects_better_than_a_random_one(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "runs" / "demo"
    write_splits(
        [DemoScenes("train", 1600, 8, 96, 0), DemoScenes("val", 160, 8, 96, 0)], data, WritingOptions(0, 400, 1)
    )
    split = [f"data.{name}={data / name}" for name in ("train", "val")]
    lengths = ["optim.epochs=3", "log.figure_images=0", "engine.micro_batch=64", "engine.precision=fp32"]
    trained = tool(
        "tools/train.py", "--config", "configs/demo.py", f"run.dir={tmp_path / 'runs'}", *split, *lengths, timeout=600
    )
    assert trained.status == 0, trained.stderr[-3000:]
    command = ["--task", "voc_attention", "--data", str(data), "image_size=64", "workers=0"]
    found = []
    for spec in (str(run), f"random:{run}"):
        out = tmp_path / f"out{len(found)}"
        done = tool("tools/transfer_eval.py", *command, "--model", spec, "--out", str(out))
        assert done.status == 0, done.stderr
        found.append(read_result(next(out.glob("*/result.json"))))
    model, untrained = found
    assert model.model.fingerprint != untrained.model.fingerprint
    assert model.baselines["uniform"] == untrained.baselines["uniform"]
    for metric, least in (("jaccard", 3), ("jaccard_mean_attention", 6)):
        for random_score in (untrained.metrics[metric], model.baselines["random initialisation"][metric]):
            assert model.metrics[metric] > random_score + least
    assert model.metrics["jaccard_mean_attention"] > model.baselines["uniform"]["jaccard_mean_attention"] + 3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (png(np.zeros((40, 40, 3), np.uint8)), "its map of labels has mode RGB"),
        (png(np.zeros((40, 40), np.uint8))[:45], "map of labels"),
        (png(np.zeros((20, 40), np.uint8)), "the image has 40x40 pixels, its mask 40x20"),
    ],
    ids=["colours", "cut", "size"],
)
def test_every_mask_is_looked_at_before_anything_is_computed(tmp_path: Path, mask: bytes, message: str) -> None:
    sound = png(np.ones((40, 40), np.uint8))
    members = {f"{number:02d}.jpg": jpeg(number) for number in range(20)}
    members |= {f"{number:02d}.seg.png": sound for number in range(20)}
    write_tar(tmp_path / "val-0.tar", members)
    open_masked_samples(tmp_path, "voc", "help").check()
    write_tar(tmp_path / "val-0.tar", {**members, "13.seg.png": mask})
    with pytest.raises(UserError, match=f"13: .*{message}|sample 13: {message}"):
        open_masked_samples(tmp_path, "voc", "help").check()
