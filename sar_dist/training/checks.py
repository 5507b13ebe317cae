"""Everything that can be wrong with a run, found before a process group or a GPU is touched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import Literal

import torch

from sar_dist.checkpoint import complete_checkpoints
from sar_dist.config import RunConfig, height_and_width, locate_data, size_text
from sar_dist.data import (
    Manifest,
    TrainingSet,
    check_shards,
    load_manifest,
    match_classes,
    set_names,
    warn_of_validation_labels,
)
from sar_dist.data.images import build_train_transform
from sar_dist.data.layout import class_word, refuse_numbers_as_names
from sar_dist.data.order import check_streams
from sar_dist.data.shards import (
    LabelledSet,
    check_stage,
    check_stage_room,
    images_of_two_labels,
    is_url,
    open_index,
    shared_images,
    shared_shards,
)
from sar_dist.engine import STATE_BYTES, check_engine, optimizer_of
from sar_dist.errors import UserError
from sar_dist.files import check_folder, check_space
from sar_dist.models import TimmViT, block_matrices, check_initial_weights, family_of, model_on_meta
from sar_dist.observe import check_destinations
from sar_dist.output import is_main_process, warn
from sar_dist.terms import check_terms
from sar_dist.training.preemption import check_marker
from sar_dist.training.run_directory import RunDirectory


@dataclass(frozen=True)
class CheckedRun:
    """What the checks found, so that nothing is read twice."""

    config: RunConfig
    train: tuple[TrainingSet, ...]
    val: Manifest
    directory: RunDirectory


def check_run(config: RunConfig, device: torch.device, world_size: int) -> CheckedRun:
    """Check configuration, model, data, directory and disk of a run.

    Raises:
        UserError: the first thing that is wrong.
    """
    check_marker()
    if is_main_process():  # the only one that logs
        check_destinations(config.log.to)
        check_folder(RunDirectory(config).path, f"run.dir={config.run.dir}")
    check_stage(config.data)
    model = model_on_meta(config.model, config.regularizer)
    check_buffers(model.vit)
    family_of(model.vit.blocks[0]).check_training(model.vit)
    check_terms(config, model)
    check_engine(config, device, world_size)
    check_decoder(config, device)
    for side in {config.model.image_size, *(config.model.train_sizes or ())}:
        build_train_transform(config.augment, side, config.data.max_pixels)
    if (config.augment.mixup or config.augment.cutmix) and config.engine.micro_batch % 2:
        raise UserError(
            f"mixup and cutmix mix pairs of images; engine.micro_batch={config.engine.micro_batch} must be even"
        )
    data = config.data
    check_streams(
        data.streams, config.optim.global_batch, world_size, data.repeated_augmentation, len(data.training_sets)
    )
    directory = RunDirectory(config)
    directory.check(config)
    if (
        not complete_checkpoints(directory.checkpoints) and not config.run.branch_from
    ):  # else the weights come from there
        check_initial_weights(model.vit, config.model)
    train = check_training_data(config)
    val = check_data("data.val", config.data.val, config)
    check_same_classes(naming_set(train) or train[0].manifest, val)
    warn_of_validation_labels(train, val)
    for each in train:
        warn_of_shared_shards(each.manifest, val)
    warn_of_two_labels(train)
    check_stage_room(data, [*(each.manifest for each in train), val])
    total = sum(each.manifest.total for each in train)
    if (data.epoch_samples or total) < config.optim.global_batch:
        what = f"the training set has {total}" if data.epoch_samples is None else f"an epoch has {data.epoch_samples}"
        raise UserError(
            f"{what} images, less than one global batch of {config.optim.global_batch}; use a smaller optim.global_batch"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    matrices = sum(matrix.numel() for matrix in block_matrices(model.vit).values())
    state = optimizer_of(config.optim).held_bytes(parameters, matrices)
    average = STATE_BYTES * parameters if config.optim.ema is not None else 0
    check_space(  # for the checkpoint that is kept and the one that is being written
        directory.path,
        2 * math.ceil(state + average),
        "two checkpoints of this model take",
        "free some space or set run.dir",
    )
    return CheckedRun(config, train, val, directory)


def check_decoder(config: RunConfig, device: torch.device) -> None:
    """Raises UserError if ``data.decoder=gpu`` and there is none, or what it cannot do is asked for."""
    if config.data.decoder != "gpu":
        return
    if config.model.train_sizes is not None or not isinstance(config.model.image_size, int):
        raise UserError(
            "data.decoder=gpu makes square images of one size; set data.decoder=cpu for model.train_sizes or "
            "a model.image_size that is not square"
        )
    if device.type != "cuda":
        raise UserError("data.decoder=gpu needs a GPU, and this process has none; set data.decoder=cpu")
    if config.augment.where != "device":
        raise UserError(
            f"data.decoder=gpu decodes on the device, and augment.where={config.augment.where} augments before; "
            "set augment.where=device, or data.decoder=cpu"
        )


def check_buffers(vit: TimmViT) -> None:
    """Checkpoints, the moving average and exports hold parameters alone, so a model must have nothing else to save.

    Raises:
        UserError: it has saved buffers, such as the running statistics of BatchNorm.
    """
    buffers = sorted(vit.state_dict().keys() - dict(vit.named_parameters()).keys())
    if buffers:
        raise UserError(
            f"the model keeps {len(buffers)} tensors that are no parameters, such as {buffers[0]}, which checkpoints "
            "do not hold; choose a vision transformer without BatchNorm"
        )


def check_training_data(config: RunConfig) -> tuple[TrainingSet, ...]:
    """Find and check every data set of ``data.train``. The labels are those of the first one that names its classes.

    Raises:
        UserError: one is not there, damaged, there twice, or has a class that the first one does not have.
    """
    several = config.data.training_sets
    if len(several) < 2:
        path, label = (several[0].shards, several[0].label) if several else (None, None)
        return (TrainingSet(check_data("data.train", path, config, label)),)
    sets: list[TrainingSet] = []
    for number, (given, name) in enumerate(zip(several, set_names([each.shards for each in several]), strict=True)):
        key = f"data.train.{number}"
        manifest = load_manifest(locate_data(key, given.shards), "train", given.label or config.data.label)
        if any(_is_same_place(each.manifest.root, manifest.root) for each in sets):
            raise UserError(
                f"{key} is {manifest.root}, which is in data.train already; give it once, with the sum of the weights"
            )
        reference = naming_set(sets) or (sets[0].manifest if sets else manifest)
        classes = match_classes(key, reference, manifest, given.classes)
        checked = TrainingSet(manifest, name, Fraction(repr(given.weight)), classes)
        check_images(key, manifest, config, checked.num_classes)
        sets.append(checked)
    _warn_of_unnamed_classes(sets)
    _warn_of_same_samples(sets)
    return tuple(sets)


def naming_set(sets: Sequence[TrainingSet]) -> Manifest | None:
    """The first set that says what the run's labels mean; None: no set does."""
    return next((each.manifest for each in sets if each.manifest.classes is not None), None)


