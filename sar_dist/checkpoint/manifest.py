"""The manifest of a checkpoint, which seals it, and the index of each process's file: what is in them, read and checked.

The digest is over the JSON as it was written, not over what this version makes of it: keys that another version of the
same format added stay part of it, and keys that an older one did not have yet are not invented.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on

from sar_dist.checkpoint.layout import (
    MANIFEST,
    DamagedCheckpoint,
    UnsupportedFormat,
    cannot_read,
    index_file,
    is_step_name,
    regular_size,
    shard_file,
    step_name,
)
from sar_dist.files import sha256_of
from sar_dist.validation import one_line

FORMAT = 1
_MAX_MANIFEST_BYTES = 64 << 20  # a thousand times the largest in use; a longer one is not read into memory

_LARGEST = 2**53  # up to here every whole number is a float too
_WEIGHT_BYTES = 4

Whole = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Steps = Annotated[float, Field(ge=0, le=_LARGEST)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # never a path that leads elsewhere


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class FileRecord(_Record):
    """Size and SHA-256 of a file."""

    bytes: Count
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """What a file is now.

        Raises:
            OSError: it cannot be read, or is no regular file.
        """
        return cls(bytes=regular_size(path), sha256=sha256_of(path))


class ScheduleState(TypedDict, total=False):
    """What the learning-rate schedule keeps of itself; nothing where only weights were saved."""

    __pydantic_config__ = _Record.model_config  # type: ignore[misc]
    base_lrs: list[Finite]
    last_epoch: Count
    _step_count: Count
    _is_initial: bool
    _get_lr_called_within_step: bool
    _last_lr: list[Finite]
    lr_lambdas: list[None]


class Counters(TypedDict, total=False):
    """The engine's counters of steps and samples; none where only weights were saved."""

    __pydantic_config__ = _Record.model_config  # type: ignore[misc]
    global_steps: Count
    global_samples: Count
    skipped_steps: Count


class ScalerState(TypedDict, total=False):
    """The settings of loss scaling, as DeepSpeed names them; the static one has the first two."""

    __pydantic_config__ = _Record.model_config  # type: ignore[misc]
    cur_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dynamic: bool
    cur_iter: Count
    last_overflow_iter: Whole
    scale_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    scale_window: Annotated[int, Field(ge=1, le=_LARGEST)]
    min_scale: Finite
    delayed_shift: Count
    cur_hysteresis: Count
    consecutive_hysteresis: bool
    raise_error_at_min_scale: bool


class AverageState(TypedDict):
    """A process's sums since the last line of the log. Training may have met a NaN there."""

    __pydantic_config__ = _Record.model_config  # type: ignore[misc]
    count: Count
    sums: dict[str, float]


class SeenSamples(TypedDict):
    """Training samples that a process has read, and how many of them could not be used."""

    __pydantic_config__ = _Record.model_config  # type: ignore[misc]
    seen: Count
    bad: Count


class EngineState(_Record):
    """The engine's small state, which is the same on every process.

    Attributes:
        shapes: of every parameter, by timm's name.
        ema_updates: updates of the moving average; None if the run keeps none.
        lr_scheduler: the schedule's own state.
        counters: the engine's counters of steps and samples.
        loss_scaler: the settings of dynamic loss scaling; empty without it, and in the oldest checkpoints.
    """

    lr_scheduler: ScheduleState
    counters: Counters
    loss_scaler: ScalerState = {}
    ema_updates: Count | None
    shapes: dict[str, Annotated[tuple[Annotated[Count, Strict()], ...], Strict(False)]]  # JSON has lists


class LoaderState(_Record):
    """Where the training data go on: ``TrainLoader.state_dict``."""

    next_batch: Count
    shift: Whole
    fingerprint: dict[str, Any]


class SharedState(_Record):
    """What a checkpoint knows beside tensors; all but ``engine`` is missing where only weights were saved.

    Attributes:
        engine: see there.
        train_state: the run's progress.
        loader: where the data go on.
        zero_stage: ZeRO stage that wrote it.
        config: a copy of the run's configuration; missing in older checkpoints.
        classes: names of the classes by label; missing in older checkpoints, and where the data name none.
        interim: saved because training stopped, where none was due: of no use once there is a later one.
    """

    engine: EngineState
    train_state: dict[str, Any] | None = None
    loader: LoaderState | None = None
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    config: dict[str, Any] | None = None
    classes: Annotated[tuple[str, ...], Strict(False)] | None = None
    interim: bool = False


