"""The whole plan of a run on a machine: the configured setting, and which others would fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sar_dist.config import RunConfig
from sar_dist.engine import BatchArithmetic, batch_arithmetic
from sar_dist.errors import UserError
from sar_dist.machine import Machine
from sar_dist.planning.communication import Communication, plan_communication
from sar_dist.planning.cost import Cost, LoaderDemand, checkpointing_slowdown, plan_cost, plan_loader
from sar_dist.planning.memory import MemoryPlan, plan_memory
from sar_dist.planning.shape import ModelShape

_OFFLOADS = ("none", "optimizer", "all")


@dataclass(frozen=True)
class Setting:
    """One way to run: ZeRO stage, offload and checkpointing.

    Attributes:
        zero_stage, offload, checkpointing: as in the engine's settings.
        configured: it is the configuration's own.
        memory: what a process needs.
        communication: what a process sends in a step.
        fits: the peak is within the GPU's usable memory.
        slowdown: step time relative to the configured setting, by recomputation alone.
    """

    zero_stage: int
    offload: str
    checkpointing: bool
    configured: bool
    memory: MemoryPlan
    communication: Communication
    fits: bool
    slowdown: float


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that ``tools/plan.py`` prints.

    ``largest_micro_batch`` is the largest one that fits with the configured setting, None if none does.
    """

    config: RunConfig
    machine: Machine
    shape: ModelShape
    batch: BatchArithmetic
    train_images: int
    cost: Cost
    loader: LoaderDemand
    settings: tuple[Setting, ...]
    largest_micro_batch: int | None

    @property
    def fastest(self) -> Setting | None:
        """Of the settings that fit: no offload first, then the least recomputation, then the lowest ZeRO stage.

        Higher stages send more, and in more and smaller pieces.
        """
        fitting = (setting for setting in self.settings if setting.fits)
        return min(
            fitting,
            key=lambda one: (_OFFLOADS.index(one.offload), one.slowdown, one.zero_stage),
            default=None,
        )

    @property
    def chosen(self) -> Setting:
        """The configuration's own setting."""
        return next(setting for setting in self.settings if setting.configured)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types; sizes are bytes."""
        settings = []
        for setting in self.settings:
            extra = {"peak": setting.memory.peak, "peak_moment": setting.memory.peak_moment}
            settings.append(asdict(setting) | {"memory": asdict(setting.memory) | extra})
        return {
            "run": self.config.run.name,
            "machine": asdict(self.machine),
            "parameters": self.shape.parameters,
            "forward_macs": self.shape.forward_macs,
            "training_flops": self.shape.training_flops,
            "term_flops": self.shape.terms.flops,
            "term_bytes": self.shape.terms.held_bytes,
            "batch": asdict(self.batch),
            "train_images": self.train_images,
            "cost": asdict(self.cost),
            "loader": asdict(self.loader),
            "settings": settings,
            "largest_micro_batch": self.largest_micro_batch,
        }


def make_plan(config: RunConfig, machine: Machine, train_images: int) -> TrainingPlan:
    """Plan ``config`` on ``machine`` with a training set of ``train_images`` images.

    Raises:
        UserError: the model cannot be built or planned, the batch does not divide, or the training set is too small.
    """
    batch = batch_arithmetic(config, machine.world_size)
    if train_images < config.optim.global_batch:
        raise UserError(
            f"--train-images={train_images} is less than one global batch of {config.optim.global_batch}; "
            "use a smaller optim.global_batch"
        )
    shape = ModelShape.of(config)
    cost = plan_cost(
        shape,
        config,
        machine.world_size,
        peak_tflops=machine.peak_tflops,
        mfu=machine.mfu,
        train_images=train_images,
        price_per_gpu_hour=machine.price_per_gpu_hour,
    )
    loader = plan_loader(config, cost.images_per_second, machine.nodes, machine.gpus_per_node)
    settings = tuple(_setting(shape, config, variant, machine) for variant in _variants(config))
    largest = _largest_micro_batch(shape, config, machine)
    return TrainingPlan(config, machine, shape, batch, train_images, cost, loader, settings, largest)


def _largest_micro_batch(shape: ModelShape, config: RunConfig, machine: Machine) -> int | None:
    """Of the micro-batches that make whole global batches; mixing pairs images, so that an odd one will not do."""
    share = config.optim.global_batch // machine.world_size
    pairs = bool(config.augment.mixup or config.augment.cutmix)
    for size in range(share, 0, -1):
        if share % size == 0 and not (pairs and size % 2):
            memory = plan_memory(shape, config.vary({"engine.micro_batch": size}), machine.world_size)
            if memory.peak <= machine.usable_memory:
                return size
    return None


def _variants(config: RunConfig) -> Iterator[RunConfig]:
    for offload, stages in zip(_OFFLOADS, ((1, 2, 3), (1, 2, 3), (3,)), strict=True):
        for stage in stages:
            for checkpointing in (False, True):
                yield config.vary(
                    {
                        "engine.zero_stage": stage,
                        "engine.offload": offload,
                        "engine.activation_checkpointing": checkpointing,
                    }
                )


def _setting(shape: ModelShape, config: RunConfig, variant: RunConfig, machine: Machine) -> Setting:
    memory = plan_memory(shape, variant, machine.world_size)
    engine, configured = variant.engine, config.engine
    return Setting(
        zero_stage=engine.zero_stage,
        offload=engine.offload,
        checkpointing=engine.activation_checkpointing,
        configured=(engine.zero_stage, engine.offload, engine.activation_checkpointing)
        == (configured.zero_stage, configured.offload, configured.activation_checkpointing),
        memory=memory,
        communication=plan_communication(
            shape,
            variant,
            machine.nodes,
            machine.gpus_per_node,
            link_gbps=machine.link_gbps,
            node_link_gbps=machine.node_link_gbps,
        ),
        fits=memory.peak <= machine.usable_memory,
        slowdown=checkpointing_slowdown(configured.activation_checkpointing, engine.activation_checkpointing),
    )
