"""The training loop. ``train`` reads as prose; everything it says has one short method below it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sar_dist import distributed, standstill
from sar_dist.config import Duration, RunConfig
from sar_dist.data import ValidationLoader
from sar_dist.engine import Engine, ExponentialMovingAverage
from sar_dist.observe import RunLogger, Throughput, set_values
from sar_dist.output import is_main_process
from sar_dist.regions import region
from sar_dist.signals import begin_training
from sar_dist.training.averages import RunningAverages
from sar_dist.training.bad_images import BadImages
from sar_dist.training.checkpointing import Checkpointing
from sar_dist.training.evaluation import evaluate
from sar_dist.training.guards import StepGuard, TooManyRollbacks, Verdict, Watchdog, check_rollbacks
from sar_dist.training.images_by_set import ImagesBySet
from sar_dist.training.length import RunLength
from sar_dist.training.pictures import Pictures
from sar_dist.training.preemption import AgreedStop, StopAgreed, request_requeue
from sar_dist.training.profiling import StepProfiler
from sar_dist.training.reporting import DataAdvice, closing_lines, progress_values, validation_line
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.state import TrainState
from sar_dist.training.task import ClassificationTask
from sar_dist.training.validation_details import ValidationDetails


@dataclass(eq=False)
class Trainer:
    """One run on one process. ``sar_dist.training.setup.build_trainer`` puts the parts together.

    Attributes:
        config: the run's configuration.
        engine: the DeepSpeed engine, at the state that ``state`` counts.
        task: batches to losses.
        batches: this process's micro-batches from ``state.step`` on, ``accumulation`` of them in a step.
        val_loader: the validation set.
        length, state: durations in steps, and progress so far.
        averages: means over the logging interval that is under way.
        ema: moving average of the weights, or None.
        checkpointing, directory, logger, throughput: where things are saved, written and counted.
        advice: what would help if training waits for data.
        images_by_set: counts where training images come from.
        last_batch: the newest micro-batch.
        applied: learning rate and weights of the newest step.
        validation: the newest scores of the live weights.
    """

    config: RunConfig
    engine: Engine
    task: ClassificationTask
    batches: Iterator[dict[str, Any]]
    accumulation: int
    val_loader: ValidationLoader
    length: RunLength
    state: TrainState
    averages: RunningAverages
    ema: ExponentialMovingAverage | None
    checkpointing: Checkpointing
    directory: RunDirectory
    logger: RunLogger
    throughput: Throughput
    advice: DataAdvice
    images_by_set: ImagesBySet
    last_batch: dict[str, Any] | None = None
    applied: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        self.bad_images = BadImages(self.directory.bad_images, self.engine.device)
        self.pictures = Pictures(config, self.task, self.val_loader, self.logger)
        self.profiler = StepProfiler(
            config, self.length, self.state.step, self.engine.device, self.logger, self.throughput
        )
        self.guard = StepGuard(config.guard, self.state.guard, tolerate_overflow=config.engine.precision == "fp16")
        self.watchdog = Watchdog(60 * config.guard.stall_minutes)

    def train(self) -> TrainState:
        """Train to the last step or an agreed stop."""
        with closing(self.logger), closing(self.profiler):
            self.run_loop()
        self.directory.close()
        self.watchdog.stop()
        return self.state

    def run_loop(self) -> None:
        """Step after step, and what is due between them."""
        self.watchdog.moved()
        self.stop = AgreedStop(self.config.run.max_hours, lambda: self.directory.lost)
        begin_training()  # from here on a signal saves
        try:
            if not self.state.settled:
                self.settle()
            if not self.at_end:
                distributed.main_first(self.directory.remove_summary)
            while not self.at_end:
                self.train_step()
                self.do_what_is_due()
                check_rollbacks(self.config.guard, self.state)
                self.stop.check()
            self.finish()
        except StopAgreed as agreed:
            self.leave(str(agreed))
        except TooManyRollbacks:
            self.save_where_it_stops()  # the next start finds them in the checkpoint
            raise
        self.stop.finish()

    def do_what_is_due(self) -> None:
        """Log, validate, draw and save where this step is one after which that happens; after the last step all is due.

        The checkpoint comes last: what a start from it finds written of its step is all there is to write.
        """
        if self.due(self.config.log.every):
            self.log_metrics()
        if self.at_end:
            self.save()  # a kill in the last validation costs no step
        if self.due(self.config.validation.every):
            self.validate()
        if self.due(self.config.log.figures_every):
            self.draw()
        self.state.settled = True
        if self.at_end:
            self.log_result()
        elif self.due(self.config.checkpoint.every) or self.state.best_step == self.state.step:
            self.save()

    def settle(self) -> None:
        """Do what is due after the last step of an earlier start, which stopped in the middle of that."""
        for _ in range(self.accumulation):
            self.last_batch = next(self.batches, None)
        self.do_what_is_due()

    def train_step(self) -> None:
        """One optimizer step: forward and backward of every accumulated micro-batch, then the update."""
        epoch = self.state.step / self.length.steps_per_epoch
        self.applied = {"learning_rate": max(self.engine.get_lr()), **self.task.weights(epoch)}
        with self.profiler.step(self.state.step + 1):
            for micro_step in range(self.accumulation):
                with self.throughput.waiting_for_data(), region("data_wait"):
                    batch = next(self.batches)
                self._seed(micro_step)
                losses = self.task.losses(self.engine, batch, epoch)
                with region("backward"):
                    self.engine.backward(losses["loss"])
                with region("optimizer"):
                    self.engine.step()
                standstill.moved()
                self.averages.add(losses)
                self.guard.saw(losses["loss"], batch["sample"])
                self.images_by_set.add(batch["by_set"])
                self.bad_images.note(batch["bad"], batch["bad_keys"], self.state.step + 1)
            if self.ema is not None:
                with region("optimizer"):
                    self.ema.update()
        self.last_batch = batch
        if self.config.model.train_sizes is not None:
            self.applied["image_size"] = batch["image"].shape[-1]
        self.state.step += 1
        self.state.settled = False
        self.state.images += self.config.optim.global_batch
        self.throughput.step_done(side=batch["image"].shape[-1])
        self.watchdog.moved()
        self._obey(*self.guard.after_step(self.state.step, self.engine.was_step_applied()))

    @property
    def at_end(self) -> bool:
        """Whether no step is left to do."""
        return self.state.step >= self.length.last_step

    def due(self, every: Duration | None) -> bool:
        """Whether something that happens every so often, and at the end, happens after this step."""
        return self.at_end or self.length.due(every, self.state.step)

    def save(self) -> None:
        """Let a checkpoint of this step be written while training goes on."""
        distributed.main_first(self.directory.check_held)
        self._complete_records()
        with self.throughput.paused():
            self.checkpointing.save(self.state)
        self.watchdog.moved()

    def log_metrics(self) -> None:
        """Average over the interval and the processes, and write."""
        values = self.averages.take()
        if not values:
            return
        self._complete_records()
        values |= {
            **self.applied,
            "gradient_norm": float(self.engine.get_global_grad_norm() or 0.0),
            "epoch": self.state.step / self.length.steps_per_epoch,
            "skipped_steps": float(self.engine.skipped_steps),
            "bad_images": float(self.state.bad_images),
            **self.throughput.summary(),
        }
        parts = self.profiler.take()
        self.logger.metrics(self.state.step, values)
        self.logger.metrics(self.state.step, parts, prefix="step_seconds")
        self.logger.metrics(self.state.step, set_values(self.state.images_by_set), prefix="data")
        self._obey(*self.guard.after_interval(self.state.step, values["loss"]))
        self.logger.progress(self.state.step, progress_values(values, parts, self.task.quantities))
        with self.throughput.paused():
            line = self.advice.after_interval(values) if is_main_process() else None
        if line is not None:
            self.logger.message(line)

    def validate(self) -> None:
        """Score the live weights, and their moving average, on the whole validation set. A stop leaves it out."""
        with self.throughput.paused():
            details = self.pictures.new_details()
            self.validation = self._evaluate(details)
            average = None
            if self.ema is not None:
                with self.ema.as_weights():
                    average = self._evaluate()
            self.logger.metrics(self.state.step, self.validation, prefix="val")
            self.pictures.draw_validation(details, self.state.step)
            if average is not None:
                self.logger.metrics(self.state.step, average, prefix="val_ema")
        self._keep_best((average or self.validation)["top1"])
        names = [term.name for term in self.task.terms]
        self.logger.message(validation_line(self.state.step, self.validation, average, names))
        self.watchdog.moved()

    def _evaluate(self, details: ValidationDetails | None = None) -> dict[str, float]:
        def between_batches() -> None:
            self.watchdog.moved()
            self.stop.check()

        return evaluate(self.engine.module, self.task, self.val_loader, details, between_batches)

    def _keep_best(self, top1: float) -> None:
        if self.state.best_top1 is None or top1 > self.state.best_top1:
            self.state.best_top1, self.state.best_step = top1, self.state.step

    def log_result(self) -> None:
        """Give each destination the run's configuration with its result."""
        scores = {key: value for key, value in self.validation.items() if "head" not in key}
        self.logger.hyperparameters(self.config.model_dump(mode="json"), scores)

    def draw(self) -> None:
        """Draw the [CLS] attention of a few validation images, components coloured, and some training samples."""
        with self.throughput.paused():
            self.pictures.draw(self.engine.module, self.last_batch, self.state.step)

    def leave(self, reason: str) -> None:
        """Stop before the end so that the same command goes on from here, also in the middle of a logging interval."""
        self.save_where_it_stops()
        if distributed.is_main():
            request_requeue(self.state.step, reason)
        self.logger.message(f"stopped after step {self.state.step} ({reason}); start the same command again to go on")

    def save_where_it_stops(self) -> None:
        """Save, and wait for it, where training stops before its end."""
        distributed.main_first(self.directory.check_held)
        self._complete_records()
        self.checkpointing.save_now(self.state, interim=True)

    def finish(self) -> None:
        """Save, and say where everything is; a finished run that is started again only says it."""
        distributed.main_first(self.directory.check_held)
        if not self.validation:
            self.recall_validation()
        self._complete_records()
        self.checkpointing.save_now(self.state)
        summary = {**self.state.to_json(), "total_steps": self.length.total, "validation": self.validation}
        distributed.main_first(lambda: self.directory.write_summary(summary))
        for line in closing_lines(self.state, self.engine.skipped_steps, self.directory, self.bad_images.unrecorded):
            self.logger.message(line)

    def recall_validation(self) -> None:
        """Read what an earlier start measured after this, the last step; do it now where there is nothing to read."""
        names = ("val", "val_ema")
        live, average = distributed.main_first(lambda: [self.logger.recorded(self.state.step, name) for name in names])
        if live is None:
            self.do_what_is_due()
        else:
            self.validation = live
            self._keep_best((average or live)["top1"])

    def _obey(self, verdict: Verdict, message: str | None) -> None:
        """Carry out what the guard decided after a step or an interval."""
        if message is not None:
            self.logger.message(f"warning: {message}")
        if verdict is Verdict.ROLL_BACK:
            self.checkpointing.roll_back()

    def _seed(self, micro_step: int) -> None:
        """Make dropout, where a model has it, a function of seed, step and process: nothing to save, or to lose."""
        key = (self.config.run.seed, self.state.step, micro_step, distributed.rank())
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))

    def _complete_records(self) -> None:
        """Add what was counted on the processes since the last time to the state; write what waits for the disk."""
        self.state.add_counts(self.bad_images.add_up(), self.images_by_set.take())
        self.logger.flush()
