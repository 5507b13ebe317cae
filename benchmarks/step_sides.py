"""The loops that benchmarks/train_step.py compares: each trains its own copy of one model on one batch in memory."""

from __future__ import annotations

import copy
import itertools
import json
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from timm.utils import AverageMeter, dispatch_clip_grad

from sar_dist.checkpoint import CheckpointStore
from sar_dist.config import RunConfig, height_and_width
from sar_dist.engine import autocast, build_engine
from sar_dist.models import TappedVisionTransformer, build_model, parameter_groups
from sar_dist.observe import RunLogger, Throughput
from sar_dist.training import (
    Checkpointing,
    ClassificationTask,
    DataAdvice,
    ImagesBySet,
    RunDirectory,
    RunLength,
    RunningAverages,
    Trainer,
    TrainState,
)

CLIP = 1.0
STEPS_PER_EPOCH = 1000
LOG_EVERY = 50  # timm's --log-interval and our log.every: when losses are read back
SIDES = ("bare loop", "like timm", "engine", "ours")
Step = Callable[[], None]


def run_config(arguments: Namespace, precision: str, compiled: bool) -> RunConfig:
    """A run of one process, in the given number of micro-batches a step."""
    return RunConfig(
        run={"name": "benchmark"},
        model={"name": arguments.model, "no_skip_last_block": True, "options": json.loads(arguments.model_options)},
        optim={
            "global_batch": arguments.batch * arguments.micro_batches,
            "clip": CLIP,
            "lr": 1e-4,
            "lr_reference_batch": None,
        },
        engine={
            "precision": precision,
            "compile": compiled,
            "micro_batch": arguments.batch,
            "zero_stage": arguments.zero_stage,
            "deepspeed": json.loads(arguments.deepspeed),
        },
    )


def fixed_batch(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """A micro-batch as the loader yields it, random pixels."""
    batch, size = config.engine.micro_batch, height_and_width(config.model.image_size)
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(batch)
    tensors = {
        "image": torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator),
        "label": torch.randint(0, config.model.num_classes, (batch,), generator=generator),
        "epoch": torch.zeros_like(number),
        "sample": number,
        "position": number,
    }
    return {**{name: value.to(device) for name, value in tensors.items()}, "by_set": {}, "bad": 0, "bad_keys": []}


