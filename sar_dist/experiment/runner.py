"""Runs an experiment: every run through the real tools, in processes of their own, resumable.

OUT/configs/ARM_seedN.json     the full configuration of a run
OUT/runs/ARM_seedN/            its run directory, the same as any other
OUT/evaluations/ARM_seedN/     what tools/transfer_eval.py wrote, a folder for each evaluation
OUT/logs/                      what the tools printed
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from sar_dist.config import RunConfig, load_config
from sar_dist.errors import UserError
from sar_dist.experiment.specification import Evaluation, Experiment
from sar_dist.places import DATA_VARIABLE, find_data, looked_for
from sar_dist.setting_trees import differences, is_below

REPOSITORY = Path(__file__).parents[2]
# What makes a finished run the one that is asked for. Where its files lie and how fast it was computed does not.
_IDENTITY_KEYS = ("model", "regularizer", "augment", "optim", "terms", "engine.precision")


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    Attributes:
        out: folder of the experiment.
        jobs: runs at the same time; the processor's cores are divided among them.
        launcher: what starts the training tool, such as "deepspeed --num_gpus 8"; by default this Python.
        tools: folder of train.py and transfer_eval.py.
    """

    out: Path
    jobs: int = 1
    launcher: str = ""
    tools: Path = REPOSITORY / "tools"


@dataclass(frozen=True)
class Job:
    """One program to run: what it is called, its command, and how one sees that it is done."""

    name: str
    command: Sequence[str]
    log: Path
    is_done: Callable[[], bool]