class CheckpointManifest(SharedState):
    """Content of ``manifest.json``.

    Attributes:
        format: version of the format, ``FORMAT``.
        run_id: random name of the run; None in checkpoints older than such names.
        step: optimizer steps done.
        world_size: processes that wrote it, each a shard and an index.
        files: every other file of the folder.
        digest: SHA-256 over all the rest, see ``manifest_digest``.
    """

    format: int
    run_id: str | None = None
    step: Count
    world_size: Annotated[int, Field(ge=1, le=_LARGEST)]
    files: dict[FileName, FileRecord]
    digest: str

    @model_validator(mode="after")
    def _every_process_has_its_files(self) -> CheckpointManifest:
        for rank in range(self.world_size):
            for name in (shard_file(rank), index_file(rank)):
                if name not in self.files:
                    raise ValueError(f"world_size={self.world_size}, but files does not name {name}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> CheckpointManifest:
        batch, shift = (self.step, 0) if self.loader is None else (self.loader.next_batch, self.loader.shift)
        if batch != self.step:
            raise ValueError(f"loader.next_batch={batch}, but step={self.step}")
        if batch + shift < 0:
            raise ValueError(f"loader.shift={shift} lies before the first batch")
        done = {
            "ema_updates": self.engine.ema_updates or 0,
            "counters.global_steps": self.engine.counters.get("global_steps", 0),
            "lr_scheduler.last_epoch": self.engine.lr_scheduler.get("last_epoch", 0),
        }
        for name, count in done.items():
            if count > self.step:
                raise ValueError(f"engine.{name}={count}, but step={self.step}")
        weights = sum(math.prod(shape) for shape in self.engine.shapes.values())
        if weights * _WEIGHT_BYTES > sum(record.bytes for record in self.files.values()):
            raise ValueError(f"engine.shapes has {weights} weights, for which the files are too small")
        return self


class Fragment(_Record):
    """A stretch of one parameter that lies in one of a process's flat shards.

    Attributes:
        name: the parameter's name in timm's state dict.
        start: first element, in the flattened parameter.
        numel: number of elements.
        shard: index of the flat shard.
        offset: first element, in the flat shard.
    """

    name: str
    start: Count
    numel: Count
    shard: Count
    offset: Count


class RankIndex(_Record):
    """What one process's tensors are: content of ``rank_00000.json``.

    Attributes:
        adam_steps: steps of each shard's optimizer.
        fragments: where each stretch of a parameter lies.
        averages: the process's sums since the last line of the log; None in the oldest checkpoints.
        seen_samples: what the process's limit of bad samples goes by; None in older checkpoints.
    """

    adam_steps: list[Steps]
    fragments: list[Fragment]
    averages: AverageState | None = None
    seen_samples: SeenSamples | None = None


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over everything in a manifest's JSON but this digest."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def manifest_json(shared: SharedState, *, run_id: str, step: int, world_size: int, files: dict[str, FileRecord]) -> str:
    """The text of a new manifest, with its digest."""
    head = {"format": FORMAT, "run_id": run_id, "step": step, "world_size": world_size}
    described = {name: record.model_dump() for name, record in files.items()}
    content = {**head, "files": described, **shared.model_dump(exclude_unset=True)}
    return json.dumps({**content, "digest": manifest_digest(content)}, indent=1)


def manifest_with_progress(folder: Path, train_state: dict[str, Any] | None, *, interim: bool) -> str | None:
    """The text of a checkpoint's manifest with another progress; None if it has that one already.

    One that was due stays so, and one that was not is once it is: ``interim`` says whether it is not.

    Raises:
        DamagedCheckpoint: the manifest is not intact, see ``read_manifest``.
        OSError: it cannot be read.
    """
    found = read_manifest(folder)
    interim = interim and found.interim
    if (found.train_state, found.interim) == (train_state, interim):
        return None
    content = {**json.loads((folder / MANIFEST).read_text()), "train_state": train_state, "interim": interim}
    return json.dumps({**content, "digest": manifest_digest(content)}, indent=1)


def read_manifest(folder: Path) -> CheckpointManifest:
    """A checkpoint's manifest, compared with its own digest and the folder's name; the other files are not looked at.

    Raises:
        DamagedCheckpoint: it cannot be read, was changed, does not hold what it should, or belongs to another step than
            the folder's name says.
        ForbiddenCheckpoint: this user may not read it.
        UnsupportedFormat: it is intact for all we know, but this version cannot read it.
    """
    file = folder / MANIFEST
    try:
        regular_size(file, limit=_MAX_MANIFEST_BYTES)
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise cannot_read(file, error) from error
    if not isinstance(content, dict) or "format" not in content:
        raise DamagedCheckpoint(f"{file} is not the manifest of a checkpoint: it names no format")
    if content["format"] != FORMAT:
        raise UnsupportedFormat(
            f"{file} has checkpoint format {content['format']!r}; this version of sar_dist reads {FORMAT}: use the "
            "version that wrote it"
        )
    if content.get("digest") != manifest_digest(content):
        raise DamagedCheckpoint(f"{file} was changed after it was written")
    with one_line(file, CheckpointManifest, DamagedCheckpoint):
        manifest = CheckpointManifest.model_validate(content)
    if is_step_name(folder.name) and folder.name != step_name(manifest.step):
        raise DamagedCheckpoint(
            f"{folder} holds the checkpoint of step {manifest.step}; its folder was renamed or exchanged"
        )
    return manifest


def verify(folder: Path) -> CheckpointManifest:
    """Compare every file, and the step in the folder's name, with the manifest and return the manifest.

    Raises:
        DamagedCheckpoint: a file is missing, is no regular file, has another size or another hash; the manifest cannot
            be read, or belongs to another step than the folder's name says.
        ForbiddenCheckpoint: this user may not read one of the files.
        UnsupportedFormat: another version of the format.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        try:
            actual = FileRecord.of(folder / name)
        except OSError as error:
            raise cannot_read(folder / name, error) from error
        if actual != expected:
            what = "size" if actual.bytes != expected.bytes else "content"
            raise DamagedCheckpoint(f"{folder / name} has another {what} than when it was saved")
    return manifest


def verify_own(folder: Path, run_id: str | None) -> CheckpointManifest:
    """``verify``, and that the run ``run_id`` wrote it; None, in a manifest too, is older than such names and fits any.

    Raises:
        DamagedCheckpoint: another run wrote it; else see ``verify``.
    """
    manifest = verify(folder)
    if None not in (run_id, manifest.run_id) and manifest.run_id != run_id:
        raise DamagedCheckpoint(f"{folder} was written by another run")
    return manifest


def read_index(folder: Path, rank: int) -> RankIndex:
    """The index of process ``rank``.

    Raises:
        DamagedCheckpoint: it cannot be read, or does not hold what it should.
        ForbiddenCheckpoint: this user may not read it.
    """
    file = folder / index_file(rank)
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise cannot_read(file, error) from error
    with one_line(file, RankIndex, DamagedCheckpoint):
        return RankIndex.model_validate(content)
