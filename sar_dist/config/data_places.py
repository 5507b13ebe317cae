"""Finding the data sets that a configuration names: needs no library that takes long to load, so that a wrong path is said at once."""

from __future__ import annotations

import re

from sar_dist.config.settings import RunConfig
from sar_dist.errors import UserError
from sar_dist.places import find_data, looked_for

# How WebDataset's users name shards: train-{000000..001281}.tar, *.tar, A::B, pipe:curl URL.
_PATTERN = re.compile(r"\{[^{}]*\.\.[^{}]*\}|\{[^{}:]*,[^{}:]*\}|[*?]|::|\[\d+-\d+\]")
_COMMAND = "pipe:"


def locate_data(key: str, path: str | None) -> str:
    """Find a data folder: as given, below $SAR_DIST_DATA, or below ``data/``. A URL is left as it is.

    Raises:
        UserError: it is nowhere; the message says where it was looked for and how to provide it.
    """
    if path is None:
        raise UserError(f"{key} is not set; give the folder of the shards, such as {key}=/data/imagenet-1k-wds")
    if "://" in path and not _is_pattern(path):
        return path
    found = find_data(path)
    if found is not None:
        return str(found)
    if key == "data.val" and path.startswith("["):
        raise UserError(
            f"{key}: there is no {looked_for(path)}; validation is one set, so give its folder or URL alone"
        )
    several = [part.strip() for part in re.split(r"[,;]", path)]
    if key == "data.train" and len(several) > 1 and all(map(find_data, several)):
        written = ", ".join(f"{{shards: {part}, weight: 1}}" for part in several)
        raise UserError(f"{key}: there is no {looked_for(path)}; several sets are written data.train=[{written}]")
    if _is_pattern(path):
        raise UserError(_instead_of_pattern(key, path))
    raise UserError(
        f"{key}: there is no {looked_for(path)}; make shards with `python tools/make_shards.py imagefolder SRC OUT`, or download "
        f"timm/imagenet-1k-wds, and set {key} or $SAR_DIST_DATA"
    )


def locate_all_data(config: RunConfig) -> RunConfig:
    """``config`` itself, if its data sets are there. Raises UserError as ``locate_data``; those that are not set are for others to say."""
    several = config.data.training_sets
    for number, each in enumerate(several):
        locate_data("data.train" if len(several) == 1 else f"data.train.{number}", each.shards)
    if config.data.val is not None:
        locate_data("data.val", config.data.val)
    return config


def _is_pattern(path: str) -> bool:
    # A URL may have a query, which is no pattern.
    found = _PATTERN.search(path)
    return path.startswith(_COMMAND) or (found is not None and ("://" not in path or found[0] != "?"))


def _instead_of_pattern(key: str, path: str) -> str:
    """What to give in the place of a command, of several places, or of a pattern of names."""
    if path.startswith(_COMMAND):
        return (
            f"{key}: {path} is a command, as WebDataset runs it; give the folder of the shards, or its URL (s3://, gs://, https://), from "
            "which they are copied as they are needed"
        )
    parts = [part.strip() for part in path.split("::") if part.strip()]
    folders = list(dict.fromkeys(_folder_of(part) for part in parts))
    if len(folders) > 1:
        written = ", ".join(f"{{shards: {folder}, weight: 1}}" for folder in folders)
        return f"{key}: {path} is several places, as WebDataset takes them; several sets are written data.train=[{written}]"
    return (
        f"{key}: {path} is a pattern, as WebDataset takes it; give the folder of the shards, {key}={folders[0] if folders else 'FOLDER'}: all in it "
        "that are of the split by their names are read"
    )


def _folder_of(pattern: str) -> str:
    """The folder above the first part of a path that is a pattern or a shard."""
    kept = []
    for part in pattern.split("/"):
        if _PATTERN.search(part) or part.lower().endswith(".tar"):
            break
        kept.append(part)
    return "/".join(kept) or "."
