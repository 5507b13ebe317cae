"""Part "resume": a training is killed with SIGKILL, and started again."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.gpu_check.processes import Finished
from benchmarks.gpu_check.report import Grid, Report
from benchmarks.gpu_check.run import CannotGoOn, Workplace

TOLERANCE = {"cuda": 1e-2, "cpu": 0.0}  # of a loss that both starts computed, relative
_LOOK_SECONDS = 0.05


def kill_and_resume(place: Workplace, report: Report) -> None:
    """Kill the demo after a checkpoint; the second start must repeat the steps that the first lost, and finish."""
    every, steps, batch = (20, 200, 64) if place.on_gpu else (2, 10, 16)
    shards, runs = place.demo_shards(), place.folder / "runs" / f"resume_{time.time_ns()}"
    settings = {
        "run.name": "killed",
        "run.dir": runs,
        "run.max_steps": steps,
        "data.train": shards / "train",
        "data.val": shards / "val",
        "optim.epochs": 50,
        "optim.global_batch": batch,
        "engine.micro_batch": batch,
        "checkpoint.every": every,
        "validation.every": steps,
        "log.every": 1,
        "log.figure_images": 0,
    }
    command = ["tools/train.py", "--config=configs/demo.py", *(f"{key}={value}" for key, value in settings.items())]
    run = runs / "killed"
    first = place.start("resume_killed", command)
    killed_after = 0
    while first.is_running and place.remaining() > 0:
        losses = read_losses(run)
        killed_after = max(losses, default=0)
        if killed_after > every + 1 and newest_checkpoint(run) > 0:
            break
        time.sleep(_LOOK_SECONDS)
    ended_alone = not first.is_running
    first.kill()
    if ended_alone or killed_after <= every:
        ended = Finished(0, 0.0, not ended_alone, place.folder / "logs" / "resume_killed.log")
        raise CannotGoOn(f"the training could not be killed in the middle: {ended.problem()}")
    before, from_step = read_losses(run), newest_checkpoint(run)
    begin = time.monotonic()
    second = place.run("resume_resumed", command)
    if not second.succeeded:
        raise CannotGoOn(f"the second start: {second.problem()}")
    _judge(place, report, before, read_losses(run), from_step, steps)
    report.data["second_start_seconds"] = time.monotonic() - begin


def _judge(
    place: Workplace, report: Report, before: dict[int, float], after: dict[int, float], from_step: int, steps: int
) -> None:
    """Compare the losses of both starts."""
    lost = [step for step in sorted(before) if step > from_step]
    missing = [step for step in range(1, steps + 1) if step not in after]
    if missing:
        report.fail(f"steps {missing[0]} to {missing[-1]} are missing in the log of the resumed run")
    repeated = {step: abs(after[step] - before[step]) / abs(before[step]) for step in lost if step in after}
    largest = max(repeated.values(), default=0.0)
    if largest > TOLERANCE[place.device]:
        report.fail(f"a repeated step's loss differs by {largest:.2g}; at most {TOLERANCE[place.device]:g} is expected")
    report.data = {
        "killed_after": max(before),
        "resumed_from": from_step,
        "repeated": len(repeated),
        "largest": largest,
    }
    report.grid = Grid(["killed after step", "resumed from", "steps repeated", "their losses differ by at most"])
    report.grid.rows.append([str(max(before)), str(from_step), str(len(repeated)), f"{largest:.2g}"])
    report.summary = (
        f"killed after step {max(before)}, resumed from {from_step}; losses differ by at most {largest:.2g}"
    )


def read_losses(run: Path) -> dict[int, float]:
    """The logged loss of each step; a last line that is being written is left out."""
    try:
        lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return {}
    entries = [json.loads(line) for line in lines]
    return {entry["step"]: entry["loss"] for entry in entries if entry["prefix"] == "train"}


def newest_checkpoint(run: Path) -> int:
    """Step of the newest complete checkpoint; 0 where there is none."""
    folders = (run / "checkpoints").glob("step_*")
    return max((int(folder.name.removeprefix("step_")) for folder in folders), default=0)