def _warn_of_same_samples(sets: Sequence[TrainingSet]) -> None:
    """Say it where sets are copies of each other, which would be trained on more often than their weights say."""
    for number, one in enumerate(sets):
        for other in sets[number + 1 :]:
            shared = shared_shards(other.manifest, one.manifest)
            if shared:
                warn(
                    f"data.train: {len(shared)} of the {len(other.manifest.shards)} shards of {other.manifest.root} hold the same "
                    f"samples as shards of {one.manifest.root}, such as {shared[0]}; they are trained on as part of both"
                )
                continue
            looked_at, found = shared_images(other.manifest, one.manifest)
            if found:
                warn(
                    f"data.train: {found} of the {looked_at} images of {other.manifest.root} are in "
                    f"{one.manifest.root} too; they are trained on as part of both"
                )


def _is_same_place(one: str, other: str) -> bool:
    return one == other or ("://" not in one + other and os.path.samefile(one, other))


def _warn_of_unnamed_classes(sets: Sequence[TrainingSet]) -> None:
    """Say it where labels are taken as numbers because only some sets say what they mean."""
    unnamed = [each.name for each in sets if each.manifest.classes is None]
    if unnamed and len(unnamed) < len(sets):
        warn(
            f"data.train: {', '.join(unnamed)} does not name its classes, so that its labels are taken for the same numbers as "
            "in the others; a classes.json beside its shards would tell"
        )


