"""The run directory: what is written where, and whether an existing one may be continued."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from sar_dist.checkpoint import (
    LATEST,
    RUN_ID,
    DamagedCheckpoint,
    complete_checkpoints,
    read_manifest,
    recorded_run_id,
)
from sar_dist.config import RunConfig, load_config
from sar_dist.environment import describe_environment
from sar_dist.errors import UserError, shortened
from sar_dist.files import PART_FILES, TOO_LARGE, parse_json, remove_leftovers, sync_file, sync_folder, write_durably
from sar_dist.lease import Lease, acquire
from sar_dist.observe import truncate_records
from sar_dist.output import say, warn
from sar_dist.setting_trees import ABSENT, differences, is_below

# What a run is: another value would make the resumed run something that never existed from its start.
_FIXED_KEYS = ("model", "regularizer", "augment", "optim", "terms", "run.seed", "data.epoch_samples")
# What decides the order of the data, which data.allow_changed=true lets go.
_ORDER_KEYS = ("run.seed", "optim.global_batch", "augment", "data.epoch_samples")
# Where all runs augmented before there was augment.where.
_FIRST_PLACE = "worker"


class RunDirectory:
    """Paths below ``run.dir/run.name``: config.json, environment.json, metrics.jsonl, tensorboard/, checkpoints/ ..."""

    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.run.dir) / config.run.name
        self.config_file = self.path / "config.json"
        self.environment_file = self.path / "environment.json"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.figures = self.path / "figures"
        self.metrics = self.path / "metrics.jsonl"
        self.bad_images = self.path / "bad_images.jsonl"
        self.summary_file = self.path / "summary.json"
        self.run_id_file = self.path / RUN_ID  # since the first checkpoint
        self._lease: Lease | None = None
        self._created = False

    def check(self, config: RunConfig) -> None:
        """Refuse to mix two different runs in one directory.

        Raises:
            UserError: ``run.resume=never`` and the run exists; it was started with another configuration; its checkpoints
                have gone, or are another run's; or something in the directory is not what a run writes there.
        """
        self._check_kinds()
        self._check_checkpoints()
        recorded = self._recorded_config()
        if recorded is None:
            return
        if config.run.resume == "never":
            raise UserError(f"{self.path} exists and run.resume=never; choose another run.name or remove the directory")
        changed = changes(recorded, config, _ORDER_KEYS if config.data.allow_changed else ())
        if changed:
            raise UserError(
                f"{self.path} was started with {'; '.join(changed)}; restore that to resume it, or choose another run.name"
            )
        self._check_newest(config)

    def settled(self, config: RunConfig, device: torch.device) -> RunConfig:
        """The configuration with a place for its augmentation: the one that a run here has already, else by the device.

        Raises:
            UserError: what is recorded of the run cannot be read.
        """
        if config.augment.where is not None:
            return config
        self._check_kinds()
        recorded = self._recorded_config()
        on_device = device.type == "cuda" and config.augment.backend == "fast"
        place = "device" if on_device else "worker"
        return _placed(config, place if recorded is None else recorded.augment.where or _FIRST_PLACE)

    def open(self, config: RunConfig) -> None:
        """Become the directory's holder, until ``close``; only then may be written into it. Call on the main process.

        Raises:
            UserError: another start holds it, or has begun another run in it since ``check``; or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lease = acquire(self.path, "choose another run.name")
            self._remove_leftovers()
        except OSError as error:
            raise self._cannot_write(error) from error
        self.check(config)

    def create(self, config: RunConfig, world_size: int, device: torch.device) -> None:
        """Make the directory and record configuration and environment of a start that nothing refuses any more. Call on the main process.

        What the run's earlier starts had otherwise is said.

        Raises:
            UserError: the directory cannot be written.
        """
        recorded = self._recorded_config()
        if recorded is not None and (changed := accepted_changes(recorded, config)):
            say(f"changed since the last start: {', '.join(changed)}")
        records = [*self._past_environments(), describe_environment(world_size, device)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write_if_changed(self.config_file, config.model_dump_json(indent=2) + "\n")
            _write_if_changed(self.environment_file, json.dumps(records, indent=2) + "\n")
        except OSError as error:
            raise self._cannot_write(error) from error
        self._created = True

    @property
    def lost(self) -> bool:
        """Whether another start has taken the directory over, or it was moved; known on the main process, within seconds."""
        return self._lease is not None and self._lease.lost

    def check_held(self) -> None:
        """Make sure, before something is written, that the directory is still this run's. Call on the main process.

        Raises:
            UserError: another start has taken it over, or it was moved or removed.
        """
        if self._lease is None:
            return
        self._lease.check()
        with contextlib.suppress(OSError):  # a disk that is away for a while
            if self._created and not self.config_file.exists():
                raise UserError(
                    f"{self.config_file} was removed while the run was in use, and who knows what else: nothing more is written here"
                )

    def close(self) -> None:
        """Let the next start have the directory."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record a finished run's result. Call on the main process.

        Raises:
            UserError: it could not be written; the same command again only repeats this.
        """
        try:
            _write_if_changed(self.summary_file, json.dumps(summary, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.summary_file} could not be written: {error.strerror}; everything else is saved: see to the "
                "disk and start the same command again"
            ) from error

    def remove_summary(self) -> None:
        """Remove the result of an earlier end, beyond which training is about to go. Call on the main process.

        Raises:
            UserError: another start has taken the directory over, or it cannot be written.
        """
        if not self.summary_file.exists():
            return
        self.check_held()
        try:
            self.summary_file.unlink()
            sync_folder(self.path)
        except OSError as error:
            raise self._cannot_write(error) from error

    def forget_bad_images(self, step: int) -> None:
        """Drop what was noted in later steps than ``step``, which training is about to repeat. Call on the main process."""
        try:
            truncate_records(self.bad_images, step)
        except OSError as error:
            warn(f"warning: {error}; it may name images twice")

    def sync_records(self) -> None:
        """Put on disk what has been appended so far to files of this directory; an error is said, and training goes on."""
        details, events = self.figures.glob("*.jsonl"), self.tensorboard.glob("events.*")
        try:
            for file in (self.metrics, self.bad_images, *details, *events):
                if file.is_file():
                    sync_file(file)
            for folder in (self.path, self.figures, self.tensorboard):
                if folder.is_dir():
                    sync_folder(folder)
        except OSError as error:
            warn(f"warning: {self.path}: {error.strerror}; a power cut may cost lines of its log")

    def _remove_leftovers(self) -> None:
        """Remove what a killed start was writing. Files of evaluations and reports, which may be at work here, stay."""
        files = (self.config_file, self.environment_file, self.summary_file, self.metrics, self.bad_images)
        for file in (*files, self.run_id_file):
            remove_leftovers(file)
        for leftover in (*self.figures.rglob(PART_FILES), *self.tensorboard.glob(PART_FILES)):
            leftover.unlink(missing_ok=True)

    def _past_environments(self) -> list[dict[str, Any]]:
        try:
            records = parse_json(self.environment_file.read_bytes())
        except (OSError, ValueError):  # a first start, or a file cut short by a crash: only a record is lost
            return []
        return records if isinstance(records, list) else []

    def _check_kinds(self) -> None:
        """Refuse what is in the way, before a write fails on it or, as a FIFO makes it, waits for ever."""
        kept = self.figures.glob("*.jsonl")
        single = (self.config_file, self.environment_file, self.summary_file, self.run_id_file)
        files = (*single, self.metrics, self.bad_images, *kept)
        folders = (self.path, self.checkpoints, self.tensorboard, self.figures)
        for path in (*files, *folders):
            if path.is_symlink() and not path.exists():
                raise UserError(f"{path} is a link to nothing; restore what it led to, or remove it")
            if path.exists() and not (path.is_dir() if path in folders else path.is_file()):
                kind = "folder" if path in folders else "regular file"
                raise UserError(f"{path} is not a {kind}; move it away, or choose another run.name")
            # Lines are appended to these two, the other files are replaced.
            appended = path in folders or path in (self.metrics, self.bad_images)
            if path.exists() and not os.access(path, os.R_OK | os.W_OK if appended else os.R_OK, effective_ids=True):
                verb = "written" if os.access(path, os.R_OK, effective_ids=True) else "read"
                raise UserError(f"{path} may not be {verb} by this user; see to its permissions, or set run.dir")

    def _check_checkpoints(self) -> None:
        """Refuse a folder of checkpoints that has lost them, or is another run's.

        What tells of a checkpoint is written after its commit, so that no kill leaves it without one.
        """
        traces = (self.checkpoints / LATEST, self.run_id_file, self.summary_file)
        trace = next(filter(os.path.lexists, traces), None)
        if trace is not None and not complete_checkpoints(self.checkpoints):
            raise UserError(
                f"{self.checkpoints} holds no checkpoint, but {trace} tells that this run has saved some; restore them, or remove "
                f"{self.path} to begin anew"
            )
        names = recorded_run_id(self.path), recorded_run_id(self.checkpoints)
        if None not in names and names[0] != names[1]:
            raise self._of_another_run(f"its {RUN_ID} is another one")

    def _check_newest(self, config: RunConfig) -> None:
        """Refuse checkpoints of a run that was another one, though ``config`` is that of this directory."""
        for folder in complete_checkpoints(self.checkpoints):
            try:
                saved = RunConfig.model_validate(read_manifest(folder).config)
            except (DamagedCheckpoint, ValidationError):
                continue  # damaged, or of a version that wrote no copy
            # The order of the data may have changed since, and has a check of its own.
            if changed := changes(saved, config, _ORDER_KEYS):
                raise self._of_another_run(f"{folder.name} was trained with {'; '.join(changed)}")
            return

    def _of_another_run(self, reason: str) -> UserError:
        return UserError(
            f"{self.checkpoints} holds the checkpoints of another run than {self.path}: {reason}; restore the run's own, or "
            "give the others a folder and a run.name of their own"
        )

    def _recorded_config(self) -> RunConfig | None:
        """What the run was started with: config.json or, where that is lost or damaged, a checkpoint's copy of it."""
        problem = "is not there"
        if self.config_file.exists():
            problem = _damage_of(self.config_file) or ""
            if not problem:
                return load_config(self.config_file)
        checkpoints = complete_checkpoints(self.checkpoints)
        for folder in checkpoints:
            try:
                return RunConfig.model_validate(read_manifest(folder).config)
            except (DamagedCheckpoint, ValidationError):
                continue  # damaged, or of a version that wrote no copy
        if checkpoints and self.config_file.exists():
            raise UserError(
                f"{self.config_file} {problem}, and no checkpoint holds a copy; remove it if you are sure to give the "
                "run's own settings"
            )
        return None

    def _cannot_write(self, error: OSError) -> UserError:
        where = "" if error.filename in (None, str(self.path)) else f" ({error.filename})"
        remedy = TOO_LARGE if error.errno == errno.EFBIG else "set run.dir"
        return UserError(f"cannot write the run directory {self.path}: {error.strerror}{where}; {remedy}")


def _damage_of(file: Path) -> str | None:
    """Why a JSON file is damaged, such as one that a full disk cut short; None if it is whole."""
    try:
        whole = isinstance(parse_json(file.read_bytes()), dict)
    except ValueError as error:
        return f"is damaged ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if whole else "holds no settings"


def _write_if_changed(path: Path, text: str) -> None:
    """Write a file durably; one that says the same already is left alone, whatever the disk would say."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_durably(path, text)


def _placed(config: RunConfig, place: str) -> RunConfig:
    """The configuration with its augmentation done at ``place``, where it does not say itself where."""
    where = config.augment.where or place
    return config.model_copy(update={"augment": config.augment.model_copy(update={"where": where})})


def changes(old: RunConfig, new: RunConfig, free: tuple[str, ...]) -> list[str]:
    """What makes ``new`` another run than ``old``, apart from the ``free`` keys: one "key=value (now value)" each."""
    old = _placed(old, _FIRST_PLACE)
    new = _placed(new, old.augment.where or _FIRST_PLACE)
    return [
        f"{key}={'unset' if before is ABSENT else before} (now {'unset' if after is ABSENT else after})"
        for key, (before, after) in differences(old.model_dump(), new.model_dump()).items()
        if is_below(key, _FIXED_KEYS) and not is_below(key, free)
    ]


def accepted_changes(old: RunConfig, new: RunConfig) -> list[str]:
    """What a resume lets differ, and does: one "key old -> new" each, but for where the run is."""
    found: list[str] = []
    for key, (before, after) in differences(old.model_dump(mode="json"), new.model_dump(mode="json")).items():
        if key not in ("run.dir", "run.name", "augment.where"):
            remark = " (of no effect: the run has begun)" if key == "run.branch_from" else ""
            found.append(f"{key} {_shown(before)} -> {_shown(after)}{remark}")
    return found


def _shown(value: Any) -> str:
    return "unset" if value is ABSENT or value is None else shortened(str(value), 80)
