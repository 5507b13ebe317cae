"""The task ``attention_boxes``: what it reads, what it leaves out, and its baselines."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import REAL_DATA, write_tar

from sar_dist.config import AugmentSettings, ModelSettings, RegularizerSettings
from sar_dist.data.making.demo import demo_samples
from sar_dist.errors import UserError
from sar_dist.models import build_model
from sar_dist.models.model_spec import LoadedModel
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.registry import find_task
from sar_dist.transfer.task import Outcome, TransferJob
from sar_dist.transfer.tasks.attention.boxed_images import BoxedImages
from sar_dist.transfer.tasks.attention.boxes import AttentionBoxes, AttentionBoxesSettings

SIZE, PATCH = 32, 8
MODEL = ModelSettings(
    name="vit_tiny_patch16_224",
    image_size=SIZE,
    patch_size=PATCH,
    num_classes=4,
    options={"embed_dim": 24, "depth": 2, "num_heads": 2},
)


class BrightnessBackbone(Backbone):
    """Attends to bright patches: where the answer is known, a perfect model."""

    def similarity(self, images: torch.Tensor) -> torch.Tensor:
        bright = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), PATCH)
        return 20 * torch.cat([bright, torch.zeros_like(bright)], dim=1)


def backbone(kind: type[Backbone] = BrightnessBackbone, crop_fraction: float = 1.0, **fields: Any) -> Backbone:
    build = functools.partial(build_model, MODEL, RegularizerSettings())
    torch.manual_seed(0)
    augment = AugmentSettings(crop_fraction=crop_fraction, **fields)
    loaded = LoadedModel(build(), SIZE, augment, "small", build, MODEL, None)
    return kind("small", loaded, torch.device("cpu"), "fp32")


def run_task(data: Path, out: Path, model: Backbone, **settings: Any) -> Outcome:
    chosen = AttentionBoxesSettings(workers=0, batch=4, **settings)
    task = AttentionBoxes(TransferJob(model, data, out, chosen, lambda _: None))
    return task.run(task.prepare())


def boxed_folder(root: Path, boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (SIZE, SIZE)) -> Path:
    """Black images with a white box each, in val/, and one more in train/; ``size`` is (width, height)."""
    lines = ["path,xmin,ymin,xmax,ymax"]
    for number, (left, top, right, bottom) in enumerate([*boxes, (0, 0, 7, 7)]):
        path = f"{'val' if number < len(boxes) else 'train'}/c/{number}.JPEG"
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[top : bottom + 1, left : right + 1] = 255
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path, "JPEG", quality=95)
        lines.append(f"{path},{left},{top},{right},{bottom}")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    return root


def test_a_model_that_looks_at_the_object(tmp_path: Path) -> None:
    # Boxes of whole patches, so that a perfect score is possible.
    data = boxed_folder(tmp_path / "set", [(0, 0, 7, 15), (8, 16, 31, 31), (16, 8, 23, 15)])
    outcome = run_task(data, tmp_path / "out", backbone())
    assert outcome.samples == 3
    for name in ("mass", "pointing", "box_iou", "box_hit"):
        assert outcome.metrics[f"{name}.best_head"] == pytest.approx(100, abs=0.5)
    assert "jaccard" not in outcome.metrics
    area = 100 * (2 + 6 + 1) / (3 * 16)
    # The other head sees no difference between patches: its attention is uniform, its thresholded map empty.
    assert outcome.tables["heads"]["mass"] == pytest.approx([100, area], abs=0.5)
    assert outcome.tables["heads"]["box_iou"] == pytest.approx([100, 0], abs=0.5)
    assert outcome.metrics["mass"] == pytest.approx((100 + area) / 2, abs=0.5)
    assert outcome.baselines["uniform"]["mass"] == pytest.approx(area, abs=1e-4)
    assert outcome.baselines["uniform"].keys() == outcome.metrics.keys()
    assert outcome.baselines["random backbone"].keys() == outcome.metrics.keys()
    assert outcome.baselines["random backbone"]["mass"] == pytest.approx(area, abs=8)


def test_boxes_follow_the_images_through_resizing_and_cropping(tmp_path: Path) -> None:
    # 128 x 64 pixels: the model sees the middle half, at half the size.
    boxes = [(48, 16, 63, 47), (0, 0, 20, 63)]
    data = boxed_folder(tmp_path / "set", boxes, size=(128, 64))
    outcome = run_task(data, tmp_path / "out", backbone())
    assert outcome.metrics["box_iou.best_head"] == pytest.approx(100, abs=1)
    assert outcome.baselines["uniform"]["mass"] == pytest.approx(100 * 8 * 16 / 32**2, abs=0.5)
    assert outcome.protocol["left out"] == "1 images whose object lies outside the crop, 0 unreadable ones"


def test_borders_are_no_object(tmp_path: Path) -> None:
    # 128 x 64 pixels: the model sees all of it at a quarter of the size, between two borders that are as bright as 128.
    data = boxed_folder(tmp_path / "set", [(0, 0, 63, 63)], size=(128, 64))
    outcome = run_task(data, tmp_path / "out", backbone(crop_mode="border", mean=(0.5, 0.5, 0.5)))
    assert outcome.baselines["uniform"]["mass"] == pytest.approx(100 / 4, abs=1)


def test_unreadable_images_and_limit(tmp_path: Path) -> None:
    data = boxed_folder(tmp_path / "set", [(0, 0, 7, 7)] * 5)
    (data / "val" / "c" / "2.JPEG").write_bytes(b"no image")
    outcome = run_task(data, tmp_path / "out", backbone())
    assert (outcome.samples, outcome.skipped) == (4, 0)  # none counts as wrong
    assert outcome.protocol["left out"].endswith("1 unreadable ones")
    assert outcome.metrics["pointing.best_head"] == 100
    limited = run_task(data, tmp_path / "out2", backbone(), limit=2)
    assert (limited.samples, limited.skipped) == (2, 0)
    train = run_task(data, tmp_path / "out3", backbone(), split="train")
    assert train.samples == 1


def test_exact_masks_of_the_demo_data(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number, sample in enumerate(demo_samples("val", 6, num_classes=4, image_size=64, seed=0)):
        members |= {f"{number:03d}.{name}": sample[name] for name in ("jpg", "mask.png")}  # a label is not needed
    write_tar(tmp_path / "demo" / "val" / "val-0000.tar", members)
    outcome = run_task(tmp_path / "demo", tmp_path / "out", backbone(Backbone))
    masks = [np.asarray(Image.open(io.BytesIO(members[f"{number:03d}.mask.png"]))) >= 128 for number in range(6)]
    area = 100 * np.mean([mask.mean() for mask in masks])
    assert outcome.baselines["uniform"]["jaccard"] == pytest.approx(area, rel=0.05)
    assert 0 < outcome.metrics["jaccard"] < 100
    assert outcome.protocol["regions"] == "exact masks"
    # An untrained model is its own random baseline but for the seed.
    assert outcome.metrics["mass"] == pytest.approx(outcome.baselines["random backbone"]["mass"], abs=5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"has neither boxes.csv nor shards with mask.png; expected"),
        (
            lambda root: (root / "boxes.csv").write_text("file,x\na,1\n"),
            r"no column .path., only file, x; .* columns: path,xmin",
        ),
        (
            lambda root: (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nval/a,1,2,x,4\n"),
            r"line 2: xmax is .x.; boxes",
        ),
        (lambda root: (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nval/a,1,2,2_0,4\n"), "xmax is .2_0"),
        (lambda root: (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nval/a,1,2,\u0665,4\n"), "xmax is"),
        (lambda root: (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\ntrain/a,1,2,3,4\n"), "no box .* val/"),
        (
            lambda root: (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nval/a,9,2,3,4\n"),
            r"1 boxes end before they begin, .* such as \(9, 2, 3, 4\) of val/a",
        ),
        (
            lambda root: (root / "boxes.csv").write_text('path,xmin,ymin,xmax,ymax\nval/a,1,2,3,"4\n'),
            "unexpected end of",
        ),
        (
            lambda root: (root / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\n{'a' * 10**6},1,2,3,4\n"),
            "field larger",
        ),
    ],
)
def test_bad_data(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        run_task(tmp_path, tmp_path / "out", backbone())


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nval/a.jpg,1,2,3,4\n")
    with pytest.raises(UserError, match=r"cannot read .*val/a.jpg, which boxes.csv names"):
        BoxedImages(tmp_path, "val").sample(0)


def test_every_spelling_of_a_split_counts_and_other_rows_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxed_folder(tmp_path, [(0, 0, 7, 7)])
    paths = ["val/c/0.JPEG", "./val/c/0.JPEG", "Val/c/0.JPEG", "val\\c\\0.JPEG", "train/c/1.JPEG", "test/c/0.JPEG"]
    rows = "".join(f"{path}; 0; 0; 7.0; 7\n" for path in paths)
    (tmp_path / "boxes.csv").write_text(f"path; xmin; ymin; xmax; ymax\n{rows}")
    found = BoxedImages(tmp_path, "val")
    assert [found.sample(number)[0] for number in range(len(found))] == ["val/c/0.JPEG"] * 4
    assert (
        "left out 1 boxes of images that are neither in train/ nor in val/, such as test/c/0.JPEG"
        in capsys.readouterr().err
    )


def test_a_box_beyond_its_image_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    boxed_folder(tmp_path, [(0, 0, SIZE, SIZE), (40, 40, 60, 60), (5, 5, 2000, 20)])
    with pytest.raises(
        UserError, match=r"2 boxes .* such as \(40, 40, 60, 60\) of val/c/1.JPEG, which is 32x32 pixels"
    ):
        AttentionBoxes(
            TransferJob(backbone(), tmp_path, tmp_path / "out", AttentionBoxesSettings(workers=0), lambda _: None)
        ).prepare()


def test_registered() -> None:
    assert find_task("attention_boxes") is AttentionBoxes


@pytest.mark.skipif(not (REAL_DATA / "tiny_imagenet_10").is_dir(), reason="the real data are not here")
def test_real_boxes() -> None:
    boxes = BoxedImages(REAL_DATA / "tiny_imagenet_10", "val")
    masks = [Image.open(io.BytesIO(boxes.sample(number)[1]["mask.png"])) for number in range(500)]
    area = np.mean([np.asarray(mask).mean() / 255 for mask in masks])
    assert len(boxes) == 500
    assert area == pytest.approx(0.575, abs=0.001)


@pytest.mark.parametrize(
    ("size", "message"), [((64, 32), "the image has 64x64 pixels, its mask 64x32"), (None, "mask.png: it is not a PNG")]
)
def test_a_mask_of_another_image_is_refused_before_anything_is_computed(
    tmp_path: Path, size: tuple[int, int] | None, message: str
) -> None:
    out = io.BytesIO(b"noise")
    if size is not None:
        Image.new("L", size).save(out, "PNG")
    scenes = list(demo_samples("val", 3, num_classes=4, image_size=64, seed=0))
    members = {f"{number}.{name}": scene[name] for number, scene in enumerate(scenes) for name in ("jpg", "mask.png")}
    write_tar(tmp_path / "demo" / "val" / "val-0000.tar", {**members, "2.mask.png": out.getvalue()})
    with pytest.raises(UserError, match=f"sample 2: {message}"):
        run_task(tmp_path / "demo", tmp_path / "out", backbone(Backbone))