@dataclass
class Processes:
    """The programs that are running now, so that they can be told to stop."""

    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: bool = False

    def start(self, job: Job, threads: int) -> subprocess.Popen[bytes] | None:
        """Start a program that writes to its log; None when everything is being stopped."""
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        with self.lock, job.log.open("ab") as log:
            if self.stopping:
                return None
            # A session of its own: Ctrl-C reaches it through ``stop`` alone, once.
            process = subprocess.Popen(
                job.command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            self.running.add(process)
            return process

    def stop(self) -> None:
        """Start nothing more, ask what is running to save and stop."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)


def train(
    experiment: Experiment, arms: Sequence[str], seeds: Sequence[int], options: RunOptions, say: Callable[[str], None]
) -> None:
    """Train every selected run that is not finished, seed by seed, so that comparisons are complete early.

    Raises:
        UserError: a run in ``options.out`` has another configuration, or a program failed; its log is named.
    """
    chosen_arms, chosen_seeds = experiment.select(arms, seeds)
    jobs = [
        _training(experiment.run_config(arm, seed, options.out / "runs"), options)
        for seed in chosen_seeds
        for arm in chosen_arms
    ]
    run_jobs(jobs, options.jobs, say)


def _training(config: RunConfig, options: RunOptions) -> Job:
    run = options.out / "runs" / config.run.name
    if (run / "config.json").is_file():
        _check_same(load_config(run / "config.json"), config, run)
    file = options.out / "configs" / f"{config.run.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config.model_dump_json(indent=2) + "\n")
    try:
        start = shlex.split(options.launcher) or [sys.executable]
    except ValueError as error:
        raise UserError(f"--launcher {options.launcher!r} cannot be read as a command: {error}") from error
    command = [*start, str(options.tools / "train.py"), "--config", str(file)]
    return Job(config.run.name, command, options.out / "logs" / f"{config.run.name}.log", lambda: is_finished(run))


def _check_same(old: RunConfig, new: RunConfig, run: Path) -> None:
    for key, (before, after) in differences(old.model_dump(), new.model_dump()).items():
        if is_below(key, _IDENTITY_KEYS):
            raise UserError(
                f"{run} was made with {key}={before}, the experiment says {after}; "
                "remove that run, or give another --out"
            )


def evaluate(
    experiment: Experiment, arms: Sequence[str], seeds: Sequence[int], options: RunOptions, say: Callable[[str], None]
) -> None:
    """Run every evaluation of every selected run that is trained and not evaluated yet.

    An evaluation gets the run's seed, unless the specification sets one.

    Raises:
        UserError: data are missing, or a program failed; its log is named.
    """
    chosen_arms, chosen_seeds = experiment.select(arms, seeds)
    data = check_evaluation_data(experiment)
    runs = [(experiment.run_name(arm, seed), seed) for seed in chosen_seeds for arm in chosen_arms]
    jobs = [
        _evaluation(name, seed, evaluation, data[evaluation.name], options)
        for name, seed in runs
        if is_finished(options.out / "runs" / name)
        for evaluation in experiment.evaluations
    ]
    run_jobs(jobs, options.jobs, say)


def check_evaluation_data(experiment: Experiment) -> dict[str, Path]:
    """Where the data of each evaluation lie, by its name. Raises UserError if they are nowhere."""
    found = {}
    for evaluation in experiment.evaluations:
        place = find_data(evaluation.data)
        if place is None:
            raise UserError(
                f"no data for the evaluation {evaluation.name}: there is no {looked_for(evaluation.data)}; the "
                f"experiment's file says how to make them; ${DATA_VARIABLE} names the folder of all data"
            )
        found[evaluation.name] = place
    return found


def _evaluation(run: str, seed: int, evaluation: Evaluation, data: Path, options: RunOptions) -> Job:
    settings = {"seed": seed, **evaluation.settings}
    command = [
        *(sys.executable, str(options.tools / "transfer_eval.py")),
        *("--task", evaluation.task, "--model", str(options.out / "runs" / run), "--data", str(data)),
        *("--out", str(_evaluation_folder(options.out, run, evaluation))),
        *(f"{key}={json.dumps(value)}" for key, value in settings.items()),
    ]
    name = f"{run}_{evaluation.name}"
    return Job(
        name,
        command,
        options.out / "logs" / f"{name}.log",
        lambda: evaluation_result(options.out, run, evaluation) is not None,
    )


def _evaluation_folder(out: Path, run: str, evaluation: Evaluation) -> Path:
    return out / "evaluations" / run / evaluation.name


def evaluation_result(out: Path, run: str, evaluation: Evaluation) -> Path | None:
    """The result file of an evaluation of a run, None where there is none that is newer than the run."""
    trained = (out / "runs" / run / "summary.json").stat().st_mtime
    # The tool names a folder after task, variant and data below the one that it is given.
    files = sorted(_evaluation_folder(out, run, evaluation).glob("*/result.json"))
    return next((file for file in files if file.stat().st_mtime >= trained), None)


def is_finished(run: Path) -> bool:
    """Whether a run directory holds a run that was trained to its end (or to its ``run.max_steps``)."""
    try:
        summary = json.loads((run / "summary.json").read_text())
        limit = json.loads((run / "config.json").read_text())["run"]["max_steps"]
    except (OSError, ValueError):
        return False
    return bool(summary["step"] >= min(summary["total_steps"], limit or math.inf))


def run_jobs(jobs: Sequence[Job], at_once: int, say: Callable[[str], None]) -> None:
    """Run the jobs that are not done, ``at_once`` at the same time, in order.

    After a failure the others that are running come to their end, no new one is started. SIGINT and SIGTERM stop all of
    them, with everything saved.

    Raises:
        UserError: a program failed, or was stopped before its end.
    """
    waiting = [job for job in jobs if not job.is_done()]
    say(f"{len(jobs) - len(waiting)} of {len(jobs)} done already")
    processes, failures = Processes(), list[str]()
    threads = max(1, (os.cpu_count() or 1) // at_once)
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    pool = ThreadPoolExecutor(at_once)
    try:
        futures = [pool.submit(_run, job, processes, threads, failures, say) for job in waiting]
        for future in as_completed(futures):
            future.result()
    except KeyboardInterrupt:
        say("stopping: what is running saves its state; the same command goes on from there")
        processes.stop()
        raise
    finally:
        pool.shutdown(wait=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise UserError(failures[0])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(job: Job, processes: Processes, threads: int, failures: list[str], say: Callable[[str], None]) -> None:
    if failures:
        return
    job.log.parent.mkdir(parents=True, exist_ok=True)
    try:
        process = processes.start(job, threads)
    except OSError as error:
        failures.append(f"{job.name}: cannot start {job.command[0]}: {error.strerror}")
        return
    if process is None:
        return
    say(f"{job.name}: started, log in {job.log}")
    status = process.wait()
    with processes.lock:
        processes.running.discard(process)
    if job.is_done():
        say(f"{job.name}: done")
    elif not processes.stopping:
        failures.append(f"{job.name} ended with status {status} before its end: {last_line(job.log)} (see {job.log})")


def last_line(log: Path) -> str:
    """The last words of a program: its error line where there is one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it printed nothing"])[-1]
