"""Linear probes on frozen features: a sweep of heads trained in one pass (``linear``, ``imagenet_linear``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sar_dist.config import AugmentSettings
from sar_dist.data.images import build_train_transform
from sar_dist.transfer import (
    MAX_PIXELS,
    TOP,
    Backbone,
    ClassificationScores,
    Features,
    Outcome,
    SampleSet,
    SelectedSamples,
    TransferTask,
    described,
    train_resumably,
)
from sar_dist.transfer.tasks import describe_eval_transform
from sar_dist.transfer.tasks.probes import (
    ProbeData,
    check_labels,
    frozen_tokens,
    hold_out,
    open_probe_data,
    read_labels,
    say_unseen,
    sweep_figure,
)
from sar_dist.transfer.tasks.probes.linear.batches import AugmentedBatches, CachedBatches, FeatureBatches
from sar_dist.transfer.tasks.probes.linear.heads import HeadSweep
from sar_dist.transfer.tasks.probes.linear.recipes import (
    LinearProbeSettings,
    ProbeRecipe,
    describe_recipe,
    resolve_recipe,
    train_augmentation,
)
from sar_dist.transfer.tasks.probes.linear.training import HeadTraining

CHECKPOINT_FILE = "heads.safetensors"
_BLOCK = 1024  # samples per forward pass of the heads


@dataclass(frozen=True)
class LinearProbeData:
    """What heads are trained on and scored on, and how.

    Attributes:
        splits: the two splits of the set.
        fitted: training samples that the heads are trained on.
        held: those on which the head is chosen; None where there is one head only, or it is chosen on ``val``.
        recipe: how the heads are trained.
        augment: how images are augmented for it.
    """

    splits: ProbeData
    fitted: SampleSet
    held: SampleSet | None
    recipe: ProbeRecipe
    augment: AugmentSettings

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the two splits."""
        return self.splits.fingerprints


@dataclass(frozen=True)
class _Trained:
    """What the heads on one backbone score on ``val`` and on held-out samples, and which was chosen."""

    scores: ClassificationScores  # of the chosen head
    val_top1: NDArray[np.float64]  # heads
    held_top1: NDArray[np.float64] | None  # heads
    chosen: int
    metrics: dict[str, float]


