"""One task on one model: what is not given is found, what is done is not done again, what is measured is written."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from sar_dist import distributed, output, places
from sar_dist.checkpoint import MANIFEST
from sar_dist.config import apply_overrides
from sar_dist.devices import select_device
from sar_dist.environment import describe_environment
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, make_folder, read_regular, remove_all_leftovers, write_durably
from sar_dist.lease import Lease, acquire
from sar_dist.observe import drawn_or_said, make_drawable
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.registry import find_task
from sar_dist.transfer.result import (
    RESULT_FILE,
    MeasuredData,
    MeasuredModel,
    Result,
    check_list,
    identity,
    identity_differences,
    list_result,
    read_result,
    write_result,
)
from sar_dist.transfer.task import Drawing, Outcome, TransferJob, TransferSettings, TransferTask

JOB_FILE = "job.json"


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None where it leaves the choice to the defaults."""

    task: str
    model: str | None
    data: Path | None
    out: Path | None
    overrides: list[str]


def evaluate(request: Request) -> Result:
    """Run a task, or read its result where the same evaluation is done already. Call on every process.

    Raises:
        UserError: task, settings, model or data are wrong; found before anything is computed.
    """
    task_type = find_task(request.task)
    settings = apply_overrides(task_type.settings_type, request.overrides)
    data = find_data(task_type, request.data)
    spec = request.model or newest_finished_run()
    label = result_label(task_type, settings, request.data)
    if request.out is None:
        label = "_".join([label, *checkpoint_name(spec)])
    folder = (request.out or default_output(spec)) / label

    rank, local_rank, _ = distributed.read_environment()
    say = _printer(rank, label)
    backbone = Backbone.load(spec, torch.device("cpu"), settings.precision)
    say(f"{backbone.description}, weights {backbone.fingerprint[:12]}")
    begun = identity(
        request.task, settings.model_dump(mode="json"), backbone.fingerprint, {}, spec, backbone.preparation()
    )
    refuse_another(folder, {key: value for key, value in begun.items() if key != "data"})  # data take time to look at
    task = task_type(TransferJob(backbone, data, folder, settings, say))
    prepared = task.prepare()
    fingerprints = dict(prepared.fingerprints)
    backbone.to(select_device(local_rank))  # no GPU is touched before the data were looked at
    distributed.initialize(backbone.device)

    wanted = begun | {"data": fingerprints}
    with claimed_folder(folder, wanted) as done:
        if done:
            say(f"already done: {folder / RESULT_FILE}")
            result = read_result(folder / RESULT_FILE)
            if distributed.is_main():
                with contextlib.suppress(OSError):  # another's folder, which may only be read
                    list_result(result, folder)
            return result
        began = time.monotonic()
        outcome = task.run(prepared)
        seconds = time.monotonic() - began
        result = describe(outcome, request.task, label, backbone, data, settings, fingerprints, seconds)
        if distributed.is_main():
            write_pictures(outcome, folder)
            file = write_result(result, folder)  # the last one: with it the evaluation is done, also after a kill
            say(str(file))
        distributed.barrier()
        return result


def find_data(task: type[TransferTask[Any, Any]], given: Path | None) -> Path:
    """``given``, as it is or below $SAR_DIST_DATA or data/, else the task's folder there. Raises UserError."""
    if given is not None:
        named = places.find_data(given)
        if named is None:
            raise UserError(f"--data {given}: there is no {places.looked_for(given)}; expected {task.data_help}")
        return named
    candidates = places.data_candidates(task.data_folder)
    found = next((place for place in candidates if place.is_dir()), None)
    if found is None:
        raise UserError(
            f"no data for {task.name}: looked for {' and '.join(map(str, candidates))} (--data DIR or ${places.DATA_VARIABLE} say "
            f"where); expected {task.data_help}"
        )
    return found


def newest_finished_run(folder: Path = Path("runs")) -> str:
    """The run below ``runs/`` that was finished last. Raises UserError if none was."""
    finished = sorted(folder.glob("*/summary.json"), key=lambda file: file.stat().st_mtime)
    if not finished:
        raise UserError(f"no finished run in {folder}/; train one, or give --model SPEC")
    return str(finished[-1].parent)


def default_output(spec: str) -> Path:
    """``RUN/transfer`` for a run or one of its checkpoints, else ``runs/transfer/SPEC``."""
    path = Path(spec)
    if path.is_dir():
        return (path.resolve().parents[1] if checkpoint_name(spec) else path) / "transfer"
    return Path("runs") / "transfer" / spec.replace(":", "_").replace("/", "_")


def checkpoint_name(spec: str) -> list[str]:
    """The name of the checkpoint that ``spec`` is the folder of; [] for a whole run and all else.

    It is part of the default folder's name: what ``RUN/transfer/TASK`` holds is the run's own.
    """
    path = Path(spec).resolve()
    return [path.name] if (path / MANIFEST).is_file() else []


def result_label(task: type[TransferTask[Any, Any]], settings: TransferSettings, data: Path | None) -> str:
    """Name of the result's folder: the task, its variant, and the data where they are not the task's usual ones."""
    folder = "" if data is None else data.resolve().name
    parts = [task.name, task.variant(settings), "" if folder == task.data_folder else folder]
    return "_".join(part for part in parts if part)


