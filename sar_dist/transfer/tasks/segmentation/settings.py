"""Settings of a segmentation task, and the published recipes that fill what is left open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from sar_dist.config import Settings
from sar_dist.errors import UserError
from sar_dist.transfer import OrientationSettings

Head = Literal["linear", "upernet", "dpt"]
RecipeName = Literal["linear", "mae_base", "beit_base", "beit_large"]
Schedule = Literal["cosine", "poly"]

LONG_SIDE_RATIO = 4  # images are resized to (short side, at most 4 x short side): 512 and 2048 in the protocol
PROTOCOL_WARMUP = 1500
LARGE_DEPTH = 24


class PublishedRecipe(Settings):
    """The hyper-parameters of one published evaluation. ``layer_decay`` and ``drop_path`` mean nothing when frozen."""

    iterations: int
    lr: float
    weight_decay: float
    layer_decay: float
    drop_path: float
    schedule: Schedule
    stride: float  # of the windows, as a share of the crop


# linear: DINOv2 and DINOv3. mae_base: MAE in mmsegmentation. beit_*: BEiT and BEiT v2.
RECIPES: Mapping[RecipeName, PublishedRecipe] = {
    "linear": PublishedRecipe(
        iterations=40_000,
        lr=1e-3,
        weight_decay=1e-3,
        layer_decay=1.0,
        drop_path=0.0,
        schedule="cosine",
        stride=341 / 512,
    ),
    "mae_base": PublishedRecipe(
        iterations=160_000,
        lr=1e-4,
        weight_decay=0.05,
        layer_decay=0.65,
        drop_path=0.1,
        schedule="poly",
        stride=256 / 512,
    ),
    "beit_base": PublishedRecipe(
        iterations=160_000,
        lr=7e-4,
        weight_decay=0.05,
        layer_decay=0.65,
        drop_path=0.1,
        schedule="poly",
        stride=341 / 512,
    ),
    "beit_large": PublishedRecipe(
        iterations=160_000,
        lr=2e-5,
        weight_decay=0.05,
        layer_decay=0.95,
        drop_path=0.2,
        schedule="poly",
        stride=341 / 512,
    ),
}


class SegmentationSettings(OrientationSettings):
    """What ``ade20k`` and ``voc_seg`` can be told; None takes the recipe's value."""

    head: Head = Field("linear", description="linear: frozen backbone; upernet, dpt: the backbone is trained too")
    recipe: Literal["auto"] | RecipeName = Field(
        "auto", description="published hyper-parameters; auto: linear for head=linear, else by the backbone's depth"
    )
    iterations: int | None = Field(None, ge=1, description="optimizer steps")
    global_batch: int = Field(16, ge=2, description="training crops per step, over all processes")
    crop: int = Field(512, ge=8, description="side of training crops and of windows, pixels")
    short_side: int | None = Field(None, ge=8, description="short side that images are resized to; none: crop")
    stride: int | None = Field(None, ge=1, description="distance of windows, pixels; none: the recipe's share of crop")
    lr: float | None = Field(None, gt=0, description="peak learning rate at the protocol's batch of 16; not rescaled")
    weight_decay: float | None = Field(None, ge=0, description="of AdamW, on matrices only")
    layer_decay: float | None = Field(None, gt=0, le=1, description="learning-rate factor from block to block")
    drop_path: float | None = Field(None, ge=0, lt=1, description="stochastic depth rate of the last block")
    warmup: int | None = Field(
        None, ge=0, description="iterations of linear warm-up; none: 1500, at most a tenth of the iterations"
    )
    block: int | None = Field(
        None, ge=0, description="block that the linear head looks at, from 0; none: the last with an attention skip"
    )
    channels: int | None = Field(None, ge=1, description="width of the decoder; none: upernet the backbone's, dpt 256")
    random_baseline: bool | None = Field(
        None, description="also train on a newly initialised backbone; none: for head=linear only, it doubles the time"
    )
    checkpoint_every: int = Field(500, ge=1, description="iterations between checkpoints, from which a restart goes on")
    pictures: int = Field(4, ge=0, description="validation images in the figure of predictions")
    batch: int = Field(16, ge=1, description="windows per process and forward pass in evaluation")


