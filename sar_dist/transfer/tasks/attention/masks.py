"""The method's own segmentation test (``voc_attention``): do the [CLS] attention maps of the last block cover objects?

As ``evaluate_segmentation.py`` of SAR (Peruzzo et al. 2022), see docs/evaluation_attention.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.transfer import (
    Backbone,
    Features,
    OrientationSettings,
    Outcome,
    RelabelledSamples,
    TransferTask,
    any_label,
    described,
    image_of,
    limited,
    similarity_of,
)
from sar_dist.transfer.tasks.attention.figures import MaskPicture, mask_figure, sweep_figure
from sar_dist.transfer.tasks.attention.mass import FloatArray, patch_attention, top_mass_mask
from sar_dist.transfer.tasks.attention.regions import (
    MaskedSamples,
    SquareResize,
    Void,
    count_patches,
    open_masked_samples,
    say_turned,
)
from sar_dist.transfer.tasks.attention.scores import (
    ImageScores,
    class_means,
    no_scores,
    score_image,
    single_heads,
    summarise,
    sweep,
    uniform_score,
)

MASSES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
TRAINED, RANDOM, UNIFORM = "trained", "random initialisation", "uniform"


class AttentionMaskSettings(OrientationSettings):
    """Settings of ``voc_attention``; the defaults are the reference's."""

    image_size: int = Field(480, ge=1, description="images and masks are stretched to this side, pixels")
    mass: float = Field(0.6, gt=0, le=1, description="share of a map's attention that its mask keeps")
    void: Void = Field(
        "reference",
        description="void pixels are background (reference) or belong to nothing, as VOC means them (ignore)",
    )
    layout: Literal["auto", "voc", "ade20k", "mask"] = Field(
        "auto", description="what the masks mean: VOC labels, ADE20K labels, or one object in white"
    )
    pictures: int = Field(8, ge=0, description="images to draw, evenly spread over the set")


@dataclass(frozen=True)
class ScoredImage:
    """Scores of one image by model.

    Attributes:
        number: its place in the split.
        classes: labels of what it shows, the largest first.
        uniform: score of attention without preference, in 0..1.
        scores: by model.
    """

    number: int
    classes: tuple[int, ...]
    uniform: float
    scores: Mapping[str, ImageScores]


