"""Runs a program and keeps what lies on the disk before each of its steps: record_states.py STATES ROOT SCRIPT [arguments].

Before every operation on a file or folder below ROOT (as Python's audit events tell of it: open, mkdir, rename, remove,
link ...; and fsync) the tree below ROOT is noted: what a kill at that instant would leave behind. STATES gets each content
of a file once, under a number, and ``states.jsonl``: a line for each tree that differs from the one before, in which a file
is its content and that of its last fsync, which is what a power cut would leave of it.
``crash_states.py`` reads that, makes the trees again, and cuts files that were being written.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import stat
import sys
import threading
from pathlib import Path
from typing import Any

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Recorder:
    """Notes trees. Other threads of the program that come to an event wait while one is noted.

    Args:
        states: folder to write to.
        root: the tree that is noted.
    """

    def __init__(self, states: Path, root: Path) -> None:
        self.states = states
        self.root = root
        self._lock = threading.Lock()
        self._noting = threading.local()
        self._known: dict[tuple[int, int, int], str] = {}
        self._synced: dict[int, str] = {}  # by inode
        self._last: dict[str, Any] = {}
        self._fsync = os.fsync
        self._lines = (states / "states.jsonl").open("w")

    def install(self) -> None:
        """From now on note. There is no way back: audit hooks stay until the process ends."""
        os.fsync = self._noted_fsync
        sys.addaudithook(self._hook)

    def _noted_fsync(self, descriptor: Any) -> None:
        self.note("fsync")
        self._fsync(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            with self._lock:
                self._noting.now = True
                self._synced[status.st_ino] = self._content(Path(f"/proc/self/fd/{descriptor}"), status)
                self._noting.now = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in WATCHED and not getattr(self._noting, "now", False) and self._concerns(event, arguments):
            self.note(f"{event} {arguments[0]!r}")

    def _concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not arguments[2] & _WRITING:
            return False
        names = [os.fsdecode(each) for each in arguments if isinstance(each, str | bytes)]
        # A name without a folder may be relative to one that is open, as shutil.rmtree does it.
        return any(not os.path.isabs(name) or Path(name).is_relative_to(self.root) for name in names)

    def note(self, before: str) -> None:
        """Note the tree, if it is not what it was."""
        with self._lock:
            self._noting.now = True
            try:
                tree = self._tree(self.root)
                if tree != self._last:
                    self._last = tree
                    self._lines.write(json.dumps({"before": before, "tree": tree}) + "\n")
                    self._lines.flush()
            finally:
                self._noting.now = False

    def _tree(self, folder: Path) -> dict[str, Any]:
        """Names below a folder: each a folder's tree or the numbers of a file's content and of what is on disk of it."""
        found: dict[str, Any] = {}
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            path = folder / name
            try:
                status = path.lstat()
                is_folder = stat.S_ISDIR(status.st_mode)
                synced = self._synced.get(status.st_ino)
                found[name] = self._tree(path) if is_folder else [self._content(path, status), synced]
            except FileNotFoundError:  # another thread took it away since it was listed
                continue
        return found

    def _content(self, path: Path, status: os.stat_result) -> str:
        key = (status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            number = str(len(self._known))
            shutil.copyfile(path, self.states / number)
            self._known[key] = number
        return self._known[key]


if __name__ == "__main__":
    recorder = Recorder(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    recorder.install()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        recorder.note("the end")
