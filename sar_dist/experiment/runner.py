"""Runs an experiment: every run through the real tools, in processes of their own, resumable."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sar_dist.config import RunConfig, apply_overrides, load_config, locate_all_data
from sar_dist.errors import UserError, text_of
from sar_dist.experiment.evaluations import evaluation_result, overrides_of
from sar_dist.experiment.jobs import Job, run_jobs
from sar_dist.experiment.records import RunRecord, read_record, record_file
from sar_dist.experiment.results import PARTIAL, compared
from sar_dist.experiment.runs import check_same, check_same_run, evaluation_folder, is_finished, run_folder
from sar_dist.experiment.specification import Arm, Evaluation, Experiment
from sar_dist.observe import QUANTITIES
from sar_dist.places import DATA_VARIABLE, find_data, looked_for
from sar_dist.quantities import with_unknown_terms
from sar_dist.terms import term_class
from sar_dist.transfer import find_task
from sar_dist.validation import one_line

REPOSITORY = Path(__file__).parents[2]
_ELSEWHERE = ("srun", "mpirun", "mpiexec", "ssh")  # what starts a training where other data may lie


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    Attributes:
        out: folder of the experiment.
        jobs: runs at the same time; the processor's cores are divided among them.
        launcher: what starts the training tool, such as "deepspeed --num_gpus 8"; by default this Python.
        tools: folder of train.py and transfer_eval.py.
        records: folder of records of finished runs, which count as finished here; None for none.
        deadline: time of ``time.monotonic`` at which what is running saves its state and stops; None for none.
    """

    out: Path
    jobs: int = 1
    launcher: str = ""
    tools: Path = REPOSITORY / "tools"
    records: Path | None = None
    deadline: float | None = None


def train(
    experiment: Experiment, arms: Sequence[str], seeds: Sequence[int], options: RunOptions, say: Callable[[str], None]
) -> bool:
    """Train every selected run that is not finished, seed by seed, so that comparisons are complete early.

    Returns:
        whether all of them are finished; False when the deadline came first.

    Raises:
        UserError: a run in ``options.out`` has another configuration, data of a run are nowhere, or a program failed; its log is named.
    """
    runs = experiment.runs(arms, seeds)
    wanted = [(arm, seed) for arm, seed in runs if _recorded(experiment, arm, seed, options) is None]
    if len(wanted) < len(runs):
        say(f"{len(runs) - len(wanted)} of {len(runs)} runs are in {options.records}")
    jobs = [_training(experiment.run_config(arm, seed, options.out / "runs"), options) for arm, seed in wanted]
    return run_jobs(jobs, options.jobs, say, options.deadline)


def _recorded(experiment: Experiment, arm: Arm, seed: int, options: RunOptions) -> RunRecord | None:
    """The record of a run that need not be trained here. Raises UserError if it has another configuration."""
    if options.records is None:
        return None
    record = read_record(options.records, experiment, arm, seed)
    if record is not None:
        file = record_file(options.records, arm.name, seed)
        config = experiment.run_config(arm, seed, options.out / "runs")
        with one_line(f"{file} has a recipe of another version", RunConfig):
            old = RunConfig.model_validate(
                {"run": {"name": config.run.name}, **record.recipe}
            )  # with newer keys' defaults
        check_same(old.model_dump(), config.model_dump(), file)
    return record


def _training(config: RunConfig, options: RunOptions) -> Job:
    try:
        start = shlex.split(options.launcher) or [sys.executable]
    except ValueError as error:
        raise UserError(f"--launcher {options.launcher!r} cannot be read as a command: {error}") from error
    run = run_folder(options.out, config.run.name)
    if (run / "config.json").is_file():
        check_same_run(load_config(run / "config.json").model_dump(), config.model_dump(), run)
    if not is_finished(run) and Path(start[0]).name not in _ELSEWHERE:
        try:
            locate_all_data(config)  # of the last run too, before the first one takes hours
        except UserError as error:
            raise UserError(f"{config.run.name}: {text_of(error)}") from error
    file = options.out / "configs" / f"{config.run.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config.model_dump_json(indent=2) + "\n")
    command = [*start, str(options.tools / "train.py"), "--config", str(file)]
    return Job(config.run.name, command, options.out / "logs" / f"{config.run.name}.log", lambda: is_finished(run))


