"""Nested settings as trees: leaves by dotted key, setting one, merging two, comparing two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

ABSENT = object()
"""In a comparison, the value of a key that one of the trees does not have."""


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no filled mapping, with its dotted key, in order."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def set_leaf(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted ``key`` in place; mappings on the way are made where they are missing.

    Raises:
        TypeError: something on the way is no mapping; the message is its dotted key.
    """
    *parents, name = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise TypeError(".".join(parents[:depth]))
    tree[name] = value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``base`` with the values of ``over``; mappings that both have are merged in turn."""
    result = deepcopy(dict(base))
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else deepcopy(value)
    return result


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) of every leaf that is not the same in both; ``ABSENT`` where one lacks it."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return {
        key: (before.get(key, ABSENT), after.get(key, ABSENT))
        for key in {**before, **after}
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    }


def is_below(key: str, groups: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of ``groups`` or lies below one."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)
