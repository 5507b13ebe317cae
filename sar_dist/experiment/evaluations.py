"""Whether an evaluation of a run is done, and is the one that the specification asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sar_dist.config import apply_overrides
from sar_dist.errors import UserError
from sar_dist.experiment.runs import evaluation_folder, run_folder
from sar_dist.experiment.specification import Evaluation
from sar_dist.output import warn
from sar_dist.places import DATA_VARIABLE, find_data
from sar_dist.transfer import Result, find_task, read_result

_HOW_IT_IS_RUN = ("workers",)  # and not what it finds


def evaluation_result(out: Path, run: str, evaluation: Evaluation, seed: int) -> Result | None:
    """The result of an evaluation of a run, None where there is none that is newer than the run.

    Args:
        out: folder of the experiment.
        run: name of the run.
        evaluation: what is asked for.
        seed: of the run.

    Raises:
        UserError: the file is damaged, or its task, settings or data are others than those asked for, as after a change of the
            specification.
    """
    trained = (run_folder(out, run) / "summary.json").stat().st_mtime
    folder = evaluation_folder(out, run, evaluation)
    # The tool names a folder after task, variant and data below the one that it is given.
    for file in sorted(folder.glob("*/result.json")):
        if file.stat().st_mtime >= trained:
            result = read_result(file)
            _check_asked_for(result, evaluation, seed, folder)
            return result
    return None


def overrides_of(evaluation: Evaluation, seed: int) -> list[str]:
    """The settings of an evaluation as the tool's command line takes them: with the run's seed, unless they set one."""
    return [f"{key}={json.dumps(value)}" for key, value in {"seed": seed, **evaluation.settings}.items()]


def _check_asked_for(result: Result, evaluation: Evaluation, seed: int, folder: Path) -> None:
    place = find_data(evaluation.data)
    data = Path(evaluation.data).name if place is None else place.resolve().name
    if place is None and data != result.data.name:  # a link may lead to a folder of another name, where the data are
        warn(
            f"{folder} was made with data={result.data.name}, and whether that is {evaluation.data} cannot be told here, where it is not; "
            f"${DATA_VARIABLE} names the folder of all data"
        )
        data = result.data.name
    asked = {"task": evaluation.task, "data": data, **_settings(evaluation, seed)}
    found = {"task": result.task, "data": result.data.name, **result.settings}
    for key, value in asked.items():
        # Results of earlier versions lack newer settings.
        if key not in _HOW_IT_IS_RUN and found.get(key, value) != value:
            raise UserError(
                f"{folder} was made with {key}={found[key]}, the experiment says {value}; remove that folder to evaluate anew, or "
                "give another --out"
            )


def _settings(evaluation: Evaluation, seed: int) -> Mapping[str, Any]:
    try:
        settings = find_task(evaluation.task).settings_type
    except UserError:  # of a module that is not here: only the given ones are known
        return evaluation.settings
    asked: Mapping[str, Any] = apply_overrides(settings, overrides_of(evaluation, seed)).model_dump(mode="json")
    return asked