def evaluate(
    experiment: Experiment, arms: Sequence[str], seeds: Sequence[int], options: RunOptions, say: Callable[[str], None]
) -> bool:
    """Run every evaluation of every selected run that is trained and not evaluated yet.

    An evaluation gets the run's seed, unless the specification sets one.

    Returns:
        whether all of them are done; False when the deadline came first.

    Raises:
        UserError: data are missing, or a program failed; its log is named.
    """
    data = check_evaluation_data(experiment)
    runs = [
        (experiment.run_name(arm, seed), seed)
        for arm, seed in experiment.runs(arms, seeds)
        if _recorded(experiment, arm, seed, options) is None
    ]
    jobs = [
        _evaluation(name, seed, evaluation, data[evaluation.name], options)
        for name, seed in runs
        if is_finished(run_folder(options.out, name))
        for evaluation in experiment.evaluations
    ]
    return run_jobs(jobs, options.jobs, say, options.deadline)


def check_programs(experiment: Experiment, arms: Sequence[str] = (), *, evaluations: bool) -> None:
    """Find out before hours of training whether every task, its settings, every term of the loss and every measure exist.

    Args:
        experiment: what is about to be run.
        arms: names of those that are; none: all but the optional ones.
        evaluations: whether its evaluations are.

    Raises:
        UserError: one does not; the message names the arm or the evaluation.
    """
    logged = []
    for arm in experiment.select(arms)[0]:
        for term in experiment.base.vary(arm.changes).terms:
            try:
                logged.append(f"loss_{term_class(term['name']).name}")
            except UserError as error:
                raise UserError(f"arm {arm.name}: {text_of(error)}") from error
    _check_measures(experiment, logged)
    for evaluation in experiment.evaluations if evaluations else ():
        try:
            apply_overrides(find_task(evaluation.task).settings_type, overrides_of(evaluation, 0))
        except UserError as error:
            raise UserError(f"evaluation {evaluation.name}: {text_of(error)}") from error


def _check_measures(experiment: Experiment, logged: Sequence[str]) -> None:
    """Raises UserError if an analysis measures something of which no table will have a row; ``logged`` are its terms' losses."""
    rows = dict.fromkeys(quantity.title for quantity in compared(with_unknown_terms(QUANTITIES, logged)))
    shown = {evaluation.name: _shown_metrics(evaluation) for evaluation in experiment.evaluations}
    for measure in (each for analysis in experiment.analysis for each in analysis.primary):
        evaluation, _, metric = measure.metric.removesuffix(PARTIAL).partition(": ")
        known = metric and evaluation in shown and metric in (shown[evaluation] or (metric,))
        if measure.metric not in rows and not known:
            named = [f"{name}: {each}" for name, metrics in shown.items() for each in metrics or ("METRIC",)]
            more = " (of others an evaluation has, its `metrics` say which are shown)" if evaluation in shown else ""
            raise UserError(
                f"the analysis measures {measure.metric!r}, of which the tables will have no row; they have "
                f"{'; '.join([*rows, *named])}{more}"
            )


def _shown_metrics(evaluation: Evaluation) -> tuple[str, ...]:
    """Those of which the tables have a row; none where only the end of an evaluation says what its primary metric is."""
    if evaluation.metrics:
        return evaluation.metrics
    try:
        primary = find_task(evaluation.task).primary
    except UserError:  # which is said where evaluations are run
        return ()
    return () if primary is None else (primary,)


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
    command = [
        *(sys.executable, str(options.tools / "transfer_eval.py")),
        *("--task", evaluation.task, "--model", str(run_folder(options.out, run)), "--data", str(data)),
        *("--out", str(evaluation_folder(options.out, run, evaluation))),
        *overrides_of(evaluation, seed),
    ]
    name = f"{run}_{evaluation.name}"
    return Job(
        name,
        command,
        options.out / "logs" / f"{name}.log",
        lambda: evaluation_result(options.out, run, evaluation, seed) is not None,
    )
