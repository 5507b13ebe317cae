"""Full fine-tuning on a classification set (``finetune``), by the training engine itself.

The protocol is that of the method's authors for CIFAR-10/100, Flowers-102 and Pets: 100 epochs of AdamW, RandAugment,
mixup and cutmix, with or without the entropy term. The data set becomes shards first, so that everything training has
(ZeRO, exact resume, validation) holds here; the score is then that of the fine-tuned run's own checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from sar_dist import distributed
from sar_dist.config import OptimSettings, RunConfig, Side
from sar_dist.data.making import WritingOptions, write_shards
from sar_dist.data.making.sources import Source
from sar_dist.data.shards import MANIFEST_NAME, Split
from sar_dist.errors import UserError
from sar_dist.setting_trees import merged
from sar_dist.training import build_trainer
from sar_dist.transfer import (
    TOP,
    Backbone,
    ClassificationScores,
    Outcome,
    SampleSet,
    TransferSettings,
    TransferTask,
    described,
    limited,
    logits_of,
    match_classes,
    open_both_splits,
)
from sar_dist.transfer.tasks.classification import describe_eval_transform, top_classes
from sar_dist.transfer.tasks.finetune_keys import own_keys
from sar_dist.transfer.tasks.probes import ProbeData, read_labels, say_unseen
from sar_dist.validation import one_line


class FinetuneSettings(TransferSettings):
    """The authors' fine-tuning recipe; ``train`` reaches everything else of a training configuration."""

    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="input, pixels: side of a square, or [height, width]; none: the model's own"
    )
    epochs: float = Field(100, gt=0, description="passes over the training set")
    warmup_epochs: float = Field(3, ge=0, description="epochs of linear learning-rate warm-up")
    lr: float = Field(5e-4, gt=0, description="peak learning rate, multiplied by global_batch / 512")
    global_batch: int = Field(512, ge=1, description="images per optimizer step over all processes")
    micro_batch: int = Field(64, ge=1, description="images per process and forward pass")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate decay from block to block, from the head down"
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth rate of the last block")
    entropy_weight: float = Field(
        0.0, ge=0, description="weight of the spatial entropy in the loss (the authors: 0.01)"
    )
    zero_stage: Literal[1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    train: dict[str, Any] = Field(
        default_factory=dict,
        description="further keys of the training configuration, such as train.engine.precision=fp32",
    )


@dataclass(frozen=True)
class FinetuneData:
    """What is fine-tuned on, and how.

    Attributes:
        samples: by split.
        names: of the classes, by label.
        config: the training run.
    """

    samples: Mapping[Split, SampleSet]
    names: tuple[str, ...]
    config: RunConfig

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of each split."""
        return {split: samples.fingerprint for split, samples in self.samples.items()}


class Finetune(TransferTask[FinetuneSettings, FinetuneData]):
    """Train the whole model on the set, with a new classifier, and score the result."""

    primary: ClassVar[str] = "top1"
    name = "finetune"
    summary, data_help = described("finetune")
    data_folder = "cifar10"
    settings_type = FinetuneSettings

    @classmethod
    def variant(cls, settings: FinetuneSettings) -> str:
        return "entropy" if settings.entropy_weight else ""

    def prepare(self) -> FinetuneData:
        job = self.job
        train, val = open_both_splits(job.data, self.data_help, job.settings.label)
        samples: dict[Split, SampleSet] = {
            "train": limited(train, job.settings.limit),
            "val": limited(val, job.settings.limit),
        }
        matched = match_classes(samples["val"], samples["train"].classes, "the training split")
        job.say(f"validation labels {matched.remark}")
        samples["val"] = matched.samples
        names = self._class_names(samples)
        return FinetuneData(samples, names, run_config(job.backbone, job.settings, job.out, len(names)))

    def _class_names(self, samples: Mapping[Split, SampleSet]) -> tuple[str, ...]:
        """By label, as probes count classes: where they have no names, those of both splits. Raises UserError for a single one."""
        data = ProbeData(samples["train"], samples["val"], samples["train"].classes)
        if data.names is not None:
            return tuple(data.class_names(data.count_classes(np.array([0]))))
        train, val = read_labels(data.train), read_labels(data.val)
        say_unseen(self.job, train, val)
        return tuple(data.class_names(data.count_classes(np.concatenate([train, val]))))

    def run(self, prepared: FinetuneData) -> Outcome:
        job, names, config = self.job, prepared.names, prepared.config
        for split, samples in prepared.samples.items():
            distributed.main_first(lambda split=split, samples=samples: self._make_shards(split, samples))  # type: ignore[misc]
        with own_keys():
            state = build_trainer(config).train()
        run_directory = Path(config.run.dir) / config.run.name
        if not (run_directory / "summary.json").exists():
            raise UserError(f"fine-tuning stopped after step {state.step}; start the same command again to go on")
        tuned = Backbone.load(str(run_directory), job.device, job.settings.precision)
        found = job.extract(prepared.samples["val"], logits_of, name="val logits", backbone=tuned)
        order = top_classes(found.values["logits"], min(TOP, len(names))).astype(np.int32)
        scores = ClassificationScores.of(order, found, len(names))
        return Outcome(
            metrics=scores.metrics,
            primary=self.primary,
            samples=scores.samples,
            skipped=scores.skipped,
            protocol={
                "transform": describe_eval_transform(tuned.image_size, tuned.augment),
                "steps": state.step,
                "training": config.model_dump(
                    mode="json", include={"model", "regularizer", "terms", "augment", "optim"}
                ),
                "run": str(run_directory),
            },
            baselines={"chance": scores.chance},
            figures=scores.figures(names, "fine-tuned"),
            tables={"classes": scores.table(names)},
        )

    def _make_shards(self, split: Split, samples: SampleSet) -> None:
        folder = self.job.out / "shards" / split
        if not (folder / MANIFEST_NAME).exists():
            write_shards(
                _SampleSource(samples, split, self.job.data.name), folder, WritingOptions(self.job.settings.seed)
            )


class _SampleSource(Source):
    """A sample set as something that shards are written from."""

    def __init__(self, samples: SampleSet, split: Split, name: str) -> None:
        self.split = split
        self.classes = samples.classes
        self._samples = samples
        self._name = name

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        key, members = self._samples.sample(number)
        # Two sources of one set may both have a 000001: the number makes it unique.
        return f"{number:07d}_{re.sub('[^A-Za-z0-9_-]', '_', key)[-60:]}", members

    def description(self) -> dict[str, Any]:
        return {"kind": "transfer", "folder": self._name}

    def digest(self) -> str:
        return self._samples.fingerprint

    def size(self) -> int:
        _, members = self._samples.sample(0)
        return len(self._samples) * sum(map(len, members.values()))


def run_config(backbone: Backbone, settings: FinetuneSettings, out: Path, classes: int) -> RunConfig:
    """The training run that fine-tunes ``backbone``; its directory is ``out/run``.

    Raises:
        UserError: ``settings`` do not fit the model or each other.
    """
    loaded = backbone.loaded
    values: dict[str, Any] = {
        "run": {"name": "run", "dir": str(out), "seed": settings.seed},
        "model": {
            **loaded.settings.model_dump(),
            "image_size": settings.image_size or loaded.image_size,
            "num_classes": classes,
            "drop_path": settings.drop_path,
            "init_from": loaded.weights,
            "new_classifier": True,
        },
        "regularizer": {
            "weight": settings.entropy_weight,
            "query": "cls" if backbone.has_class_token else "mean",
        },
        "data": {
            "train": str(out / "shards" / "train"),
            "val": str(out / "shards" / "val"),
            "workers": settings.workers,
        },
        "augment": {
            "rand_augment": "rand-m9-mstd0.5-inc1",
            "mixup": 0.8,
            "cutmix": 1.0,
            "label_smoothing": 0.1,
            "random_erasing": 0.25,
            "interpolation": loaded.augment.interpolation,
            "mean": loaded.augment.mean,
            "std": loaded.augment.std,
            "crop_fraction": loaded.augment.crop_fraction,
            "crop_mode": loaded.augment.crop_mode,
        },
        "optim": {
            **_lowest_rates(settings),
            **{
                name: getattr(settings, name)
                for name in ("epochs", "warmup_epochs", "lr", "global_batch", "weight_decay", "layer_decay")
            },
        },
        "engine": {"zero_stage": settings.zero_stage, "micro_batch": settings.micro_batch},
        "validation": {"every": "10ep"},
        "checkpoint": {"every": "1ep", "keep_last": 1},
    }
    with own_keys(), one_line("", RunConfig):
        return RunConfig.model_validate(merged(values, settings.train))


def _lowest_rates(settings: FinetuneSettings) -> dict[str, float]:
    """First and last learning rate where a small batch has a peak below the usual ones, in the recipe's proportion to it."""
    usual = OptimSettings()
    peak = settings.lr * settings.global_batch / (usual.lr_reference_batch or settings.global_batch)
    rates = {"min_lr": usual.min_lr, "warmup_lr": usual.warmup_lr}
    return {name: rate / usual.lr * peak for name, rate in rates.items() if rate > peak}