class Loops:
    """Makes the sides of one setting; "engine" and "ours" share an engine."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        torch.manual_seed(0)
        self.config = config
        self.model = build_model(config.model, config.regularizer)
        self.device = device
        self.batch = fixed_batch(config, device)
        self.task = ClassificationTask(config, self.model.grid, device)
        self.accumulation = config.optim.global_batch // config.engine.micro_batch
        self.engine: Any = None

    def make(self, side: str) -> Step:
        """The step of a side, with its model, on the device."""
        if side in ("engine", "ours") and self.engine is None:
            self.engine = build_engine(self.config, self._new_model(), world_size=1, steps_per_epoch=STEPS_PER_EPOCH)
        makers = {"bare loop": self._bare, "like timm": self._timm, "engine": self._engine, "ours": self._ours}
        return makers[side]()

    def close(self) -> None:
        """Give the engine's memory back."""
        if self.engine is not None:
            self.engine.destroy()

    def _new_model(self, dtype: torch.dtype = torch.float32) -> TappedVisionTransformer:
        return copy.deepcopy(self.model).to(self.device, dtype).train()

    def _compiled(self, model: TappedVisionTransformer) -> TappedVisionTransformer:
        """Compiled block by block, as the engine does it."""
        if self.config.engine.compile:
            for block in model.vit.blocks:
                block.forward = torch.compile(block.forward, dynamic=False)
        return model

    def _forward(self, model: TappedVisionTransformer) -> Callable[..., Any]:
        def forward(images: torch.Tensor, sample_keys: Any) -> Any:
            with autocast(self.config, self.device):
                return model(images, sample_keys)

        return forward

    def _optimizer(self, parameters: TappedVisionTransformer) -> torch.optim.AdamW:
        """The optimizer that ``build_engine`` makes."""
        optim = self.config.optim
        groups = parameter_groups(parameters.vit, lr=optim.peak_lr, weight_decay=optim.weight_decay)
        return torch.optim.AdamW(groups, lr=optim.peak_lr, betas=optim.betas, eps=optim.eps, fused=optim.fused)

    def _bare(self) -> Step:
        """The shortest loop that does the same: autocast, loss, backward, clipping, AdamW."""
        if self.config.engine.precision == "bf16_parameters":
            return self._bare_with_masters()
        model = self._compiled(self._new_model())
        optimizer, forward = self._optimizer(model), self._forward(model)

        def step() -> None:
            for _ in range(self.accumulation):
                loss = self.task.losses(forward, self.batch, 0.0)["loss"]
                (loss / self.accumulation).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _bare_with_masters(self) -> Step:
        """The same for bfloat16 parameters: gradients added up in float32, float32 weights updated, then rounded."""
        masters = self._new_model()
        model = self._compiled(self._new_model(torch.bfloat16))
        optimizer, forward = self._optimizer(masters), self._forward(model)
        rounded, exact = list(model.parameters()), list(masters.parameters())

        def step() -> None:
            for micro_batch in range(self.accumulation):
                loss = self.task.losses(forward, self.batch, 0.0)["loss"]
                (loss / self.accumulation).backward()
                gradients = [parameter.grad for parameter in rounded]
                if micro_batch == 0:
                    for master, gradient in zip(exact, gradients, strict=True):
                        master.grad = gradient.float()
                else:
                    torch._foreach_add_([master.grad for master in exact], gradients)
                model.zero_grad()
            torch.nn.utils.clip_grad_norm_(exact, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_copy_(rounded, exact)

        return step

    def _timm(self) -> Step:
        """A step in the order and with the helpers of timm's train.py: meters, update dispatch, per-update schedule.

        For bfloat16 parameters, its --model-dtype bfloat16: no float32 weights, everything in bfloat16.
        """
        dtype = torch.bfloat16 if self.config.engine.precision == "bf16_parameters" else torch.float32
        model = self._compiled(self._new_model(dtype))
        optimizer, forward = self._optimizer(model), self._forward(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        losses, update_time = AverageMeter(), AverageMeter()
        updates = 0

        def step() -> None:
            nonlocal updates
            start = time.time()
            for _ in range(self.accumulation):
                loss = self.task.losses(forward, self.batch, 0.0)["loss"] / self.accumulation
                loss.backward()
            dispatch_clip_grad(model.parameters(), value=CLIP, mode="norm")
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            update_time.update(time.time() - start)
            if updates % LOG_EVERY == 0:
                losses.update(loss.item() * self.accumulation, len(self.batch["label"]))
            scheduler.step()

        return step

    def _engine(self) -> Step:
        """DeepSpeed's engine and our task, without the trainer."""

        def step() -> None:
            for _ in range(self.accumulation):
                self.engine.backward(self.task.losses(self.engine, self.batch, 0.0)["loss"])
                self.engine.step()

        return step

    def _ours(self) -> Step:
        """``Trainer.train_step`` and ``log_metrics`` themselves, in a run that writes nothing and never validates."""
        config, engine = self.config, self.engine
        unused: Any = None  # data and checkpoints, which a step does not touch, nor wait for
        averages = RunningAverages(engine.device)
        directory = RunDirectory(config)
        logger = RunLogger(directory.path, enabled=False, total_steps=1, description="benchmark")
        store = CheckpointStore(directory.checkpoints, keep_last=1, keep_every=None)
        trainer = Trainer(
            config,
            engine=engine,
            task=self.task,
            batches=itertools.repeat(self.batch),
            advice=DataAdvice(unused),
            images_by_set=ImagesBySet([""], engine.device),
            accumulation=self.accumulation,
            val_loader=unused,
            length=RunLength(config, STEPS_PER_EPOCH),
            state=TrainState(),
            averages=averages,
            ema=None,
            checkpointing=Checkpointing(store, engine, None, unused, averages, logger.message, {}),
            directory=directory,
            logger=logger,
            throughput=Throughput(config.optim.global_batch, None, engine.device),
        )

        def step() -> None:
            trainer.train_step()
            if trainer.state.step % LOG_EVERY == 0:
                trainer.log_metrics()

        return step
