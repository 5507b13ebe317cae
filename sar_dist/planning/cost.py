"""Time, money and loader cores of a run at a model FLOPs utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from sar_dist.config import AugmentSettings, RunConfig
from sar_dist.observe import BACKWARD_PER_FORWARD
from sar_dist.planning.shape import ModelShape

# Forward passes' worth of work of a step: forward and backward, and with checkpointing the forward again.
_PASSES = {False: 1 + BACKWARD_PER_FORWARD, True: 2 + BACKWARD_PER_FORWARD}

# Images per second and core, from the shard to batches of augmented 224 x 224 uint8 tensors, by augmentation and
# augment.backend; measured on a busy Zen 5 server (2.6 GHz) on ImageNet JPEGs of 104 KB, see docs/planning.md.
IMAGES_PER_CORE = {
    ("crop and flip", "fast"): 857.0,
    ("crop and flip", "pil"): 461.0,
    ("RandAugment", "fast"): 674.0,
    ("RandAugment", "pil"): 343.0,
    ("3-Augment", "fast"): 632.0,
    ("3-Augment", "pil"): 303.0,
}
# The same images resized to a short side of RESIZED_TO pixels (make_shards.py --max-short-side).
RESIZED_TO = 256
IMAGES_PER_CORE_RESIZED = {
    ("crop and flip", "fast"): 1879.0,
    ("crop and flip", "pil"): 834.0,
    ("RandAugment", "fast"): 1203.0,
    ("RandAugment", "pil"): 527.0,
    ("3-Augment", "fast"): 1034.0,
    ("3-Augment", "pil"): 448.0,
}


@dataclass(frozen=True)
class Cost:
    """A whole run.

    Attributes:
        step_seconds: one optimizer step.
        images_per_second: over all processes.
        steps_per_epoch: optimizer steps in one pass; an incomplete global batch is dropped.
        total_steps: optimizer steps of the run.
        hours: training, without validation, checkpoints and interruptions.
        gpu_hours: hours times processes.
        price: gpu_hours times the given price; None without one.
    """

    step_seconds: float
    images_per_second: float
    steps_per_epoch: int
    total_steps: int
    hours: float
    gpu_hours: float
    price: float | None


@dataclass(frozen=True)
class LoaderDemand:
    """Cores that the data loader needs.

    Attributes:
        augmentation: "crop and flip", "RandAugment" or "3-Augment", with augment.backend and where it is done.
        images_per_core: measured rate, images per second.
        images_per_second_per_gpu: what training takes.
        cores_per_gpu: the quotient of the two; workers beside the training process itself.
        cores_per_node: for all processes of a node.
        cores_per_node_resized: the same on images with a short side of RESIZED_TO pixels.
    """

    augmentation: str
    images_per_core: float
    images_per_second_per_gpu: float
    cores_per_gpu: float
    cores_per_node: float
    cores_per_node_resized: float


def checkpointing_slowdown(configured: bool, asked: bool) -> float:
    """How many times longer a step takes with (or without) checkpointing than in the configured setting."""
    return _PASSES[asked] / _PASSES[configured]


def plan_cost(
    shape: ModelShape,
    config: RunConfig,
    world_size: int,
    *,
    peak_tflops: float,
    mfu: float,
    train_images: int,
    price_per_gpu_hour: float | None = None,
) -> Cost:
    """Duration and price of a run whose processes reach the model FLOPs utilisation ``mfu``.

    Args:
        shape: the model.
        config: the run.
        world_size: number of GPUs.
        peak_tflops: dense peak of a GPU, 1e12 FLOP/s.
        mfu: 0 to 1; FLOPs that the model and the terms need, without recomputation, over those that the GPUs could do. Everything
            that slows training down is in it, communication and waiting for data too.
        train_images: size of the training set.
        price_per_gpu_hour: in any currency.
    """
    images_per_second = world_size * mfu * peak_tflops * 1e12 / shape.training_flops
    step_seconds = config.optim.global_batch / images_per_second
    steps_per_epoch = train_images // config.optim.global_batch
    total_steps = max(1, round(config.optim.epochs * steps_per_epoch))
    total_steps = min(total_steps, config.run.max_steps or total_steps)
    hours = total_steps * step_seconds / 3600
    gpu_hours = hours * world_size
    price = None if price_per_gpu_hour is None else gpu_hours * price_per_gpu_hour
    return Cost(step_seconds, images_per_second, steps_per_epoch, total_steps, hours, gpu_hours, price)


def plan_loader(config: RunConfig, images_per_second: float, nodes: int, gpus_per_node: int) -> LoaderDemand:
    """Cores that must decode and augment ``images_per_second`` images over all nodes.

    Unless ``augment.where`` says otherwise, a GPU does what follows the crop.
    """
    augmentation, backend = _augmentation(config.augment), config.augment.backend
    on_device = backend == "fast" and config.augment.where != "worker"
    in_workers = "crop and flip" if on_device else augmentation
    rate = IMAGES_PER_CORE[in_workers, backend]
    per_node = images_per_second / nodes
    return LoaderDemand(
        augmentation=f"{augmentation}, {backend}{', on the GPU' if on_device else ''}",
        images_per_core=rate,
        images_per_second_per_gpu=per_node / gpus_per_node,
        cores_per_gpu=per_node / gpus_per_node / rate,
        cores_per_node=per_node / rate,
        cores_per_node_resized=per_node / IMAGES_PER_CORE_RESIZED[in_workers, backend],
    )


def _augmentation(augment: AugmentSettings) -> str:
    if augment.rand_augment is not None:
        return "RandAugment"
    return "3-Augment" if augment.three_augment else "crop and flip"
