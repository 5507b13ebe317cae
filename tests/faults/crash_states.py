"""Every state in which a kill can leave what a program writes: ``record`` runs it once, ``CrashState.make`` makes one again.

A state is a tree as it was before one of the program's operations on files (``record_states.py``), or such a tree in
which the file that was written last is cut: at its start, and in the middle of what was new in it. A power cut leaves of
each file what was synced, under the names that it had, and of one that never was an empty file or nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import Finished, tool

_RECORDER = str(Path(__file__).parent / "record_states.py")


@dataclass(frozen=True)
class CrashState:
    """What a kill leaves behind.

    Attributes:
        name: which one it is: the operation that was not done any more, and what is cut.
        files: path below the root to (file with the content, bytes of it that are there).
        folders: paths below the root.
    """

    name: str
    files: Mapping[str, tuple[Path, int]]
    folders: frozenset[str]

    def make(self, root: Path) -> None:
        """Write the tree below ``root``, which is a new folder."""
        root.mkdir(parents=True)
        for folder in sorted(self.folders):
            (root / folder).mkdir()
        for name, (content, length) in self.files.items():
            with content.open("rb") as source, (root / name).open("wb") as target:
                target.write(source.read(length))

    def hurts(self, folder: str) -> bool:
        """Whether a file below a folder of this name is cut."""
        return any(
            length < content.stat().st_size and folder in Path(name).parts
            for name, (content, length) in self.files.items()
        )

    def digest(self, ignored: str) -> str:
        """What tells it from other states, but for what files below a folder called ``ignored`` hold."""
        digest = hashlib.sha256(repr(sorted(self.folders)).encode())
        for name, (content, length) in sorted(self.files.items()):
            held = length > 0 if ignored in Path(name).parts else content.read_bytes()[:length]
            digest.update(repr((name, held)).encode())
        return digest.hexdigest()


def record(
    root: Path, states: Path, *command: str, ignored: str = ".holder", **environment: str
) -> tuple[Finished, list[CrashState]]:
    """Run ``python COMMAND``, which writes below ``root``; how it ended, and every state that a kill could leave."""
    states.mkdir(parents=True)
    done = tool(_RECORDER, str(states), str(root), *command, **environment)
    return done, _different(_states(states), ignored)


def power_cuts(states: Path, ignored: str = ".holder") -> list[CrashState]:
    """What power cuts could leave at the times at which ``record`` has noted ``states``."""
    return _different(_power_cuts(states), ignored)


def _different(states: Iterable[CrashState], ignored: str) -> list[CrashState]:
    found: dict[str, CrashState] = {}
    for state in states:
        found.setdefault(state.digest(ignored), state)
    return list(found.values())


def _power_cuts(folder: Path) -> Iterator[CrashState]:
    for number, line in enumerate(map(json.loads, (folder / "states.jsonl").read_text().splitlines())):
        files, folders = _flat(line["tree"], folder)
        synced, _ = _flat(line["tree"], folder, number=1)
        empty = {name: (content, 0) for name, (content, _) in files.items()}
        label = f"{number}: power cut before {line['before']}"
        yield CrashState(label, {**empty, **synced}, folders)
        yield CrashState(f"{label}, names lost", synced, folders)


def _states(folder: Path) -> Iterator[CrashState]:
    last: dict[str, tuple[Path, int]] = {}
    for number, line in enumerate(map(json.loads, (folder / "states.jsonl").read_text().splitlines())):
        files, folders = _flat(line["tree"], folder)
        for name, (content, length) in files.items():
            if content not in {known for known, _ in last.values()}:
                before = last[name][1] if name in last and length >= last[name][1] else 0
                for cut in sorted({before, (before + length) // 2} - {length}):
                    label = f"{number}: before {line['before']}, {name} cut to {cut} of {length} bytes"
                    yield CrashState(label, {**files, name: (content, cut)}, folders)
        yield CrashState(f"{number}: before {line['before']}", files, folders)
        last = files


def _flat(tree: Mapping[str, Any], states: Path, number: int = 0) -> tuple[dict[str, tuple[Path, int]], frozenset[str]]:
    """Files with their contents, of the two that each has the one with this ``number``, and folders."""
    files: dict[str, tuple[Path, int]] = {}
    folders: set[str] = set()

    def visit(below: Mapping[str, Any], prefix: str) -> None:
        for name, entry in below.items():
            if isinstance(entry, list):
                if entry[number] is not None:
                    content = states / entry[number]
                    files[prefix + name] = content, content.stat().st_size
            else:
                folders.add(prefix + name)
                visit(entry, f"{prefix}{name}/")

    visit(tree, "")
    return files, frozenset(folders)