def check_data(key: str, path: str | None, config: RunConfig, label: str | None = None) -> Manifest:
    """Find and check the shards of ``data.train`` or ``data.val``, which ``key`` names.

    Raises:
        UserError: they are not there, damaged, or have more classes than the model.
    """
    split: Literal["train", "val"] = "train" if key == "data.train" else "val"
    manifest = load_manifest(locate_data(key, path), split, label or config.data.label)
    check_images(key, manifest, config)
    return manifest


def check_images(key: str, manifest: Manifest, config: RunConfig, num_classes: int | None = None) -> None:
    """Check the shards of a set, whose labels are its own ``num_classes`` or, without them, those of the model.

    Raises:
        UserError: they are damaged, or have more classes than the model.
    """
    if num_classes is None and manifest.num_classes is not None and manifest.num_classes > config.model.num_classes:
        raise UserError(
            f"{key} has {manifest.num_classes} classes, the model {config.model.num_classes}; "
            f"set model.num_classes={manifest.num_classes}"
        )
    check_shards(
        manifest,
        num_classes=num_classes or config.model.num_classes,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    if key == "data.train" and manifest.num_classes is not None and manifest.num_classes < config.model.num_classes:
        warn(
            f"data.train has {manifest.num_classes} classes and the model {config.model.num_classes}; unless the others are "
            f"meant to stay without images, set model.num_classes={manifest.num_classes}"
        )
    _warn_of_small_images(key, manifest, config)


def warn_of_shared_shards(train: Manifest, val: Manifest) -> None:
    """Say it where a run would be validated on what it is trained on, as with bare tars whose names tell no split."""
    shared = shared_shards(val, train)
    if shared:
        warn(
            f"data.val: {len(shared)} of the {len(val.shards)} shards hold the same samples as shards of {train.root}, such as "
            f"{shared[0]}; validation on images that are trained on says nothing about others"
        )
        return
    looked_at, found = shared_images(val, train)
    if found:
        warn(
            f"data.val: {found} of the {looked_at} images are in {train.root} too; validation on images that are "
            "trained on says nothing about others"
        )


def warn_of_two_labels(sets: Sequence[TrainingSet]) -> None:
    """Say it where images are trained on under several labels, within a set or over all, as far as they are local."""
    local = [
        LabelledSet(each.manifest, open_index(each.manifest), each.classes)
        for each in sets
        if is_main_process() and not is_url(each.manifest.root)  # it says it for all
    ]
    found = images_of_two_labels(local) if local else None
    if found is not None:
        warn(f"data.train: {found}")


def _warn_of_small_images(key: str, manifest: Manifest, config: RunConfig) -> None:
    """Say it where the shards' images were resized to less than this model takes them at."""
    size = max(height_and_width(config.model.image_size))
    wanted = (
        max(config.model.train_sizes or (size,))
        if key.startswith("data.train")
        else math.floor(size / config.augment.crop_fraction)
    )
    kept = min((step.max_short_side for step in manifest.resized), default=wanted)
    if kept < wanted:
        warn(
            f"{key}: the images of {manifest.root} were resized to a short side of at most {kept} px, and model.image_size={size_text(config.model.image_size)} "
            f"takes them at {wanted}; use the original shards, or resize them with --max-short-side {wanted} or more"
        )


def check_same_classes(train: Manifest, val: Manifest) -> None:
    """Make sure that a label means the same class in both sets, as far as their manifests name the classes.

    Raises:
        UserError: the lists differ; the message names the first label that does. Or one is missing, and names in the other
            are numbers.
    """
    if train.classes is None or val.classes is None:
        refuse_numbers_as_names(train.classes, train.root, val.root)
        refuse_numbers_as_names(val.classes, val.root, train.root)
        return
    pairs = zip_longest(map(class_word, train.classes), map(class_word, val.classes), fillvalue="no class")
    different = [(label, *pair) for label, pair in enumerate(pairs) if pair[0] != pair[1]]
    if not different:
        return
    label, ours, theirs = different[0]
    raise UserError(
        f"data.train and data.val have different classes ({len(train.classes)} and {len(val.classes)}): label {label} is {ours} in "
        f"{train.root} and {theirs} in {val.root}; make both with one list, such as by one make_shards.py command"
    )
