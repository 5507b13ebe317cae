"""A set that a briefly trained model tells apart and a random one hardly does: stripes of four directions.

Colours and phase are random, and differ more between two images than the direction does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from run_factory import settings, write_run

from sar_dist.config import RunConfig, RunSettings
from sar_dist.models import build_model

CLASSES = 4
SIZE = 32


def striped_image(label: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(32, 32, 3) pixels of stripes 4 pixels wide in the direction of ``label``."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    along = (rows, columns, rows + columns, rows - columns)[label]
    wave = np.sin(2 * np.pi * along / 8 + generator.uniform(0, 2 * np.pi))[..., None]
    colours = generator.uniform(40, 215, 3)
    return np.clip(colours + 35 * wave + generator.normal(0, 4, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def write_striped_set(root: Path, train: int, val: int) -> Path:
    """Class folders ``root/{train,val}/direction_C`` of that many PNG files in all."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / f"direction_{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(striped_image(number % CLASSES, generator))
            content = io.BytesIO()
            image.save(content, "PNG")
            (folder / f"{number:04d}.png").write_bytes(content.getvalue())
    return root


def write_trained_run(root: Path, steps: int = 350, classes: Sequence[str] | None = None) -> Path:
    """A run directory of a small model trained on stripes for a few seconds, which may name its ``classes``."""
    torch.manual_seed(0)
    model_settings = settings()
    config: Any = RunConfig(run=RunSettings(name="x")).regularizer
    model = build_model(model_settings, config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = np.random.default_rng(1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for _ in range(steps):
        labels = generator.integers(0, CLASSES, 64)
        pixels = torch.from_numpy(np.stack([striped_image(label, generator) for label in labels]))
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        loss = F.cross_entropy(model(images)["logits"], torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return write_run(root, model_settings, {steps: model.vit}, classes=classes)
