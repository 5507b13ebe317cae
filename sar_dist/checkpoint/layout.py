"""What a checkpoint folder holds, and which of several folders can be trusted.

    checkpoints/
      latest                      name of the newest complete folder
      run_id                      random name of the run, which each of its manifests repeats, and ../run_id from the first on
      damaged-step_00000900       one that failed verification, set aside: never read, counted or deleted again
      step_00001000/
        manifest.json             step, world size, ZeRO stage, shared state, size and SHA-256 of every other file
        rank_00000.safetensors    that process's flat shards: "K/master", "K/exp_avg", "K/exp_avg_sq", "K/ema"
        rank_00000.json           which stretch of which parameter lies where in them

A folder gets its name only when every byte of it is on disk, so a name without ``.tmp`` means complete; the manifest
then finds what went bad later. Nothing here is a pickle: reading a checkpoint cannot execute code.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from sar_dist.errors import UserError

MANIFEST = "manifest.json"
LATEST = "latest"
RUN_ID = "run_id"
_STEP_NAME = re.compile(r"step_(\d{8,})")


class DamagedCheckpoint(UserError):
    """A checkpoint folder that is not what its manifest says; the message names the file."""


class ForbiddenCheckpoint(UserError):
    """A checkpoint that this user may not read. It is no damage: such a folder is never skipped or set aside."""


class UnsupportedFormat(UserError):
    """A checkpoint of another version of the format. It is no damage: such a folder is never skipped or set aside."""


def step_name(step: int) -> str:
    """Folder name of the checkpoint after optimizer step ``step``."""
    return f"step_{step:08d}"


def shard_file(rank: int) -> str:
    """Name of the tensors of process ``rank``."""
    return f"rank_{rank:05d}.safetensors"


def index_file(rank: int) -> str:
    """Name of the fragment index of process ``rank``."""
    return f"rank_{rank:05d}.json"


def complete_checkpoints(root: Path) -> list[Path]:
    """Committed checkpoint folders under ``root``, newest first. Whether they are intact is ``verify``'s to say."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if is_step_name(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Optimizer step of a checkpoint folder, from its name."""
    match = _STEP_NAME.fullmatch(folder.name)
    if match is None:
        raise DamagedCheckpoint(f"{folder} is not named like a checkpoint, such as step_00001000")
    return int(match[1])


def is_step_name(name: str) -> bool:
    """Whether a folder of this name is a committed checkpoint."""
    return _STEP_NAME.fullmatch(name) is not None


def recorded_run_id(root: Path) -> str | None:
    """The random name of a run, in the folder of its checkpoints or its own; None where its file is missing or damaged.

    Raises:
        OSError: the file cannot be read, or is none.
    """
    file = root / RUN_ID
    if not file.exists():
        return None
    regular_size(file, limit=1024)
    recorded = file.read_bytes()
    return recorded.decode().strip() if re.fullmatch(rb"\s*\w+\s*", recorded) else None


def pointed_at(root: Path) -> str | None:
    """Name of the checkpoint that ``latest`` says is the newest; None where it is missing or damaged."""
    try:
        name = (root / LATEST).read_text().strip()
    except (OSError, ValueError):
        return None
    return name if is_step_name(name) else None


def cannot_read(file: Path, error: Exception) -> UserError:
    """What an error while a checkpoint's file was read means: ForbiddenCheckpoint or DamagedCheckpoint."""
    if isinstance(error, PermissionError):
        return ForbiddenCheckpoint(f"{file} may not be read by this user; see to its permissions")
    return DamagedCheckpoint(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}")


def regular_size(path: Path, limit: int | None = None) -> int:
    """Bytes of a regular file, found without opening it: opening a FIFO would wait for ever.

    Raises:
        OSError: it is absent, something else than a file, or longer than ``limit`` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if limit is not None and status.st_size > limit:
        raise OSError(f"{path.name} has {status.st_size} bytes, more than the {limit} that are read")
    return status.st_size
