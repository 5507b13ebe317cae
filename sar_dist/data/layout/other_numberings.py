"""Files beside class folders that number the classes too: each ``classes.json`` must agree, and lists of other tools are said.

``classes.json`` is read from one place. One that lies elsewhere in the set, in ``val/`` say, and gives other labels or names is
refused, as it would not be followed. ``class_to_idx.json``, ``classes.txt``, ``labels.txt`` and the like are written by many
tools with many meanings: they are not followed, which is said where they put the classes in another order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sar_dist.data.layout.classes import CLASSES_NAME, ClassTable, class_word, read_class_table
from sar_dist.errors import UserError
from sar_dist.files import read_regular

_LISTS = (
    *("class_to_idx.json", "class_indices.json", "idx_to_class.json", "label2id.json", "id2label.json"),
    *("class_names.json", "labels.json", "label_map.json"),
    *("classes.txt", "labels.txt", "class_names.txt", "classnames.txt", "label_names.txt", "names.txt"),
)
_MOST_BYTES = 1 << 22
_NUMBER_FIRST = re.compile(r"(\d+)[\s:,;=]+(\S.*)")
_NUMBER_LAST = re.compile(r"(\S.*?)[\s:,;=]+(\d+)")
_SHOWN = 3


def refuse_other_classes_files(table: ClassTable, used: Path, folders: Iterable[Path]) -> None:
    """Raise UserError where a ``classes.json`` in one of ``folders`` says other than ``table``, which the one in ``used`` gave."""
    for folder in dict.fromkeys(folders):
        file = folder / CLASSES_NAME
        if not os.path.lexists(file) or os.path.realpath(file) == os.path.realpath(used):
            continue
        other = read_class_table([*table.labels], file)
        if dict(other.labels) == dict(table.labels) and other.names == table.names:
            continue
        word = next((word for word, label in table.labels.items() if other.labels[word] != label), None)
        what = (
            f"gives the classes other names than {_whence(used)}"
            if word is None
            else f"gives {word!r} the label {other.labels[word]}, and {_whence(used)} {table.labels[word]}"
        )
        raise UserError(
            f"{file} {what}; all splits have one numbering: put the right one at {used}, and remove the other"
        )


def _whence(used: Path) -> str:
    return str(used) if os.path.lexists(used) else "the order of the folders"


def remarks_on_lists(table: ClassTable, used: Path, folders: Iterable[Path]) -> list[str]:
    """What there is to say about lists of the classes in ``folders`` that put them in another order than ``table`` does."""
    ours = [word for word, _ in sorted(table.labels.items(), key=lambda entry: entry[1])]
    said: list[str] = []
    for file in (folder / name for folder in dict.fromkeys(folders) for name in _LISTS):
        numbers = _numbers_in(file)
        if numbers is None or any(word.casefold() not in numbers for word in ours):
            continue
        theirs = sorted(ours, key=lambda word: numbers[word.casefold()])
        if theirs != ours:
            said.append(
                f"{file.name} is not used, and numbers the classes otherwise ({_list(theirs)}) than they are labelled here "
                f"({_list(ours)}); to take its order, write it as {used}: {_as_list(theirs)}"
            )
    return said


def _list(words: Sequence[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (", ..." if len(words) > _SHOWN else "")


def _as_list(words: Sequence[str]) -> str:
    return json.dumps([*words[:_SHOWN]])[:-1] + (", ...]" if len(words) > _SHOWN else "]")


def _numbers_in(file: Path) -> dict[str, int] | None:
    """The number of each word in a list of classes, words without capitals; None: it is no such list, or not there."""
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        text = read_regular(file).decode("utf-8-sig")
        numbers = _of_json(json.loads(text)) if file.suffix == ".json" else _of_lines(text)
    except (OSError, ValueError, RecursionError):
        return None
    return {class_word(word).casefold(): number for word, number in numbers.items()}


def _of_json(content: object) -> Mapping[str, int]:
    if isinstance(content, list):
        return {str(word): number for number, word in enumerate(content)}
    if not isinstance(content, dict):
        return {}
    if all(isinstance(number, int) for number in content.values()):
        return content
    return {str(word): int(number) for number, word in content.items() if str(number).isdecimal()}


def _of_lines(text: str) -> Mapping[str, int]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern, word, number in ((_NUMBER_FIRST, 2, 1), (_NUMBER_LAST, 1, 2)):
        found = [pattern.fullmatch(line) for line in lines]
        if all(found):
            return {match[word]: int(match[number]) for match in found if match}
    return {line: number for number, line in enumerate(lines)}
