"""Where the files of a run lie in an experiment's folder, and whether it is finished.

OUT/configs/ARM_seedN.json     the full configuration of a run
OUT/runs/ARM_seedN/            its run directory, the same as any other
OUT/evaluations/ARM_seedN/     what tools/transfer_eval.py wrote, a folder for each evaluation
OUT/logs/                      what the tools printed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sar_dist.errors import UserError
from sar_dist.experiment.specification import Evaluation
from sar_dist.files import parse_json
from sar_dist.places import find_data
from sar_dist.setting_trees import differences, is_below, leaves, set_leaf

# What makes a finished run the one that is asked for, beside its data. Where its files lie and how fast it was computed does not.
_IDENTITY_KEYS = (
    *("model", "regularizer", "augment", "optim", "terms", "engine.precision"),
    *("data.label", "data.epoch_samples", "data.repeated_augmentation", "data.streams", "data.window_shards"),
)
# Where they are not set, a run settles them when it first starts: any value is then the one that was asked for.
_SETTLED_BY_THE_RUN = ("augment.where",)


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration's tree that decides what a run finds."""
    tree: dict[str, Any] = {}
    for key, value in leaves(config):
        if is_below(key, _IDENTITY_KEYS):
            set_leaf(tree, key, value)
    return tree


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], place: Path) -> None:
    """Make sure that the run at ``place``, with the configuration ``old``, is the one with the configuration ``new``.

    Raises:
        UserError: it is not.
    """
    for key, (before, after) in differences(identity_of(old), identity_of(new)).items():
        settled = key in _SETTLED_BY_THE_RUN and after is None
        if not settled:
            raise UserError(
                f"{place} was made with {key}={before}, the experiment says {after}; "
                "remove that run, or give another --out (another --records where it is one of those)"
            )


def check_same_run(old: Mapping[str, Any], new: Mapping[str, Any], place: Path) -> None:
    """``check_same`` of a run's own config.json, which tells the data too: by the names of their folders, wherever those lie, or their places.

    Raises:
        UserError: it is another run.
    """
    check_same(old, new, place)
    for key in ("train", "val"):
        before, after = (tree.get("data", {}).get(key) for tree in (old, new))
        if not _is_same_data(before, after):
            raise UserError(
                f"{place} was made with data.{key}={before}, the experiment says {after}; remove that run, or give another --out"
            )


def _is_same_data(one: Any, other: Any) -> bool:
    """Whether two values of ``data.train`` or ``data.val`` call their sets the same, or lead to the same folders, as links do."""
    if isinstance(one, str) and isinstance(other, str):
        first, second = find_data(one), find_data(other)
        is_same_place = first is not None and second is not None and first.resolve() == second.resolve()
        return is_same_place or _name_of_data(one) == _name_of_data(other)
    if isinstance(one, Sequence) and isinstance(other, Sequence) and len(one) == len(other):
        return all(
            {**a, "shards": None} == {**b, "shards": None} and _is_same_data(a["shards"], b["shards"])
            for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)


def _name_of_data(given: str) -> list[str]:
    """What a set is called, without the folders above it."""
    return [part for part in given.split("/") if part not in ("", "train", "val")][-1:]


def run_folder(out: Path, name: str) -> Path:
    """The run directory of a run."""
    return out / "runs" / name


def is_finished(run: Path) -> bool:
    """Whether a run directory holds a run that was trained to its end (or to its ``run.max_steps``)."""
    try:
        summary = parse_json((run / "summary.json").read_bytes())
        limit = parse_json((run / "config.json").read_bytes())["run"]["max_steps"]
        return bool(summary["step"] >= min(summary["total_steps"], limit or math.inf))
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged: training says what is wrong
        return False


def evaluation_folder(out: Path, run: str, evaluation: Evaluation) -> Path:
    """Where an evaluation of a run goes."""
    return out / "evaluations" / run / evaluation.name
