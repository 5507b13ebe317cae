"""The records of a run at its resume: what comes after the checkpoint is forgotten, and what is not there any more is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sar_dist.checkpoint import CheckpointReader
from sar_dist.config import Duration
from sar_dist.observe import RunLogger, last_step
from sar_dist.output import warn
from sar_dist.training.length import RunLength
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.state import TrainState


class _Log(BaseModel):
    every: Duration


def continue_records(
    directory: RunDirectory,
    logger: RunLogger,
    config: Mapping[str, Any],
    saved: CheckpointReader | None,
    state: TrainState,
    length: RunLength,
) -> None:
    """Start ``logger`` behind what the checkpoint ``saved``, if any, is the end of. Call on the main process.

    Raises:
        UserError: a destination does not start.
    """
    directory.forget_bad_images(state.step)
    if saved is not None and saved.folder.parent == directory.checkpoints:  # else it is another run's
        done = state.step if state.settled else state.step - 1
        missing = missing_records(directory.metrics, done, saved.manifest.config or config, length)
        if missing is not None:
            warn(f"warning: {missing}; training goes on, and its curves have a gap")
    logger.start(config, -1 if saved is None else state.step, settled=state.settled)


def missing_records(metrics: Path, done: int, config: Mapping[str, Any], length: RunLength) -> str | None:
    """What metrics.jsonl lacks of the first ``done`` steps at its end, None for nothing.

    Args:
        metrics: the file.
        done: steps whose entries have been written.
        config: with which that was.
        length: of the run.
    """
    try:
        every = length.steps(_Log.model_validate(config.get("log")).every)
    except ValidationError:  # of an older version
        return None
    expected, found = done // every * every, last_step(metrics)
    if found is None and expected > 0:
        return (
            f"{metrics} {'holds no records' if metrics.exists() else 'is not there'}: those up to step {done} are lost"
        )
    if found is not None and found < expected:
        return f"{metrics} ends at step {found}: its records from there to step {done} are lost"
    return None
