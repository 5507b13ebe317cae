"""Images that could not be decoded: listed, counted over all processes, and said once where the disk does not take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sar_dist.training import bad_images
from sar_dist.training.bad_images import BadImages

CPU = torch.device("cpu")


def test_each_is_listed_with_its_step_and_counted(tmp_path: Path) -> None:
    images = BadImages(tmp_path / "bad_images.jsonl", CPU)
    images.note(1, ["a"], 1)
    images.note(2, ["b", "c"], 2)
    assert (images.add_up(), images.add_up(), images.unrecorded) == (3, 0, 0)
    records = list(map(json.loads, images.path.read_text().splitlines()))
    assert records == [{"step": 1, "key": "a"}, {"step": 2, "key": "b"}, {"step": 2, "key": "c"}]


def test_a_full_disk_is_said_once_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This is the main process, to which another one, of which two images are not written down, gives its reason."""
    theirs = [torch.tensor([2, 2]), torch.tensor([0, 2]), torch.tensor([0, 0])]
    monkeypatch.setattr(bad_images.distributed, "all_reduce_sum", lambda mine: mine + theirs.pop(0))
    monkeypatch.setattr(bad_images.distributed, "gather_objects", lambda mine: [mine, "b cannot be noted: full"])
    path: Any = tmp_path / "bad_images.jsonl"
    images = BadImages(path, CPU)
    images.note(1, ["a"], 1)
    assert (images.add_up(), images.unrecorded) == (3, 2)
    assert capsys.readouterr().err == "warning: b cannot be noted: full; it waits in memory, and training goes on\n"
    path.unlink()
    path.symlink_to("/dev/full")
    images.note(1, ["c"], 2)
    assert (images.add_up(), images.unrecorded) == (1, 3)
    path.unlink()
    assert (images.add_up(), images.unrecorded) == (0, 0)
    assert json.loads(path.read_text()) == {"step": 2, "key": "c"}
    assert capsys.readouterr().err == ""


def test_the_reason_is_the_disk_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad_images.jsonl"
    path.symlink_to("/dev/full")
    images = BadImages(path, CPU)
    images.note(1, ["a"], 1)
    assert (images.add_up(), images.unrecorded) == (1, 1)
    assert "warning: a cannot be noted in" in (line := capsys.readouterr().err)
    assert "No space left on device; it waits in memory, and training goes on" in line
