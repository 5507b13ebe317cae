"""What a run leaves behind, as far as an interrupted one must have it too: to be compared with ``==``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# What is measured with a clock or a meter, and what every start writes.
_MEASURED = {
    "time",
    "peak_memory_gib",
    "images_per_second",
    "images_per_second_per_process",
    "step_seconds",
    "data_wait_share",
    "mfu",
    "mfu_of_matmul",
}
_OF_EVERY_START = {"hardware", "step_seconds"}


def run_results(run: Path) -> dict[str, Any]:
    """By path below the run directory, and by tag of TensorBoard: what must not depend on how often the run was stopped."""
    results = {f"TensorBoard {tag}": values for tag, values in _tensorboard(run / "tensorboard").items()}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and not name.startswith(("tensorboard/events", ".holder/")):
            results[name] = _content(path, name)
    holders = [json.loads(path.read_text()) for path in (run / ".holder").iterdir()]
    results["holders"] = [holder.get("released") for holder in holders]
    return results


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the results that differ, or that only one of two runs has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _content(path: Path, name: str) -> Any:
    if name == "metrics.jsonl":
        records = map(json.loads, path.read_text().splitlines())
        measured = [record for record in records if record["prefix"] not in _OF_EVERY_START]
        return [{key: value for key, value in record.items() if key not in _MEASURED} for record in measured]
    if name == "environment.json":
        return bool(json.loads(path.read_text()))
    if path.name == "run_id":
        return len(path.read_text())
    if name == "config.json" or path.name == "manifest.json":
        content = json.loads(path.read_text())
        content.get("config", content)["run"] |= {"dir": "", "name": ""}
        return {key: value for key, value in content.items() if key not in ("run_id", "digest")}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensorboard(folder: Path) -> dict[str, list[Any]]:
    """What TensorBoard would show, without what an earlier start wrote beyond the step that a later one began with."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    shown: dict[str, list[Any]] = {}
    for tag in tags["scalars"]:
        prefix, _, name = tag.partition("/")
        if prefix not in _OF_EVERY_START and name not in _MEASURED:
            shown[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in tags["images"]:
        shown[tag] = [
            (event.step, hashlib.sha256(event.encoded_image_string).hexdigest()) for event in events.Images(tag)
        ]
    for tag in tags["histograms"]:
        shown[tag] = [(event.step, event.histogram_value.num) for event in events.Histograms(tag)]
    return shown
