"""Where a run begins: at its own newest checkpoint, in another run (``run.branch_from``), or with nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from sar_dist import distributed
from sar_dist.checkpoint import MANIFEST, CheckpointReader, CheckpointStore, DamagedCheckpoint
from sar_dist.config import RunConfig
from sar_dist.data import TrainLoader, ValidationLoader
from sar_dist.engine import learning_rate_factor
from sar_dist.errors import UserError
from sar_dist.models import open_run
from sar_dist.training.continued_data import check_class_numbers, go_on_with_validation_set
from sar_dist.training.guards import check_rollbacks
from sar_dist.training.length import RunLength
from sar_dist.training.run_directory import changes
from sar_dist.training.state import TrainState
from sar_dist.validation import one_line

# What a branch may have of its own: how long it is, and how its learning rate ends.
_FREE_KEYS = ("optim.epochs", "optim.schedule", "optim.cooldown_epochs", "optim.cooldown", "optim.min_lr")


def starting_point(
    config: RunConfig,
    store: CheckpointStore,
    length: RunLength,
    train_loader: TrainLoader,
    val_loader: ValidationLoader,
    classes: Sequence[str] | None,
) -> tuple[CheckpointReader | None, TrainState]:
    """The checkpoint that the run goes on from, None for none, and its progress. Sets the training data to that place.

    Raises:
        UserError: the training data or their order are others than when it was saved, or the numbers of the ``classes``; it has
            finished with another validation set; the run has needed too many rollbacks; or it cannot branch there.
    """
    newest = store.newest()
    # One process's word: what they make of it must not differ.
    validation_set = distributed.main_first(lambda: val_loader.fingerprint)
    if newest is not None:
        state = resumed_state(newest, train_loader)
        check_class_numbers(newest.manifest.classes, classes)
        check_rollbacks(config.guard, state)
        finished = state.settled and state.step >= length.last_step
        go_on_with_validation_set(state, validation_set, finished=finished)
        if state.best_step is not None:
            store.protect(state.best_step)
        store.tidy()
        return newest, state
    if config.run.branch_from is None:
        return None, TrainState(validation_set=validation_set)
    branch = _branch_point(config, length)
    state = resumed_state(branch, train_loader)
    check_class_numbers(branch.manifest.classes, classes)
    state.validation_set = validation_set
    state.best_top1 = state.best_step = None  # that checkpoint is the other run's
    state.guard.rollbacks = 0  # guard.max_rollbacks is each run's own
    return branch, state


def resumed_state(saved: CheckpointReader, train_loader: TrainLoader) -> TrainState:
    """Progress of a checkpoint; the training data go on from its place.

    Raises:
        UserError: the training data or their order are others than when it was saved; or it holds weights alone.
    """
    progress, loader = saved.manifest.train_state, saved.manifest.loader
    if progress is None or loader is None:
        raise UserError(
            f"{saved.folder} holds weights, but not how far a run had come; choose another run.name, and "
            f"model.init_from={saved.folder.parents[1]} to start from its weights"
        )
    file = saved.folder / MANIFEST
    with one_line(f"{file}: train_state", error_type=DamagedCheckpoint):
        state = TypeAdapter(TrainState).validate_python(progress)
    if state.step != saved.step:
        raise DamagedCheckpoint(f"{file}: train_state: step={state.step}, but the checkpoint is of step {saved.step}")
    mine = saved.indices_for(distributed.rank(), distributed.world_size())
    try:
        train_loader.load_state_dict(loader.model_dump(), [each.seen_samples for each in mine if each.seen_samples])
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{file}: loader.fingerprint describes no training data: {error!r}") from error
    return state


def _branch_point(config: RunConfig, length: RunLength) -> CheckpointReader:
    """The checkpoint that ``run.branch_from`` names, if the learning rate goes on there as it was."""
    path = config.run.branch_from
    assert path is not None
    where = f"run.branch_from={path}"
    try:
        trunk, reader = open_run(Path(path))
    except UserError as error:
        raise UserError(f"run.branch_from: {error}") from error
    if changed := changes(trunk, config, _FREE_KEYS):
        raise UserError(
            f"{where} was trained with {'; '.join(changed)}; a branch differs in {', '.join(_FREE_KEYS)} only"
        )
    step, per_epoch = reader.step, length.steps_per_epoch
    before, after = (
        one.optim.peak_lr * learning_rate_factor(step, one.optim, steps_per_epoch=per_epoch) for one in (trunk, config)
    )
    if step >= length.total or not math.isclose(before, after, rel_tol=1e-9):
        epochs = step / per_epoch + config.optim.descent_epochs
        raise UserError(
            f"{where}: the learning rate would jump from {before:g} to {after:g} after step {step} of {length.total}; to begin "
            f"a cooldown of {config.optim.descent_epochs:g} epochs there, set optim.schedule=warmup_stable_decay "
            f"optim.cooldown_epochs={config.optim.descent_epochs:g} optim.epochs={epochs:.10g}"
        )
    return reader
