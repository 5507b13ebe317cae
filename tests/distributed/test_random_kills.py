"""A killer at work: a run is shot at random times in random ways until it is done, and nobody can tell afterwards.

SAR_DIST_KILLS=1000 SAR_DIST_SEED=7 python -m pytest -m long -s tests/distributed/test_random_kills.py
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from random_kills import RandomKiller
from run_results import differences, run_results
from support import run_processes

KILLS = int(os.environ.get("SAR_DIST_KILLS", "120"))  # over all of the runs below
SEED = int(os.environ.get("SAR_DIST_SEED", "0"))
RUNS = ((1, 1), (2, 1), (2, 2), (2, 3), (4, 1), (4, 3))  # processes, ZeRO stage


@pytest.mark.long
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize(("ranks", "stage"), RUNS)
def test_random_kills_leave_no_trace(ranks: int, stage: int, small_config: Path) -> None:
    runs = small_config.parent.parent / "runs"
    training = [f"--config={small_config}", f"engine.zero_stage={stage}", "run.max_steps=14", "optim.ema=0.9"]
    training += ["checkpoint.every=2", "validation.every=5", "data.workers=1", "model.drop_path=0.1"]
    training += [f"engine.micro_batch={16 // max(ranks, 2)}"]
    began = time.monotonic()
    run_processes(ranks, "tools/train.py", *training, "run.name=unbroken")
    expected = run_results(runs / "unbroken")
    seconds = time.monotonic() - began

    killer = RandomKiller(
        ranks, [*training, "run.name=killed"], seconds, 100 * SEED + 10 * ranks + stage, launchers=ranks > 1
    )
    finished = 0
    while killer.kills.total() < KILLS // len(RUNS):
        if killer.round():
            finished += 1
            assert differences(run_results(runs / "killed"), expected) == [], killer.kills
            shutil.rmtree(runs / "killed")
    run_processes(ranks, "tools/train.py", *training, "run.name=killed")
    assert differences(run_results(runs / "killed"), expected) == [], killer.kills
    print(
        f"\n{ranks} processes, ZeRO {stage}: {dict(killer.kills)}, {finished + 1} runs, ended {killer.slowest:.0f} s after at most"
    )