class LinearProbe(TransferTask[LinearProbeSettings, LinearProbeData]):
    """A linear classifier on frozen features, its learning rate and features chosen by a sweep."""

    primary: ClassVar[str] = "top1"
    name = "linear"
    summary, data_help = described("linear")
    data_folder = "cifar10"
    settings_type = LinearProbeSettings

    @classmethod
    def variant(cls, settings: LinearProbeSettings) -> str:
        return "_".join([settings.preset] * (settings.preset != "dinov2") + ["cached"] * settings.cached)

    def prepare(self) -> LinearProbeData:
        settings, backbone = self.job.settings, self.job.backbone
        splits = open_probe_data(self.job.data, settings.limit, self.data_help, settings.label, self.job.say)
        fitted, held = self._split(splits.train, resolve_recipe(settings, backbone, len(splits.train)))
        recipe = resolve_recipe(settings, backbone, len(fitted))
        return LinearProbeData(splits, fitted, held, recipe, train_augmentation(settings, backbone))

    def _split(self, train: SampleSet, recipe: ProbeRecipe) -> tuple[SampleSet, SampleSet | None]:
        """Samples to train on, and those to choose the head on; a single head needs none."""
        settings = self.job.settings
        if not settings.held_out or len(recipe.specs) == 1:
            return train, None
        fitted, held = hold_out(len(train), settings.held_out, settings.seed)
        return SelectedSamples(train, fitted.tolist()), SelectedSamples(train, held.tolist())

    def run(self, prepared: LinearProbeData) -> Outcome:
        job, settings = self.job, self.job.settings
        classes = self._count_classes(prepared.splits)
        trained = self._train(prepared, classes, job.backbone, "trained")
        scores = trained.scores
        baselines = {"chance": scores.chance}
        if settings.random_baseline:
            job.say("baseline: the same architecture with random weights")
            baselines["random backbone"] = self._train(
                prepared, classes, job.backbone.randomly_initialised(settings.seed), "random"
            ).metrics
        names = prepared.splits.class_names(classes)
        return Outcome(
            metrics=trained.metrics,
            primary=self.primary,
            samples=scores.samples,
            skipped=scores.skipped,
            protocol=self._protocol(prepared.recipe, trained),
            baselines=baselines,
            figures={
                "sweep": lambda: self._sweep_figure(prepared.recipe, trained),
                **scores.figures(names, f"linear probe, {settings.preset}"),
            },
            tables={"classes": scores.table(names), "sweep": _sweep_table(prepared.recipe, trained)},
        )

    def _count_classes(self, data: ProbeData) -> int:
        if data.names is not None:
            return data.count_classes(np.array([0]))
        self.job.say("the data set names no classes: reading all labels")
        train, val = read_labels(data.train), read_labels(data.val)
        say_unseen(self.job, train, val)
        return data.count_classes(np.concatenate([train, val]))

    def _train(self, data: LinearProbeData, classes: int, backbone: Backbone, name: str) -> _Trained:
        job, recipe = self.job, data.recipe
        sweep = HeadSweep(
            recipe.specs,
            backbone.width,
            classes,
            optimizer=recipe.published.optimizer,
            batch_norm=recipe.published.batch_norm,
            rate_scale=recipe.rate_scale,
            seed=job.settings.seed,
            device=job.device,
        )
        stream = self._stream(data, classes, backbone)
        training = HeadTraining(sweep, stream, recipe)
        file = job.out / "checkpoint" / name / CHECKPOINT_FILE
        train_resumably(training, file, job.settings.checkpoint_every, job.say)
        val = frozen_tokens(job, backbone, data.splits.val, "val", recipe.last_blocks)
        check_labels(val.labels, classes)
        if backbone is job.backbone:
            self._say_left_out(stream, data.splits, val)
        orders = rank_all(sweep, val)
        val_top1 = top1_of_each(orders, val)
        held_top1 = None
        if data.held is not None:
            held = frozen_tokens(job, backbone, data.held, "held-out", recipe.last_blocks).good()
            held_top1 = top1_of_each(rank_all(sweep, held), held)
        chosen = int(np.argmax(val_top1 if held_top1 is None else held_top1))
        scores = ClassificationScores.of(orders[chosen], val, classes)
        metrics = dict(scores.metrics)
        if held_top1 is not None:
            metrics |= {"held_out_top1": float(held_top1[chosen]), "top1_best_on_val": float(val_top1.max())}
        return _Trained(scores, val_top1, held_top1, chosen, metrics)

    def _say_left_out(self, stream: FeatureBatches, splits: ProbeData, val: Features) -> None:
        """What no head was trained on; where classes have no names, it was said before."""
        if stream.left_out:
            self.job.say(stream.left_out)
        if stream.labels is not None and splits.names is not None:
            say_unseen(self.job, stream.labels, val.labels)

    def _stream(self, data: LinearProbeData, classes: int, backbone: Backbone) -> FeatureBatches:
        job, recipe, settings = self.job, data.recipe, self.job.settings
        if settings.cached:
            features = frozen_tokens(job, backbone, data.fitted, "fitted", recipe.last_blocks)
            check_labels(features.labels, classes)
            return CachedBatches(features, recipe.global_batch, settings.seed, job.device)
        return AugmentedBatches(
            backbone,
            data.fitted,
            build_train_transform(data.augment, backbone.image_size, MAX_PIXELS),
            last_blocks=recipe.last_blocks,
            classes=classes,
            global_batch=recipe.global_batch,
            sub_batch=settings.batch,
            seed=settings.seed,
            workers=settings.loader_processes,
        )

    def _protocol(self, recipe: ProbeRecipe, trained: _Trained) -> dict[str, Any]:
        backbone, settings = self.job.backbone, self.job.settings
        chosen_on = "there is one head only"
        if trained.held_top1 is not None:
            chosen_on = f"a random {100 * settings.held_out:g} % of the training split, which no head is trained on"
        elif len(recipe.specs) > 1:
            chosen_on = "val itself, as DINOv2 does: an optimistic number"
        return {
            **describe_recipe(recipe, settings),
            "transform": describe_eval_transform(backbone.image_size, backbone.augment),
            "heads": len(recipe.specs),
            "head": str(recipe.specs[trained.chosen]),
            "head_chosen_on": chosen_on,
            "head_best_on_val": str(recipe.specs[int(np.argmax(trained.val_top1))]),
        }

    def _sweep_figure(self, recipe: ProbeRecipe, trained: _Trained) -> Figure:
        specs = recipe.specs
        top1, where = trained.val_top1, "val"
        if trained.held_top1 is not None:
            top1, where = trained.held_top1, "held-out training samples"
        curves: dict[str, list[tuple[float, float]]] = {}
        for spec, accuracy in zip(specs, top1, strict=True):
            curves.setdefault(str(spec.kind), []).append((spec.learning_rate, float(accuracy)))
        point = (specs[trained.chosen].learning_rate, float(top1[trained.chosen]))
        title = f"linear probe, {self.job.settings.preset}: each head on {where}"
        return sweep_figure(curves, point, title, "learning rate at 256 images per step")


class ImageNetLinearProbe(LinearProbe):
    """``linear`` on ImageNet-1k."""

    name = "imagenet_linear"
    summary, data_help = described("imagenet_linear")
    data_folder = "imagenet-1k-wds"


def rank_all(sweep: HeadSweep, features: Features) -> NDArray[np.int32]:
    """(heads, n, up to 5) classes of each sample by each head, best first."""
    values = (features.values["tokens"], features.values["patch_mean"])
    parts = []
    for start in range(0, len(features.labels), _BLOCK):
        tokens, patch_mean = (torch.from_numpy(value[start : start + _BLOCK]).to(sweep.device) for value in values)
        parts.append(sweep.ranked(tokens, patch_mean, TOP).cpu().numpy().astype(np.int32))
    return np.concatenate(parts, axis=1)


def top1_of_each(orders: NDArray[np.int32], features: Features) -> NDArray[np.float64]:
    """(heads,) percent; what could not be read counts as wrong."""
    hits = (orders[:, :, 0] == features.labels) & ~features.bad
    means: NDArray[np.float64] = 100 * hits.mean(axis=1)
    return means


def _sweep_table(recipe: ProbeRecipe, trained: _Trained) -> list[dict[str, Any]]:
    held = trained.held_top1
    return [
        {
            "features": str(spec.kind),
            "learning_rate": spec.learning_rate,
            "held_out_top1": None if held is None else float(held[number]),
            "val_top1": float(trained.val_top1[number]),
        }
        for number, spec in enumerate(recipe.specs)
    ]
