"""How several data sets are written in ``data.train``, and what to say of the ways in which they are not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sar_dist.errors import shortened

# Text that YAML reads as it stands inside brackets.
_PLAIN = re.compile(r"[A-Za-z0-9_./~$][A-Za-z0-9_./~$:+=@-]*(?<!:)")
# Text that is meant as YAML: a folder may be called "{a: b}", but hardly with this word.
_MAPPING = re.compile(r"\s*\[?\s*\{.*\bshards\s*:")
_MOST_LETTERS = 300
_KEYS = frozenset({"shards", "weight", "label", "classes"})


def refuse_other_forms(value: Any) -> Any:
    """``value`` of ``data.train`` if it may be one set or a list of mappings.

    Raises:
        ValueError: it is neither; the message writes the user's own values as they are to be written.
    """
    if isinstance(value, str):
        if not _MAPPING.match(value):
            return value
        inside = value.strip()
        raise ValueError(f"several sets are written as a list: {shortened(f'[{inside}]', _MOST_LETTERS)}")
    if isinstance(value, Mapping) or (_is_list(value) and any(map(_is_no_set, value))):
        raise ValueError(f"several sets are written {shortened(_written([*_entries(value)]), _MOST_LETTERS)}")
    lacking = [item for item in value if isinstance(item, Mapping) and "shards" not in item] if _is_list(value) else []
    if lacking:
        raise ValueError(
            f"{shortened(_written_set(lacking[0]), 80)} names no shards; a set is {{shards: A, weight: 1}}"
        )
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def refuse_several(value: Any) -> Any:
    """``value`` of ``data.val`` if it is one set. Raises ValueError."""
    if isinstance(value, list | tuple | Mapping) or (isinstance(value, str) and _MAPPING.match(value)):
        raise ValueError("validation is one set: give its folder or URL alone")
    return value


def _is_no_set(item: Any) -> bool:
    """Whether an item of a list is no mapping, lacks its weight, or has sets for keys (a model has been checked already)."""
    if isinstance(item, Mapping):
        lacks_weight = "shards" in item and "weight" not in item
        return lacks_weight or _KEYS.isdisjoint(item) or isinstance(item.get("shards"), list | tuple)
    return not hasattr(item, "weight")


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    """The sets that a user may have meant."""
    if isinstance(value, Mapping) and isinstance(value.get("shards"), list | tuple):
        yield from ({"weight": 1, **value, "shards": each} for each in value["shards"])
    elif isinstance(value, Mapping) and "shards" in value:
        yield {"weight": 1, **value}
    elif isinstance(value, Mapping):  # such as {A: 3, B: 1}
        yield from ({"shards": name, "weight": weight} for name, weight in value.items())
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _entries(item)
    else:
        yield {"shards": value, "weight": 1}


def _written(entries: list[Mapping[str, Any]]) -> str:
    first = ("shards", "weight")
    sets = [_written_set({**{key: entry[key] for key in first}, **entry}) for entry in entries]
    return f"[{', '.join(sets)}]"


def _written_set(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_text(each)}" for key, each in entry.items()) + "}"


def _text(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)
