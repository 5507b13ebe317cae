"""Everything that can be wrong with a run, found before a process group or a GPU is touched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest

import torch

from sar_dist.checkpoint import complete_checkpoints
from sar_dist.config import RunConfig
from sar_dist.data import Manifest, check_shards, load_manifest
from sar_dist.data.images import build_train_transform
from sar_dist.data.order import check_streams, default_streams
from sar_dist.engine import STATE_BYTES, check_engine, optimizer_of
from sar_dist.errors import UserError
from sar_dist.files import check_space
from sar_dist.models import TimmViT, check_initial_weights, family_of, model_on_meta
from sar_dist.observe import check_destinations
from sar_dist.output import is_main_process, warn
from sar_dist.places import find_data, looked_for
from sar_dist.terms import check_terms
from sar_dist.training.preemption import check_marker
from sar_dist.training.run_directory import RunDirectory


@dataclass(frozen=True)
class CheckedRun:
    """What the checks found, so that nothing is read twice."""

    config: RunConfig
    train: Manifest
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
    model = model_on_meta(config.model, config.regularizer)
    check_buffers(model.vit)
    family_of(model.vit.blocks[0]).check_training(model.vit)
    check_terms(config, model)
    check_engine(config, device, world_size)
    check_decoder(config, device)
    build_train_transform(config.augment, config.model.image_size, config.data.max_pixels)
    if (config.augment.mixup or config.augment.cutmix) and config.engine.micro_batch % 2:
        raise UserError(
            f"mixup and cutmix mix pairs of images; engine.micro_batch={config.engine.micro_batch} must be even"
        )
    repeats = config.data.repeated_augmentation
    streams = config.data.streams or default_streams(max(1, config.optim.global_batch // repeats))
    check_streams(streams, config.optim.global_batch, world_size, repeats)
    directory = RunDirectory(config)
    directory.check(config)
    if (
        not complete_checkpoints(directory.checkpoints) and not config.run.branch_from
    ):  # else the weights come from there
        check_initial_weights(model.vit, config.model)
    train = check_data("data.train", config.data.train, config)
    val = check_data("data.val", config.data.val, config)
    check_same_classes(train, val)
    if train.total < config.optim.global_batch:
        raise UserError(
            f"the training set has {train.total} images, less than one global batch of {config.optim.global_batch}; "
            "use a smaller optim.global_batch"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    each = optimizer_of(config.optim).bytes_per_parameter + (STATE_BYTES if config.optim.ema is not None else 0)
    check_space(  # for the checkpoint that is kept and the one that is being written
        directory.path, 2 * parameters * each, "two checkpoints of this model take", "free some space or set run.dir"
    )
    return CheckedRun(config, train, val, directory)


def check_decoder(config: RunConfig, device: torch.device) -> None:
    """Raises UserError if ``data.decoder=gpu`` and there is none, or augmentation would come before decoding."""
    if config.data.decoder != "gpu":
        return
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


def locate_data(key: str, path: str | None) -> str:
    """Find a data folder: as given, below $SAR_DIST_DATA, or below ``data/``. A URL is left as it is.

    Raises:
        UserError: it is nowhere; the message says where it was looked for and how to provide it.
    """
    if path is None:
        raise UserError(f"{key} is not set; give the folder of the shards, such as {key}=/data/imagenet-1k-wds")
    if "://" in path:
        return path
    found = find_data(path)
    if found is not None:
        return str(found)
    raise UserError(
        f"{key}: there is no {looked_for(path)}; make shards with `python tools/make_shards.py imagefolder SRC OUT`, or download "
        f"timm/imagenet-1k-wds, and set {key} or $SAR_DIST_DATA"
    )


def check_data(key: str, path: str | None, config: RunConfig) -> Manifest:
    """Find and check the shards of ``data.train`` or ``data.val``, which ``key`` names.

    Raises:
        UserError: they are not there, damaged, or have more classes than the model.
    """
    manifest = load_manifest(locate_data(key, path), "train" if key == "data.train" else "val", config.data.label)
    check_shards(manifest, num_classes=config.model.num_classes, max_bad_fraction=config.data.max_bad_fraction)
    if manifest.num_classes is not None and manifest.num_classes > config.model.num_classes:
        raise UserError(
            f"{key} has {manifest.num_classes} classes, the model {config.model.num_classes}; "
            f"set model.num_classes={manifest.num_classes}"
        )
    _warn_of_small_images(key, manifest, config)
    return manifest


def _warn_of_small_images(key: str, manifest: Manifest, config: RunConfig) -> None:
    """Say it where the shards' images were resized to less than this model takes them at."""
    size = config.model.image_size
    wanted = size if key == "data.train" else math.floor(size / config.augment.crop_fraction)
    kept = min((step.max_short_side for step in manifest.resized), default=wanted)
    if kept < wanted:
        warn(
            f"{key}: the images of {manifest.root} were resized to a short side of at most {kept} px, and model.image_size={size} "
            f"takes them at {wanted}; use the original shards, or resize them with --max-short-side {wanted} or more"
        )


def check_same_classes(train: Manifest, val: Manifest) -> None:
    """Make sure that a label means the same class in both sets, as far as their manifests name the classes.

    Raises:
        UserError: the lists differ; the message names the first label that does.
    """
    if train.classes is None or val.classes is None or train.classes == val.classes:
        return
    pairs = zip_longest(train.classes, val.classes, fillvalue="no class")
    label, (ours, theirs) = next((label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1])
    raise UserError(
        f"data.train and data.val have different classes ({len(train.classes)} and {len(val.classes)}): label {label} is {ours} in "
        f"{train.root} and {theirs} in {val.root}; make both with one list, such as by one make_shards.py command"
    )
