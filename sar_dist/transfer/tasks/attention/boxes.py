"""Where the attention looks: [CLS] attention of the last block against object boxes or exact masks (``attention_boxes``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pydantic import Field
from torch import Tensor

from sar_dist.config import height_and_width
from sar_dist.data.images import UndecodableImage, build_eval_transform
from sar_dist.errors import UserError
from sar_dist.transfer import (
    MAX_PIXELS,
    UPRIGHT,
    Backbone,
    DrawnOn,
    OrientationSettings,
    Outcome,
    PreparedSplit,
    RelabelledSamples,
    SampleSet,
    SelectedSamples,
    TransferTask,
    any_label,
    described,
    image_of,
    limited,
    open_shard_samples,
    similarity_of,
)
from sar_dist.transfer.tasks.attention.boxed_images import BOXES_FILE, BoxedImages, has_boxes
from sar_dist.transfer.tasks.attention.exact_masks import MASK, check_some_white, decode_mask
from sar_dist.transfer.tasks.attention.measures import (
    attention_measures,
    main_component,
    mean_map,
    scaled,
    tight_boxes,
    uniform_measures,
)
from sar_dist.transfer.tasks.attention.regions import check_size, mask_turn, say_turned
from sar_dist.transfer.tasks.attention.turned_masks import TurnedMasks

_PICTURED = 6
_BATCH = 512  # images whose regions are held as float32 at once


class AttentionBoxesSettings(OrientationSettings):
    split: Literal["train", "val"] = Field("val", description="which images: those in train/ or those in val/")


@dataclass(frozen=True)
class ObjectImages(PreparedSplit):
    """Images with the region of an object each; ``exact``: a mask, not a box."""

    exact: bool


class AttentionBoxes(TransferTask[AttentionBoxesSettings, ObjectImages]):
    """Share of attention on the object, box overlap and pointing game, with exact masks the Jaccard index too."""

    primary: ClassVar[str] = "mass"
    name = "attention_boxes"
    summary, data_help = described("attention_boxes")
    data_folder = "tiny_imagenet_10"
    settings_type = AttentionBoxesSettings

    @classmethod
    def variant(cls, settings: AttentionBoxesSettings) -> str:
        return "_".join(part for part in (settings.split.removeprefix("val"), settings.orientation) if part)

    def prepare(self) -> ObjectImages:
        data, split, drawn_on = self.job.data, self.job.settings.split, self.job.settings.orientation
        exact = not has_boxes(data)
        found: SampleSet | None = open_shard_samples(data, split) if exact else BoxedImages(data, split, drawn_on)
        if found is None or (exact and MASK not in found.sample(0)[1]):
            raise UserError(f"{data} has neither {BOXES_FILE} nor shards with {MASK}; expected {self.data_help}")
        chosen: SampleSet = limited(found, self.job.settings.limit)
        if exact:
            say_turned(self.job.say, _check_masks(chosen, drawn_on, data))
            chosen = TurnedMasks(chosen, MASK, drawn_on)
        elif isinstance(found, BoxedImages):
            found.check_boxes(chosen.numbers if isinstance(chosen, SelectedSamples) else range(len(found)))
        return ObjectImages(split, chosen, exact)

    def run(self, prepared: ObjectImages) -> Outcome:
        backbone = self.job.backbone
        similarity, bad = self._similarity(prepared.samples, backbone, "similarity")
        random, _ = self._similarity(
            prepared.samples, backbone.randomly_initialised(self.job.settings.seed), "random similarity"
        )
        regions = _regions(prepared.samples, backbone, bad)
        visible = regions.flatten(1).any(dim=1)
        if not visible.any():
            raise UserError(f"no object of {self.job.data} lies in the part of its image that the model sees")
        similarity, random, regions = similarity[visible], random[visible], regions[visible]
        metrics, by_head = _summary(similarity, regions, exact=prepared.exact)
        random_metrics, random_by_head = _summary(random, regions, exact=prepared.exact)
        uniform = _percent([uniform_measures(part, self._grid) for part in regions.split(_BATCH)])
        hidden = int((~visible).sum() - bad.sum())
        if bad.any():
            self.job.say(f"{int(bad.sum())} images cannot be read: they are left out")
        return Outcome(
            metrics=metrics,
            primary=self.primary,
            samples=len(similarity),
            protocol={
                "maps": f"softmax over the {self._grid[0]}x{self._grid[1]} patches of [CLS] query . key, last block",
                "regions": "exact masks" if prepared.exact else "object boxes",
                "threshold": "above the map's mean similarity; box around the component with the most attention",
                "left out": f"{hidden} images whose object lies outside the crop, {int(bad.sum())} unreadable ones",
                "best head": "chosen on the same images, separately for each measure and for the random backbone too",
            },
            baselines={
                "uniform": {name: float(uniform[name.split(".")[0]]) for name in metrics},
                "random backbone": random_metrics,
            },
            figures={"attention": lambda: self._picture(prepared.samples, similarity, regions, visible)},
            tables={"heads": by_head, "random_heads": random_by_head},
        )

    @property
    def _grid(self) -> tuple[int, int]:
        rows, columns = self.job.backbone.model.grid
        return int(rows), int(columns)

    def _similarity(self, samples: SampleSet, backbone: Backbone, name: str) -> tuple[Tensor, np.ndarray[Any, Any]]:
        """Similarity maps (n, H, gh, gw) of all samples, and bool (n,): could not be read."""
        found = self.job.extract(
            RelabelledSamples(samples, any_label, "attention"),
            similarity_of,
            name=f"{self.job.settings.split} {name}",
            backbone=backbone,
        )
        return torch.from_numpy(found.values["similarity"]), found.bad

    def _picture(self, samples: SampleSet, similarity: Tensor, regions: Tensor, visible: Tensor) -> Figure:
        """A few images with the region's box, and over them the heads' mean attention with the box found in it."""
        numbers = np.flatnonzero(visible.numpy())
        places = np.linspace(0, len(numbers) - 1, min(_PICTURED, len(numbers))).round().astype(int).tolist()
        transform, (height, width) = self.job.backbone.eval_transform(), regions.shape[1:]
        maps = mean_map(similarity[places])
        above = maps > maps.mean(dim=(2, 3), keepdim=True)
        found = scaled(
            tight_boxes(main_component(above, maps.flatten(2).exp())), (height // self._grid[0], width // self._grid[1])
        )[:, 0]
        wanted = tight_boxes(regions[places])
        figure = Figure(figsize=(2.1 * len(places), 4.4), layout="constrained")
        axes = figure.subplots(2, len(places), squeeze=False)
        for column, place in enumerate(places):
            image = transform(image_of(samples.sample(int(numbers[place]))[1])).permute(1, 2, 0).numpy()
            for row, (box, color) in enumerate(((wanted[column], "#ffcc00"), (found[column], "#00c8ff"))):
                axis = axes[row, column]
                axis.imshow(image)
                axis.axis("off")
                top, left, bottom, right = box.tolist()
                corner = (left - 0.5, top - 0.5)
                axis.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, color=color, linewidth=2))
            axes[1, column].imshow(
                maps[column, 0].exp().numpy(), alpha=0.6, extent=(-0.5, width - 0.5, height - 0.5, -0.5), cmap="inferno"
            )
        return figure


def _regions(samples: SampleSet, backbone: Backbone, bad: np.ndarray[Any, Any]) -> Tensor:
    """bool (n, H, W): the regions as the model's own resizing and cropping leaves them; empty for unreadable images."""
    size = backbone.image_size
    # Borders are of the mean colour in images; in masks they are outside the object.
    transform = build_eval_transform(backbone.augment.model_copy(update={"mean": (0.0, 0.0, 0.0)}), size, MAX_PIXELS)
    regions = torch.zeros(len(samples), *height_and_width(size), dtype=torch.bool)
    for number in np.flatnonzero(~bad).tolist():
        regions[number] = transform(_mask_of(*samples.sample(number)))[0] >= 128
    return regions


