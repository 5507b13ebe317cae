"""The run directory: what is written where, and whether an existing one may be continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sar_dist.config import RunConfig, load_config
from sar_dist.environment import describe_environment
from sar_dist.errors import UserError
from sar_dist.setting_trees import ABSENT, differences, is_below

# What a run is: another value would make the resumed run something that never existed from its start.
_FIXED_KEYS = ("model", "regularizer", "augment", "optim", "terms", "run.seed")
# What decides the order of the data, which data.allow_changed=true lets go.
_ORDER_KEYS = ("run.seed", "optim.global_batch", "augment")


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

    def check(self, config: RunConfig) -> None:
        """Refuse to mix two different runs in one directory.

        Raises:
            UserError: ``run.resume=never`` and the run exists, or it was started with another configuration.
        """
        if not self.config_file.exists():
            return
        if config.run.resume == "never":
            raise UserError(f"{self.path} exists and run.resume=never; choose another run.name or remove the directory")
        changed = _changes(load_config(self.config_file), config)
        if changed:
            raise UserError(
                f"{self.path} was started with {'; '.join(changed)}; restore that to resume it, or choose another run.name"
            )

    def create(self, config: RunConfig, world_size: int, device: torch.device) -> None:
        """Make the directory and record configuration and environment. Call on the main process.

        Raises:
            UserError: the directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.config_file.write_text(config.model_dump_json(indent=2) + "\n")
            records = self._past_environments()
            records.append(describe_environment(world_size, device))
            self.environment_file.write_text(json.dumps(records, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write the run directory {self.path}: {error.strerror}; set run.dir") from error

    def record_bad_image(self, key: str, step: int) -> None:
        """Note a training image that could not be decoded; every process appends its own."""
        with self.bad_images.open("a") as stream:
            stream.write(json.dumps({"step": step, "key": key}) + "\n")

    def _past_environments(self) -> list[dict[str, Any]]:
        try:
            return json.loads(self.environment_file.read_text())
        except (OSError, ValueError):  # a first start, or a file cut short by a crash: only a record is lost
            return []


def _changes(old: RunConfig, new: RunConfig) -> list[str]:
    """What makes ``new`` another run than ``old``, one "key=value (now value)" each."""
    free = _ORDER_KEYS if new.data.allow_changed else ()
    return [
        f"{key}={'unset' if before is ABSENT else before} (now {'unset' if after is ABSENT else after})"
        for key, (before, after) in differences(old.model_dump(), new.model_dump()).items()
        if is_below(key, _FIXED_KEYS) and not is_below(key, free)
    ]
