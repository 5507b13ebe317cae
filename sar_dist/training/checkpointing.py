"""Saving and restoring a whole run: engine, moving average, progress and data cursor in one checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointReader, CheckpointStore, LoaderState, SharedState
from sar_dist.data import TrainLoader
from sar_dist.engine import Engine, ExponentialMovingAverage, restore, shared_state, snapshot
from sar_dist.errors import UserError
from sar_dist.files import NO_SPACE_ERRORS, space_remedy
from sar_dist.training.averages import RunningAverages
from sar_dist.training.state import TrainState


class Checkpointing:
    """What the trainer does with checkpoints. Every method is called on every process.

    Args:
        store: where they are.
        engine, ema, loader, averages: what they hold the state of; ``ema`` may be None.
        say: prints a line on the main process.
        config: the run's configuration, of which every checkpoint holds a copy: config.json may be lost or damaged.
        classes: names of the classes by label, None where the data name none; an evaluation compares them with its own.
    """

    def __init__(
        self,
        store: CheckpointStore,
        engine: Engine,
        ema: ExponentialMovingAverage | None,
        loader: TrainLoader,
        averages: RunningAverages,
        say: Callable[[str], None],
        config: dict[str, Any],
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.store = store
        self.engine = engine
        self.ema = ema
        self.loader = loader
        self.averages = averages
        self.say = say
        self.config = config
        self.classes = classes

    def resume(self, reader: CheckpointReader) -> None:
        """Restore weights, optimizer and averages, whatever processes and ZeRO stage wrote them."""
        restore(self.engine, self.ema, reader)
        world, stage = distributed.world_size(), self.engine.zero_optimization_stage()
        mine = reader.indices_for(distributed.rank(), world)
        self.averages.load_state_dicts([index.averages for index in mine if index.averages])
        old_world, old_stage = reader.manifest.world_size, reader.manifest.zero_stage
        plural = "es" if old_world > 1 else ""
        same = (world, stage) == (old_world, old_stage)
        moved = "" if same else f", saved by {old_world} process{plural} with ZeRO {old_stage}"
        self.say(f"resumed after step {reader.step} from {reader.folder}{moved}")
        if self._drops_values() and (other := self._other_draws(reader)):
            self.say(
                f"warning: the model's dropout is drawn by process and micro-batch: from here on it is another one than with {other}, "
                "which the run had before"
            )

    def _drops_values(self) -> bool:
        return any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in self.engine.module.modules())

    def _other_draws(self, reader: CheckpointReader) -> str | None:
        """What the processes and micro-batches were before, if that is another division of a batch."""
        size = (reader.manifest.config or {}).get("engine", {}).get("micro_batch")
        world = reader.manifest.world_size
        if (world, size) == (distributed.world_size(), self.config["engine"]["micro_batch"]) or size is None:
            return None
        return f"engine.micro_batch={size} on {world} process{'' if world == 1 else 'es'}"

    def roll_back(self) -> None:
        """Put the weights and the optimizer of the newest checkpoint back; data, progress and counts go on.

        A checkpoint that only a stop made is passed over: a run that was stopped goes back to where others go back to.

        Raises:
            UserError: there is no checkpoint yet.
        """
        self.store.wait()
        distributed.barrier()  # the main process commits last
        reader = self.store.newest_due()
        if reader is None:
            raise UserError("there is no checkpoint to roll back to; set a smaller checkpoint.every")
        skipped = self.engine.skipped_steps
        restore(self.engine, self.ema, reader)
        self.engine.skipped_steps = skipped  # they were skipped, whatever the weights are now
        self.say(f"rolled back to the weights after step {reader.step}")

    def save(self, state: TrainState, *, copy: bool = True, interim: bool = False) -> None:
        """Copy the state to host memory and let it be written in the background; report what failed before.

        ``interim``: no checkpoint is due, but training stops; it makes way for the next one.
        """
        self.store.wait()
        problems = [problem for problem in distributed.gather_objects(self.store.take_problem()) if problem]
        for problem in problems:
            self.say(f"warning: {problem}; training goes on")
        if problems:
            self.store.remove_failed()
        if state.best_step == state.step:
            self.store.protect(state.step)
        tensors, index = snapshot(self.engine, self.ema, copy=copy)
        shared = SharedState(
            train_state=state.to_json(),
            loader=LoaderState(**self.loader.state_dict(state.step)),
            zero_stage=self.engine.zero_optimization_stage(),
            engine=shared_state(self.engine, self.ema),
            config=self.config,
            classes=self.classes,
            interim=interim,
        )
        counted = {"averages": self.averages.state_dict(), "seen_samples": self.loader.bad_samples.state_dict()}
        self.store.save(state.step, tensors, index.model_copy(update=counted), shared)

    def save_now(self, state: TrainState, *, interim: bool = False) -> None:
        """Save and wait until the checkpoint is committed; ``interim`` as of ``save``.

        Raises:
            UserError: it could not be saved. Every process knows, so that none waits for another.
        """
        self.save(state, copy=False, interim=interim)
        self.store.wait()
        problems = [problem for problem in distributed.gather_objects(self.store.take_problem()) if problem]
        if problems:
            raise UserError(f"{problems[0]}; {_advice(problems[0])} and start the same command again")


def _advice(problem: str) -> str:
    """What helps against a failed save; the problem may be another process's, of which only the text is known."""
    no_space = any(os.strerror(number) in problem for number in NO_SPACE_ERRORS)
    return space_remedy(problem) if no_space else "make the folder writable"