def _check_masks(samples: SampleSet, drawn_on: DrawnOn | None, root: Path) -> int:
    """Read every mask, so that what is wrong with one is found before anything is computed; how many are turned. Raises UserError."""
    turned = highest = 0
    for number in range(len(samples)):
        key, members = samples.sample(number)
        try:
            mask = decode_mask(_mask_of(key, members), key)
        except UndecodableImage as error:
            raise UserError(
                f"sample {key}: {MASK}: {error.reason}; repair it, or remove its image and its mask"
            ) from error
        size = mask.shape
        turn = mask_turn(key, members, members[MASK], size, drawn_on)
        check_size(key, members, size, turn)
        turned += turn != UPRIGHT
        highest = max(highest, int(mask.max(initial=0)))
    check_some_white(highest, root)
    return turned


def _mask_of(key: str, members: Mapping[str, bytes]) -> bytes:
    if MASK not in members:
        raise UserError(f"sample {key} has no {MASK}; make the shards again with tools/make_shards.py")
    return members[MASK]


def _summary(similarity: Tensor, regions: Tensor, *, exact: bool) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Each measure in percent: mean of the heads, of the best head, and of the heads' mean map; and of each head."""
    parts = list(zip(similarity.split(_BATCH), regions.split(_BATCH), strict=True))
    each = _percent([attention_measures(maps, where) for maps, where in parts])
    joint = _percent([attention_measures(mean_map(maps), where) for maps, where in parts])
    metrics, by_head = {}, {}
    for name in each if exact else [name for name in each if name != "jaccard"]:
        by_head[name] = each[name].tolist()
        metrics[name] = float(each[name].mean())
        metrics[f"{name}.best_head"] = float(each[name].max())
        if name != "mass":  # it is linear in the attention: that of the mean map is the mean of the heads
            metrics[f"{name}.mean_map"] = float(joint[name].mean())
    return metrics, by_head


def _percent(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Measures (B, ...) of several batches -> their means over all images in percent, (...)."""
    return {name: 100 * torch.cat([part[name] for part in parts]).double().mean(dim=0) for name in parts[0]}
