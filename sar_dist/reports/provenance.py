"""Where the runs of a report come from: software and machine, all settings, and the commands to repeat them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sar_dist.reports.rendering import TextTable
from sar_dist.reports.runs import ReportedRun
from sar_dist.setting_trees import leaves

_OF_A_LAUNCHER = "--local_rank"
_OF_ONE_RUN = ("run.name", "run.dir")
_MARKED = "Rows in which the runs differ are marked with ≠."


def environment_table(runs: Sequence[ReportedRun]) -> TextTable | None:
    """Machine and software of the last start of each run; None where no run recorded them."""
    columns = [_environment(run) for run in runs]
    return _compared("Environment", runs, columns) if any(columns) else None


def settings_table(runs: Sequence[ReportedRun]) -> TextTable:
    """Every setting of every run."""
    columns = [{key: json.dumps(value) for key, value in leaves(run.config)} for run in runs]
    return _compared("All settings", runs, columns)


def commands(runs: Sequence[ReportedRun]) -> list[tuple[str, list[str]]]:
    """Name of each run, and the commands of its training and of its evaluations as they were started."""
    found = [(run.name, [*_training_command(run), *_evaluation_commands(run)]) for run in runs]
    return [(name, lines) for name, lines in found if lines]


def _environment(run: ReportedRun) -> dict[str, str]:
    environment = run.environment
    if not environment:
        return {}
    commit = str(environment.get("git_commit") or "not recorded")[:12]
    return {
        "directory": str(run.path),
        "started": str(environment.get("started", "not recorded")),
        "processes and device": f"{environment.get('world_size')} x {environment.get('device')}",
        "host": str(environment.get("host", "not recorded")),
        "commit": commit + (" with local changes" if environment.get("git_changes") else ""),
        "python": str(environment.get("python", "not recorded")),
        **{name: str(version) for name, version in environment.get("packages", {}).items()},
    }


def _compared(title: str, runs: Sequence[ReportedRun], columns: Sequence[Mapping[str, str]]) -> TextTable:
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [[key, *(column.get(key, "–") for column in columns)] for key in keys]
    free = (*_OF_ONE_RUN, "directory", "started")
    differing = {number for number, row in enumerate(rows) if len(set(row[1:])) > 1 and row[0] not in free}
    return TextTable(title, ["", *(run.name for run in runs)], rows, _MARKED if len(runs) > 1 else "", differing)


def _training_command(run: ReportedRun) -> list[str]:
    argv = run.environment.get("command")
    if not argv:
        return []
    given = [argument for argument in argv if not argument.startswith(_OF_A_LAUNCHER)]
    return [shlex.join(["deepspeed", "--num_accelerators", str(run.environment.get("world_size", 1)), *given])]


def _evaluation_commands(run: ReportedRun) -> list[str]:
    started: list[list[Any]] = [result.environment.get("command") or [] for result in run.transfer.values()]
    return [shlex.join(["python", *map(str, argv)]) for argv in started if argv]
