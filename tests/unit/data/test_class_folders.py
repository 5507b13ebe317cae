"""Folders that may not be what they are taken for: files that number the classes otherwise, chunks, copies, lost classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shard_factory import image_of

from sar_dist.data.making.sources import imagefolder_sources
from sar_dist.errors import UserError


def tree(root: Path, *names: str) -> Path:
    """A folder with an image at each of ``names``."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_of(number))
    return root


def said_of(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    imagefolder_sources(root, None)
    return capsys.readouterr().err


@pytest.mark.parametrize("train", [None, ["cat", "dog"]])
def test_a_classes_json_that_says_otherwise_in_another_split_is_refused(
    tmp_path: Path, train: list[str] | None
) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png")
    if train is not None:
        (tmp_path / "train" / "classes.json").write_text(json.dumps(train))
    (tmp_path / "val" / "classes.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    assert imagefolder_sources(tmp_path, None)[1].classes == ("cat", "dog")
    (tmp_path / "val" / "classes.json").write_text(json.dumps(["dog", "cat"]))
    with pytest.raises(UserError, match=r"val/classes\.json gives 'cat' the label 1, and .* 0; all splits have one"):
        imagefolder_sources(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("class_to_idx.json", '{"dog": 0, "cat": 1}', True),
        ("class_to_idx.json", '{"cat": 0, "dog": 1}', False),
        ("id2label.json", '{"0": "dog", "1": "cat"}', True),
        ("classes.txt", "Dog\nCat\n", True),
        ("classes.txt", "1 cat\n2 dog\n", False),
        ("labels.txt", "0 dog\n1 cat", True),
        ("labels.txt", "dog,0\ncat,1", True),
        ("labels.txt", "sunny\nrainy", False),
        ("labels.json", "[", False),
    ],
)
def test_lists_that_put_the_classes_in_another_order_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, said: bool
) -> None:
    tree(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / name).write_text(content)
    line = f"{name} is not used, and numbers the classes otherwise (dog, cat) than they are labelled here (cat, dog)"
    assert said_of(tmp_path, capsys).count(line) == said