@contextlib.contextmanager
def claimed_folder(folder: Path, wanted: dict[str, Any]) -> Iterator[bool]:
    """The folder as this evaluation's while the body runs; whether its result is there already. Call on every process.

    Raises:
        UserError: the folder holds another evaluation, or another start works in it.
    """
    lease: Lease | None = None

    def claim() -> bool:
        nonlocal lease
        make_folder(folder)
        if _is_done(folder, wanted):
            return True
        check_list(folder)
        try:
            lease = acquire(folder, "give another --out")
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}") from error
        if _is_done(folder, wanted):  # by a start that has just ended
            return True
        if not (folder / JOB_FILE).exists():
            write_durably(folder / JOB_FILE, json.dumps(wanted, indent=2) + "\n")
        remove_all_leftovers(folder)  # by a start that was killed
        return False

    try:
        yield distributed.main_first(claim)
    finally:
        if lease is not None:
            lease.release()


def refuse_another(folder: Path, wanted: dict[str, Any]) -> None:
    """Raise UserError if a folder is another evaluation's, by as much as ``wanted`` says of this one."""
    file = folder / JOB_FILE
    if not file.exists():
        return
    try:
        found = json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); remove {folder}, or give another --out") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} says of no evaluation what it is; remove {folder}, or give another --out")
    if "data" not in wanted:
        found = {key: value for key, value in found.items() if key != "data"}
    if changed := identity_differences(found, wanted):
        named = {_shown_key(key) for key in changed}
        raise UserError(
            f"{folder} holds an evaluation with another {', '.join(sorted(named))}{_held_model(folder) if 'model' in named else ''}; "
            "give another --out, or remove it"
        )


def _shown_key(key: str) -> str:
    """How a message calls a key of an identity: a setting by its name, others by their group."""
    group, _, name = key.partition(".")
    return name if group in ("settings", "preparation") else group


def _held_model(folder: Path) -> str:
    """Whose evaluation a folder holds, as far as there is a result."""
    with contextlib.suppress(UserError):
        return f" ({read_result(folder / RESULT_FILE).model.description})"
    return ""


def _is_done(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether an evaluation's result is in its folder. Raises UserError if the folder is another evaluation's."""
    refuse_another(folder, wanted)
    return (folder / RESULT_FILE).exists() and not identity_differences(
        read_result(folder / RESULT_FILE).identity(), wanted
    )


def describe(
    outcome: Outcome,
    task: str,
    label: str,
    backbone: Backbone,
    data: Path,
    settings: TransferSettings,
    fingerprints: dict[str, str],
    seconds: float,
) -> Result:
    """The result file's content."""
    return Result(
        task=task,
        label=label,
        primary=outcome.primary,
        metrics=dict(outcome.metrics),
        baselines={name: dict(values) for name, values in outcome.baselines.items()},
        partial=settings.limit is not None,
        model=MeasuredModel(
            spec=backbone.spec,
            description=backbone.description,
            fingerprint=backbone.fingerprint,
            preparation=backbone.preparation(),
        ),
        data=MeasuredData(
            name=data.resolve().name, fingerprints=fingerprints, samples=outcome.samples, skipped=outcome.skipped
        ),
        settings=settings.model_dump(mode="json"),
        protocol={
            "normalisation": backbone.augment.model_dump(mode="json", include={"mean", "std"}),
            **outcome.protocol,
        },
        tables=dict(outcome.tables),
        environment=describe_environment(distributed.world_size(), backbone.device),
        seconds=round(seconds, 1),
    )


def write_pictures(outcome: Outcome, folder: Path) -> None:
    """The numbers and figures for TensorBoard, the figures as PNG files too; what fails of them is said and left out."""
    writer = drawn_or_said(f"{folder / 'tensorboard'}", lambda: _open_tensorboard(outcome, folder / "tensorboard"))
    for name, drawing in outcome.figures.items():
        drawn_or_said(f"{folder / name}.png", partial(_write_picture, drawing, name, folder, writer))
    if writer is not None:
        drawn_or_said(f"{folder / 'tensorboard'}", writer.close)


def _open_tensorboard(outcome: Outcome, folder: Path) -> SummaryWriter:
    writer = SummaryWriter(str(folder))
    for name, value in outcome.metrics.items():
        writer.add_scalar(f"metrics/{name}", value, 0)
    for baseline, values in outcome.baselines.items():
        for name, value in values.items():
            writer.add_scalar(f"baselines/{name}/{baseline}", value, 0)
    return writer


def _write_picture(drawing: Drawing, name: str, folder: Path, writer: SummaryWriter | None) -> None:
    figure = drawing() if callable(drawing) else drawing
    if figure is None:
        return
    make_drawable(figure)
    with atomic_write(folder / f"{name}.png") as file:
        figure.savefig(file, format="png", dpi=100)
    if writer is not None:
        writer.add_figure(name, figure, 0, close=True)


def print_result(result: Result) -> None:
    """The metrics as a table, the primary one first, baselines beside it."""
    title = f"{result.label} of {result.model.description}" + (" (PARTIAL: limit)" if result.partial else "")
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name in result.baselines:
        table.add_column(name, justify="right")
    for metric in sorted(result.metrics, key=lambda name: name != result.primary):
        cells = [values.get(metric) for values in result.baselines.values()]
        table.add_row(
            metric, f"{result.metrics[metric]:.2f}", *("" if cell is None else f"{cell:.2f}" for cell in cells)
        )
    console = Console()
    console.print(title, highlight=False, soft_wrap=True)
    console.print(table)
    skipped = f", {result.data.skipped} of them unreadable (they count as wrong)" if result.data.skipped else ""
    console.print(
        f"{result.data.samples} samples of {result.data.name}{skipped}; percent, where the name says nothing else",
        highlight=False,
        soft_wrap=True,
    )


def _printer(rank: int, label: str) -> Any:
    def say(text: str) -> None:
        if rank == 0:
            output.say(f"[{label}] {text}")

    return say
