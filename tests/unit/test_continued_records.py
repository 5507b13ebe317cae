"""A resume says once which records are not there any more, and goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import ROOT
from written_records import append_record

from sar_dist.config import load_config
from sar_dist.training.length import RunLength
from sar_dist.training.records import continue_records, missing_records
from sar_dist.training.state import TrainState

LENGTH = RunLength(load_config(ROOT / "configs" / "demo.py"), steps_per_epoch=10)
EVERY_TWENTY = {"log": {"every": "20st", "to": []}}


def write_steps(path: Path, *steps: int) -> None:
    path.touch()
    for step in steps:
        append_record(path, step, "train", 1.0, {"loss": 1.0})


@pytest.mark.parametrize(
    ("steps", "done", "missing"),
    [
        ((20, 40), 55, None),
        ((20, 40), 40, None),
        ((20, 40), 60, "ends at step 40: its records from there to step 60 are lost"),
        ((20, 40, 80), 60, None),  # it is about to be cut back
        ((), 45, "holds no records: those up to step 45 are lost"),
        (None, 45, "is not there: those up to step 45 are lost"),
        (None, 19, None),
    ],
)
def test_lost_records_are_those_of_a_step_that_had_some(
    steps: tuple[int, ...] | None, done: int, missing: str | None, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    if steps is not None:
        write_steps(metrics, *steps)
    assert missing_records(metrics, done, EVERY_TWENTY, LENGTH) == (missing and f"{metrics} {missing}")


def test_checkpoint_of_an_older_version_proves_no_loss(tmp_path: Path) -> None:
    assert missing_records(tmp_path / "metrics.jsonl", 60, {"log": {}}, LENGTH) is None


@pytest.mark.parametrize(("own", "settled", "lines"), [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_a_resume_says_it_once_and_goes_on(
    own: bool, settled: bool, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A branch begins with no records; a step in the middle of which training stopped may have none yet."""
    checkpoints, started = tmp_path / "checkpoints", []
    forgotten: list[int] = []
    directory: Any = SimpleNamespace(
        checkpoints=checkpoints, metrics=tmp_path / "metrics.jsonl", forget_bad_images=forgotten.append
    )
    logger: Any = SimpleNamespace(start=lambda config, step, settled: started.append((step, settled)))
    folder = (checkpoints if own else tmp_path / "other") / "step_00000020"
    saved: Any = SimpleNamespace(folder=folder, manifest=SimpleNamespace(config=EVERY_TWENTY))
    state = TrainState(step=20, settled=settled)
    continue_records(directory, logger, EVERY_TWENTY, saved, state, LENGTH)
    assert (forgotten, started) == ([20], [(20, settled)])
    said = f"warning: {directory.metrics} is not there: those up to step 20 are lost; training goes on, and its curves have a gap"
    assert capsys.readouterr().err.splitlines() == [said] * lines
