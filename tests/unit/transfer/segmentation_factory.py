"""Small segmentation sets in ADE20K's and VOC's layouts, whose images show their labels as colours, and a small backbone."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from sar_dist.config import AugmentSettings, ModelSettings, RegularizerSettings
from sar_dist.models import build_model
from sar_dist.models.model_spec import LoadedModel
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.task import TransferJob
from sar_dist.transfer.tasks.segmentation.settings import SegmentationSettings
from sar_dist.transfer.tasks.segmentation.tasks import Ade20k

CLASSES = ("sky", "sea", "sand", "crab")
# Colours of void and the classes, by stored label.
COLORS = np.array([[20, 20, 20], [220, 40, 40], [40, 220, 40], [40, 40, 220], [230, 230, 40]], dtype=np.uint8)
BLOCK = 16


def scene(seed: int, height: int = 64, width: int = 96, labels: int = 5) -> np.ndarray:
    """Stored labels (height, width), uint8, constant in blocks of 16 pixels."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, labels, (-(-height // BLOCK), -(-width // BLOCK)), dtype=np.uint8)
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def jpeg_of(labels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(COLORS[labels]).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def png_of(labels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(labels).save(out, "PNG")
    return out.getvalue()


def colors_to_logits(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Logits (n, 4, h, w) of normalised images that know each pixel's class from its colour: a perfect model."""
    augment = backbone.augment
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (augment.mean, augment.std))
    pixels = (images * std + mean) * 255
    colors = torch.from_numpy(COLORS[1:].astype(np.float32)).view(1, 4, 3, 1, 1)
    return -(pixels[:, None] - colors).square().sum(dim=2)


def write_ade_layout(root: Path, train: int = 6, val: int = 5, **size: int) -> Path:
    """A set of random scenes with 4 classes; returns ``root``."""
    for folder, count, first in (("training", train, 0), ("validation", val, 1000)):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for number in range(first, first + count):
            labels = scene(number, **size)
            (root / "images" / folder / f"{number:06d}.jpg").write_bytes(jpeg_of(labels))
            (root / "annotations" / folder / f"{number:06d}.png").write_bytes(png_of(labels))
    rows = "".join(f"{number}\t{name}\n" for number, name in enumerate(CLASSES, start=1))
    (root / "objectInfo4.txt").write_text(f"Idx\tName\n{rows}")
    return root


def small_backbone(
    seed: int = 0, *, depth: int = 4, width: int = 24, no_skip: bool = True, precision: Literal["fp32", "bf16"] = "fp32"
) -> Backbone:
    """A random backbone for 32 x 32 pixels with patches of 8."""
    settings = ModelSettings(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        num_classes=5,
        no_skip_last_block=no_skip,
        options={"embed_dim": width, "depth": depth, "num_heads": 2},
    )
    build = functools.partial(build_model, settings, RegularizerSettings())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().eval()
    loaded = LoadedModel(model, 32, AugmentSettings(), "small", build, settings, None)
    return Backbone("small", loaded, torch.device("cpu"), precision)


SMALL = {"crop": 32, "short_side": 32, "global_batch": 4, "iterations": 4, "workers": 0, "channels": 16, "lr": 1e-2}


def small_task(data: Path, out: Path, said: list[str] | None = None, **settings: object) -> Ade20k:
    """A task on ``small_backbone``, not prepared yet; what it says goes to ``said``."""
    lines = said if said is not None else []
    parsed = SegmentationSettings.model_validate({**SMALL, **settings})
    backbone = small_backbone(precision=parsed.precision)
    return Ade20k(TransferJob(backbone, data, out, parsed, lines.append))
