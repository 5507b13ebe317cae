"""How the authors of DINOv2, DINO and MAE train linear probes, and what of that a user may set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from sar_dist.config import AugmentSettings
from sar_dist.errors import UserError
from sar_dist.transfer import Backbone, TransferSettings
from sar_dist.transfer.tasks.probes.linear.heads import FeatureKind, HeadSpec

LARGE_WIDTH, BASE_WIDTH = 1024, 768  # of ViT-L and ViT-B: where the authors change a recipe

_MOST_STEPS = 10**8  # of training; DINOv2's recipe has 12,500


class LinearProbeSettings(TransferSettings):
    """Settings of ``linear`` and ``imagenet_linear``; what is none is the recipe's."""

    preset: Literal["dinov2", "dino", "mae"] = Field(
        "dinov2", description="whose recipe, see docs/evaluation_classification.md"
    )
    learning_rates: tuple[float, ...] | None = Field(
        None, min_length=1, description="of the sweep, at 256 images per step; none: the recipe's"
    )
    last_blocks: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="each of these numbers of last blocks gives heads its [CLS] tokens; none: the recipe's",
    )
    patch_mean: tuple[bool, ...] | None = Field(
        None,
        min_length=1,
        description="heads without or with the last block's mean patch token beside; none: the recipe's",
    )
    global_batch: int | None = Field(
        None, ge=2, description="images per step over all processes; none: the recipe's, at most the training samples"
    )
    epochs: float | None = Field(
        None, gt=0, description="length in passes over the training samples; none: the recipe's"
    )
    iterations: int | None = Field(None, ge=1, description="length in steps, instead of epochs; none: the recipe's")
    crop_scale: tuple[float, float] = Field(
        (0.08, 1.0), description="random resized crop: range of its share of the area"
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the training split on which the head is chosen; 0: on val, as DINOv2 does",
    )
    cached: bool = Field(
        False, description="features are computed once, without augmentation: far quicker, another protocol, marked so"
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints of unfinished training")
    random_baseline: bool = Field(
        False, description="also train heads on the same architecture with random weights; doubles the time"
    )

    @field_validator("learning_rates", "last_blocks")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("values must be above 0")
        return value


@dataclass(frozen=True)
class PublishedProbe:
    """A published recipe. Learning rates are at 256 images per step."""

    source: str
    learning_rates: tuple[float, ...]
    global_batch: int
    optimizer: Literal["sgd", "lars"]
    epochs: float | None = None
    iterations: int | None = None
    warmup_epochs: float = 0
    decay: Literal["step", "epoch"] = "step"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    batch_norm: bool = False


RECIPES = {
    "dinov2": PublishedProbe(
        source="linear probe of DINOv2 (Oquab et al. 2023, eval/linear.py)",
        learning_rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
        global_batch=1024,
        optimizer="sgd",
        iterations=12500,
    ),
    "dino": PublishedProbe(
        source="linear probe of DINO (Caron et al. 2021, eval_linear.py)",
        learning_rates=(1e-3,),
        global_batch=1024,
        optimizer="sgd",
        epochs=100,
        decay="epoch",
        interpolation="bilinear",
    ),
    "mae": PublishedProbe(
        source="linear probe of MAE (He et al. 2022, main_linprobe.py)",
        learning_rates=(0.1,),
        global_batch=16384,
        optimizer="lars",
        epochs=90,
        warmup_epochs=10,
        batch_norm=True,
    ),
}


@dataclass(frozen=True)
class ProbeRecipe:
    """A recipe with the user's settings, for a backbone and a number of training samples.

    Attributes:
        learning_rates: at 256 images per step.
        kinds: features that heads are trained on.
        global_batch, iterations: images per step, and steps.
        samples: training samples.
        warmup: steps of linear warm-up.
    """

    published: PublishedProbe
    learning_rates: tuple[float, ...]
    kinds: tuple[FeatureKind, ...]
    global_batch: int
    iterations: int
    samples: int
    warmup: int

    @property
    def specs(self) -> list[HeadSpec]:
        """The heads, by features and learning rate."""
        return [HeadSpec(kind, rate) for kind in self.kinds for rate in self.learning_rates]

    @property
    def last_blocks(self) -> int:
        """How many blocks' tokens the heads need."""
        return max(kind.blocks for kind in self.kinds)

    @property
    def epochs(self) -> float:
        """Passes over the training samples."""
        return self.iterations * self.global_batch / self.samples

    @property
    def rate_scale(self) -> float:
        """What learning rates are multiplied by (Goyal et al. 2017)."""
        return self.global_batch / 256

    def rate_factor(self, iteration: int) -> float:
        """Share of the peak learning rate at a step: linear warm-up, then half a cosine to 0 (per epoch for DINO)."""
        if iteration < self.warmup:
            return iteration / self.warmup
        if self.published.decay == "epoch":
            done = (iteration * self.global_batch // self.samples) / self.epochs
        else:
            done = (iteration - self.warmup) / (self.iterations - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def resolve_recipe(settings: LinearProbeSettings, backbone: Backbone, samples: int) -> ProbeRecipe:
    """What to train.

    Raises:
        UserError: settings contradict each other, or ask for more blocks than the model has.
    """
    published = RECIPES[settings.preset]
    if settings.epochs is not None and settings.iterations is not None:
        raise UserError("epochs and iterations both say how long to train; give one of them")
    global_batch = settings.global_batch or min(published.global_batch, samples)
    if global_batch > samples:
        raise UserError(f"global_batch={global_batch}, but there are {samples} samples to train on; give at most these")
    epochs = settings.epochs
    if epochs is None and settings.iterations is None and published.epochs is not None:
        epochs = 50.0 if settings.preset == "mae" and backbone.width >= LARGE_WIDTH else published.epochs
    iterations = settings.iterations or published.iterations
    if epochs is not None:
        iterations = max(1, round(min(epochs * samples / global_batch, 2 * _MOST_STEPS)))
    assert iterations is not None, "a recipe has a length"
    if iterations > _MOST_STEPS:
        raise UserError(f"a head cannot be trained for more than {_MOST_STEPS:,} steps; set fewer epochs or iterations")
    # A shortened run keeps the shape of its schedule: as large a share of warm-up as in the recipe.
    warmup_share = published.warmup_epochs / (published.epochs or 1)
    if settings.preset == "mae" and backbone.width >= LARGE_WIDTH:
        warmup_share = published.warmup_epochs / 50
    return ProbeRecipe(
        published=published,
        learning_rates=tuple(sorted(set(settings.learning_rates or published.learning_rates))),
        kinds=_kinds(settings, backbone),
        global_batch=global_batch,
        iterations=iterations,
        samples=samples,
        warmup=int(warmup_share * iterations),
    )


def _kinds(settings: LinearProbeSettings, backbone: Backbone) -> tuple[FeatureKind, ...]:
    blocks: tuple[int, ...] = (1,)
    means: tuple[bool, ...] = (False,)
    if settings.preset == "dinov2":
        blocks, means = (1, min(4, backbone.depth)), (False, True)
    elif settings.preset == "dino" and backbone.width < BASE_WIDTH:
        blocks = (min(4, backbone.depth),)
    elif settings.preset == "dino":
        means = (True,)
    blocks, means = settings.last_blocks or blocks, settings.patch_mean or means
    if max(blocks) > backbone.depth:
        raise UserError(f"last_blocks={max(blocks)}, but {backbone.spec} has {backbone.depth} blocks")
    return tuple(FeatureKind(count, mean) for count in sorted(set(blocks)) for mean in sorted(set(means)))


def train_augmentation(settings: LinearProbeSettings, backbone: Backbone) -> AugmentSettings:
    """Random resized crop and flip with the model's own normalisation. Raises UserError."""
    low, high = settings.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"crop_scale={[low, high]} is not a range 0 < low <= high <= 1")
    return AugmentSettings(
        backend=backbone.augment.backend,
        scale=settings.crop_scale,
        interpolation=RECIPES[settings.preset].interpolation,
        mean=backbone.augment.mean,
        std=backbone.augment.std,
    )


def describe_recipe(recipe: ProbeRecipe, settings: LinearProbeSettings) -> dict[str, Any]:
    """The recipe for the result file."""
    published = recipe.published
    crop = f"random resized crop {settings.crop_scale} {published.interpolation}, horizontal flip"
    return {
        "source": published.source,
        "augmentation": "none: features were cached (a deviation)" if settings.cached else crop,
        "features": [str(kind) for kind in recipe.kinds],
        "batch_norm": "BatchNorm1d(affine=False, eps=1e-6)" if published.batch_norm else None,
        "optimizer": "LARS, momentum 0.9, trust coefficient 0.001"
        if published.optimizer == "lars"
        else "SGD, momentum 0.9",
        "weight_decay": 0.0,
        "learning_rates": list(recipe.learning_rates),
        "learning_rate_scale": f"global_batch / 256 = {recipe.rate_scale:g}",
        "schedule": f"cosine to 0 per {published.decay}, {recipe.warmup} steps of warm-up",
        "global_batch": recipe.global_batch,
        "sub_batch": settings.batch,
        "iterations": recipe.iterations,
        "epochs": round(recipe.epochs, 3),
        "training_samples": recipe.samples,
    }