@dataclass(frozen=True)
class SegmentationRecipe:
    """A recipe with the user's settings, for a backbone: nothing is left open; pixels and iterations."""

    head: Head
    recipe: RecipeName
    iterations: int
    global_batch: int
    crop: int
    short_side: int
    stride: int
    lr: float
    weight_decay: float
    layer_decay: float
    drop_path: float
    warmup: int
    schedule: Schedule
    channels: int
    blocks: tuple[int, ...]
    random_baseline: bool

    @property
    def frozen(self) -> bool:
        """Whether the backbone's weights stay as they are."""
        return self.head == "linear"

    @property
    def long_side(self) -> int:
        """Longest side that an image may be resized to, pixels."""
        return LONG_SIDE_RATIO * self.short_side

    def learning_rate_factor(self, iteration: int) -> float:
        """Learning rate of an iteration (from 0) as a share of the peak: linear warm-up, then down to 0."""
        if iteration < self.warmup:
            return (iteration + 1) / (self.warmup + 1)
        progress = (iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1 - progress

    def departures(self) -> list[str]:
        """Where it leaves the published recipe, in words."""
        recipe = RECIPES[self.recipe]
        published = {
            **{name: getattr(recipe, name) for name in ("iterations", "lr", "weight_decay")},
            "global_batch": 16,
            "crop": 512,
            "short_side": 512,
            "stride": round(recipe.stride * self.crop),
            "warmup": PROTOCOL_WARMUP,
        }
        if not self.frozen:
            published |= {"layer_decay": recipe.layer_decay, "drop_path": recipe.drop_path}
        return [
            f"{name} {getattr(self, name)} instead of {value}"
            for name, value in published.items()
            if getattr(self, name) != value
        ]

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def resolve_recipe(
    settings: SegmentationSettings, *, depth: int, width: int, last_skip: int | None = None
) -> SegmentationRecipe:
    """The settings, completed by a recipe.

    Args:
        depth, width: blocks and channels of the backbone.
        last_skip: its last block with a skip connection around the attention; by default the last.

    Raises:
        UserError: there is no such block.
    """
    if settings.block is not None and settings.block >= depth:
        raise UserError(f"block={settings.block}: the backbone has blocks 0 to {depth - 1}")
    block = settings.block if settings.block is not None else depth - 1 if last_skip is None else last_skip
    name = _recipe_name(settings, depth)
    recipe = RECIPES[name]
    iterations = recipe.iterations if settings.iterations is None else settings.iterations
    return SegmentationRecipe(
        head=settings.head,
        recipe=name,
        iterations=iterations,
        global_batch=settings.global_batch,
        crop=settings.crop,
        short_side=settings.short_side or settings.crop,
        stride=settings.stride or max(1, round(recipe.stride * settings.crop)),
        lr=recipe.lr if settings.lr is None else settings.lr,
        weight_decay=recipe.weight_decay if settings.weight_decay is None else settings.weight_decay,
        layer_decay=recipe.layer_decay if settings.layer_decay is None else settings.layer_decay,
        drop_path=recipe.drop_path if settings.drop_path is None else settings.drop_path,
        warmup=min(PROTOCOL_WARMUP, iterations // 10) if settings.warmup is None else settings.warmup,
        schedule=recipe.schedule,
        channels=settings.channels or (width if settings.head == "upernet" else 256),
        blocks=(block,) if settings.head == "linear" else neck_blocks(depth),
        random_baseline=settings.head == "linear" if settings.random_baseline is None else settings.random_baseline,
    )


def neck_blocks(depth: int) -> tuple[int, ...]:
    """The four blocks that a multi-scale head looks at: 12 -> 3, 5, 7, 11; 24 -> 7, 11, 15, 23; others evenly.

    The first two as in MAE's and BEiT's configurations. A backbone of fewer than four blocks gives some twice.
    """
    published = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
    return published.get(depth) or tuple(max(0, math.ceil(depth * quarter / 4) - 1) for quarter in (1, 2, 3, 4))


def _recipe_name(settings: SegmentationSettings, depth: int) -> RecipeName:
    if settings.recipe != "auto":
        return settings.recipe
    if settings.head == "linear":
        return "linear"
    return "beit_large" if depth >= LARGE_DEPTH else "mae_base"
