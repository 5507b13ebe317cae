"""The fingerprint of the order of training samples: what it depends on, as JSON values, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sar_dist.data.order import PlannedSet
from sar_dist.data.shards import describe
from sar_dist.setting_trees import ABSENT, differences


def sets_fingerprint(sets: Sequence[PlannedSet], shares: Sequence[Fraction]) -> dict[str, Any]:
    """What the order of samples depends on besides seed and batch: one set, or several with their shares."""
    if len(sets) == 1:
        return _set_fingerprint(sets[0])
    each_set: dict[str, dict[str, Any]] = {}
    for number, (each, share) in enumerate(zip(sets, shares, strict=True)):
        mixed = {"share": str(share), "part": each.settings.global_batch}
        classes = {} if each.classes is None else {"classes": _digest(each.classes)}
        each_set[str(number)] = _set_fingerprint(each) | mixed | classes
    return {"sets": each_set, "samples": sum(each.manifest.total for each in sets)}


def _set_fingerprint(planned: PlannedSet) -> dict[str, Any]:
    """What the order of one set's samples depends on."""
    return {
        "manifest": planned.manifest.fingerprint,
        "content": planned.shards.content,
        "resized": describe(planned.manifest.resized),
        "samples": planned.manifest.total,
        "streams": planned.settings.streams,
        "window": planned.settings.window,
    }


def _digest(classes: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(classes).encode()).hexdigest()


def with_known_content(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """``saved`` with the content of ``current`` where one of them does not know it.

    A checkpoint from before the content of shards without a manifest was known does not, nor one of remote shards from before their versions were.
    """
    known = dict(saved)
    if saved.get("content") is None or current.get("content") is None:
        known["content"] = current.get("content")
    if "sets" in saved and "sets" in current:
        known["sets"] = {
            number: with_known_content(each, current["sets"].get(number, each))
            for number, each in saved["sets"].items()
        }
    return known


def pass_lengths(fingerprint: dict[str, Any]) -> list[Fraction]:
    """Global batches, not always whole, until a set's samples come round again; of every set."""
    different = fingerprint["global_batch"] // fingerprint["repeated_augmentation"]
    alone = {"share": 1, "part": different, **fingerprint}
    return [
        each["samples"] // each["part"] * each["part"] / (Fraction(each["share"]) * different)
        for each in fingerprint.get("sets", {"0": alone}).values()
    ]


def changes(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, as "key old -> new". One that an older version did not know is unset there."""
    numbers = [len(each.get("sets", [0])) for each in (saved, current)]
    if numbers[0] != numbers[1]:
        return [f"data sets {numbers[0]} -> {numbers[1]}"]
    pairs = {
        key: [None if value is ABSENT else value for value in pair] for key, pair in differences(saved, current).items()
    }
    return [f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in sorted(pairs.items()) if old != new]


def fingerprint_changes(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """As ``changes``, where both know the content of shards."""
    return changes(with_known_content(saved, current), current)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