class AttentionMasks(TransferTask[AttentionMaskSettings, MaskedSamples]):
    """Jaccard index of each head's attention mask with each object, beside random and uniform attention."""

    primary: ClassVar[str] = "jaccard"
    name = "voc_attention"
    summary, data_help = described("voc_attention")
    data_folder = "VOCdevkit"
    settings_type = AttentionMaskSettings

    @classmethod
    def variant(cls, settings: AttentionMaskSettings) -> str:
        usual = AttentionMaskSettings()
        parts = [
            f"{settings.image_size}px" if settings.image_size != usual.image_size else "",
            f"mass{settings.mass:g}" if settings.mass != usual.mass else "",
            f"void-{settings.void}" if settings.void != usual.void else "",
            settings.orientation or "",
        ]
        return "_".join(part for part in parts if part)

    def prepare(self) -> MaskedSamples:
        settings, patch = self.job.settings, self.job.backbone.patch
        if settings.image_size % patch:
            nearest = max(1, round(settings.image_size / patch)) * patch
            raise UserError(
                f"image_size={settings.image_size} is not a multiple of the model's patches of {patch} pixels; "
                f"set image_size={nearest}"
            )
        found = open_masked_samples(self.job.data, settings.layout, self.data_help)
        chosen = MaskedSamples(limited(found.samples, settings.limit), found.layout, found.names, settings.orientation)
        say_turned(self.job.say, chosen.check())
        return chosen

    def run(self, prepared: MaskedSamples) -> Outcome:
        settings = self.job.settings
        masses = sorted({*MASSES, settings.mass})
        chosen = masses.index(settings.mass)
        maps = {
            TRAINED: self._maps(prepared, self.job.backbone),
            RANDOM: self._maps(prepared, self.job.backbone.randomly_initialised(settings.seed)),
        }
        images = self._scored(prepared, maps, masses)
        if not images:
            raise UserError(f"no image of {self.job.data} shows an object at {settings.image_size} pixels")
        scores = {model: [image.scores[model] for image in images] for model in maps}
        metrics = summarise(scores[TRAINED], chosen)
        uniform = 100 * float(np.mean([image.uniform for image in images]))
        curves = {model: sweep(found, masses) for model, found in scores.items()}
        classes = class_means(scores[TRAINED], [image.classes for image in images], chosen)
        return Outcome(
            metrics=metrics,
            primary=self.primary,
            samples=len(images),
            skipped=int(sum(maps[TRAINED].bad[image.number] for image in images)),
            protocol=self._protocol(prepared, len(images)),
            baselines={RANDOM: summarise(scores[RANDOM], chosen), UNIFORM: dict.fromkeys(metrics, uniform)},
            figures={
                "kept_mass": lambda: self._sweep_figure(masses, curves, uniform),
                "attention_masks": lambda: self._mask_figure(prepared, images, maps, chosen),
            },
            tables={
                "heads": {model: single_heads(found, chosen).tolist() for model, found in scores.items()},
                "kept_mass": {"mass": masses, **curves},
                "classes": {prepared.name(label): value for label, value in classes.items()},
            },
        )

    def _maps(self, data: MaskedSamples, backbone: Backbone) -> Features:
        """``similarity`` (H, gh, gw) of every image; a sample need not have a label for that."""
        size = self.job.settings.image_size
        return self.job.extract(
            RelabelledSamples(data.samples, any_label, "attention"),
            similarity_of,
            name=f"val attention {size}",
            backbone=backbone.resized(size, size),
            transform=SquareResize(size),
        )

    def _scored(self, data: MaskedSamples, maps: Mapping[str, Features], masses: Sequence[float]) -> list[ScoredImage]:
        """Every image that shows an object, scored by one of the processes each, in order, on all processes."""
        total = len(data.samples)
        own = [
            self._score(data, number, maps, masses)
            for number in range(distributed.rank(), total, distributed.world_size())
        ]
        found = sorted((image for part in distributed.gather_objects(own) for image in part), key=lambda i: i.number)
        assert [image.number for image in found] == list(range(total)), "every image must be scored exactly once"
        return [image for image in found if image.classes]

    def _score(
        self, data: MaskedSamples, number: int, maps: Mapping[str, Features], masses: Sequence[float]
    ) -> ScoredImage:
        settings = self.job.settings
        labels = data.labels(number, settings.image_size)
        regions = count_patches(labels, self.job.backbone.patch, settings.void)
        scores = {
            model: no_scores(self.job.backbone.heads, regions, masses)
            if found.bad[number]
            else score_image(found.values["similarity"][number], regions, masses)
            for model, found in maps.items()
        }
        return ScoredImage(number, regions.classes, uniform_score(regions) if regions.classes else 0.0, scores)

    def _protocol(self, data: MaskedSamples, with_object: int) -> dict[str, object]:
        settings = self.job.settings
        return {
            "transform": f"image stretched to {settings.image_size}x{settings.image_size} bilinear, masks NEAREST",
            "attention": "softmax of the last block's [CLS] query with the patch keys, per head",
            "mask": f"largest patches that hold {settings.mass:g} of the attention (cumulative sum > {1 - settings.mass:g})",
            "score": "intersection over union; maximum over heads, mean over classes, mean over images",
            "void": settings.void,
            "layout": data.layout,
            "images_without_object": len(data.samples) - with_object,
            "selection": "heads and the kept mass of the curves are chosen on the scored images",
        }

    def _sweep_figure(
        self, masses: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]], uniform: float
    ) -> Figure:
        names = {"jaccard": "best head", "jaccard_mean_attention": "mean attention"}
        lines = {f"{model}, {names[kind]}": curve[kind] for model, curve in curves.items() for kind in names}
        return sweep_figure(masses, lines, uniform, self.job.settings.mass)

    def _mask_figure(
        self, data: MaskedSamples, images: Sequence[ScoredImage], maps: Mapping[str, Features], chosen: int
    ) -> Figure | None:
        readable = [image for image in images if not maps[TRAINED].bad[image.number]]
        count = min(self.job.settings.pictures, len(readable))
        if not count:
            return None
        shown = [readable[place * len(readable) // count] for place in range(count)]
        legend = f"blue: the object; orange: patches with {self.job.settings.mass:.0%} of a head's attention, best head and its Jaccard index"
        return mask_figure([self._picture(data, image, maps, chosen) for image in shown], legend)

    def _picture(
        self, data: MaskedSamples, image: ScoredImage, maps: Mapping[str, Features], chosen: int
    ) -> MaskPicture:
        """The largest object of an image under the best head of each model."""
        settings = self.job.settings
        key, members = data.samples.sample(image.number)
        pixels = SquareResize(settings.image_size)(image_of(members))
        masks = {}
        for model, scores in image.scores.items():
            values: FloatArray = scores.heads[chosen, 0]
            head = int(values.argmax())
            attention = patch_attention(maps[model].values["similarity"][image.number, head])
            masks[f"{model}\nhead {head}: {values[head]:.0%}"] = top_mass_mask(attention, settings.mass)
        object_mask = data.labels(image.number, settings.image_size) == image.classes[0]
        caption = key if data.names is None else f"{data.name(image.classes[0])}\n{key}"
        return MaskPicture(pixels.permute(1, 2, 0).numpy(), object_mask, masks, caption)
