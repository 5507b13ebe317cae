"""What a checkpoint folder holds, and which of several folders can be trusted.

    checkpoints/
      latest                      name of the newest complete folder
      run_id                      random name of the run, which each of its manifests repeats
      damaged-step_00000900       one that failed verification, set aside: never read, counted or deleted again
      step_00001000/
        manifest.json             step, world size, ZeRO stage, shared state, size and SHA-256 of every other file
        rank_00000.safetensors    that process's flat shards: "K/master", "K/exp_avg", "K/exp_avg_sq", "K/ema"
        rank_00000.json           which stretch of which parameter lies where in them

A folder gets its name only when every byte of it is on disk, so a name without ``.tmp`` means complete; the manifest
then finds what went bad later. Nothing here is a pickle: reading a checkpoint cannot execute code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from sar_dist.errors import UserError

FORMAT = 1
_MAX_MANIFEST_BYTES = 64 << 20  # a thousand times the largest in use; a longer one is not read into memory
MANIFEST = "manifest.json"
LATEST = "latest"
RUN_ID = "run_id"
_STEP_NAME = re.compile(r"step_(\d{8,})")


class DamagedCheckpoint(UserError):
    """A checkpoint folder that is not what its manifest says; the message names the file."""


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
    found = [path for path in root.iterdir() if _STEP_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Optimizer step of a checkpoint folder, from its name."""
    match = _STEP_NAME.fullmatch(folder.name)
    if match is None:
        raise DamagedCheckpoint(f"{folder} is not named like a checkpoint, such as step_00001000")
    return int(match[1])


def read_manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest, compared with its own digest and the folder's name; the other files are not looked at.

    Raises:
        DamagedCheckpoint: it cannot be read, was changed, or belongs to another step than the folder's name says.
    """
    try:
        regular_size(folder / MANIFEST, limit=_MAX_MANIFEST_BYTES)
        manifest = json.loads((folder / MANIFEST).read_text())
        dict(manifest["files"])
        written_by, step = manifest["format"], manifest["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{folder / MANIFEST} cannot be read: {type(error).__name__}: {error}") from error
    if manifest.get("digest") != manifest_digest(manifest):
        raise DamagedCheckpoint(f"{folder / MANIFEST} was changed after it was written")
    if written_by != FORMAT:
        raise DamagedCheckpoint(f"{folder} has checkpoint format {written_by}; this version reads {FORMAT}")
    if _STEP_NAME.fullmatch(folder.name) and folder.name != step_name(step):
        raise DamagedCheckpoint(f"{folder} holds the checkpoint of step {step}; its folder was renamed or exchanged")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file, and the step in the folder's name, with the manifest and return the manifest.

    Raises:
        DamagedCheckpoint: a file is missing, is no regular file, has another size or another hash; the manifest cannot
            be read, or belongs to another step than the folder's name says.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        try:
            actual = describe_file(folder / name)
        except OSError as error:
            raise DamagedCheckpoint(f"{folder / name} cannot be read: {error.strerror or error}") from error
        if actual != expected:
            what = "size" if actual["bytes"] != expected["bytes"] else "content"
            raise DamagedCheckpoint(f"{folder / name} has another {what} than when it was saved")
    return manifest


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over everything in a manifest but this digest."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    regular_size(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256") if hasattr(hashlib, "file_digest") else _digest(stream)
        return {"bytes": os.fstat(stream.fileno()).st_size, "sha256": digest.hexdigest()}


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


def write_durably(path: Path, content: str) -> None:
    """Write a small file so that after a crash it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Flush a folder's entries, such as a rename, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(stream: Any) -> Any:
    """``hashlib.file_digest`` for Python 3.10."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest
