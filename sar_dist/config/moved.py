"""A run that is started by its own config.json after its directory was moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from sar_dist.config.settings import RunConfig
from sar_dist.errors import UserError


def follow_moved_run(file: Path, config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """``config`` for the run in whose directory its ``file`` lies, if that is a run's config.json.

    The file says where the run was when it began. With ``run.dir`` or ``run.name`` among the ``overrides`` it is the
    template of another run, and stays as it is.

    Raises:
        UserError: the run is also where the file says that it is, so it is not clear which of the two is meant; or its
            new folder has a name that no run can have.
    """
    here, there = file.parent.resolve(), Path(config.run.dir, config.run.name).resolve()
    is_own = file.name == "config.json" and (file.parent / "checkpoints").is_dir()
    elsewhere = any(override.startswith(("run.dir=", "run.name=")) for override in overrides)
    if not is_own or elsewhere or here == there:
        return config
    if (there / "config.json").exists():
        raise UserError(
            f"{file} is of a run in {there}, which is there too; say which one is meant, such as "
            f"run.dir={here.parent} run.name={here.name}"
        )
    try:
        return config.vary({"run.dir": str(here.parent), "run.name": here.name})
    except ValidationError as error:
        raise UserError(
            f"{here.name!r}, where the run was moved to, is no name for a run; rename the folder"
        ) from error
