"""Labels from ``cls``, from fields of JSON members, and in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shard_factory import image_of, tar_bytes

from sar_dist.data import load_manifest
from sar_dist.data.shards import check_shards
from sar_dist.data.shards.checks import open_index
from sar_dist.data.shards.label_source import parse_label_source
from sar_dist.errors import UserError

VALUES = [1, "0", "dog", -1, 1.0, True, None, [1], {"label": 1}, "10" * 4000]


def shards_of(folder: Path) -> Path:
    """One tar in img2dataset's layout, its labels in json."""
    members = []
    for number, value in enumerate(VALUES):
        content = json.dumps({"caption": "x", "label": value, "more": {"id": number}}).encode()
        members += [
            (f"{number:09d}.jpg", image_of(number)),
            (f"{number:09d}.txt", b"x"),
            (f"{number:09d}.json", content),
        ]
    folder.mkdir(exist_ok=True)
    (folder / "00000.tar").write_bytes(tar_bytes(members))
    return folder


def labels(folder: Path, source: str) -> list[int]:
    manifest = load_manifest(folder, "train", source)
    assert manifest.fingerprint != load_manifest(folder, "train").fingerprint
    return open_index(manifest).records["label"].tolist()


def test_json_fields_words_and_what_is_no_label(tmp_path: Path) -> None:
    folder = shards_of(tmp_path / "a")
    nothing = [-1] * (len(VALUES) - 3)
    assert labels(folder, "json.label") == [1, 0, -1, *nothing]
    assert labels(folder, "json.more.id") == list(range(len(VALUES)))
    with pytest.raises(UserError, match=r"none of the 10 train samples .* has a label in cls"):
        check_shards(load_manifest(folder, "train"), max_bad_fraction=0)
    for words in (["cat", "dog"], {"cat": 0, "dog": 1}, {"cat": "Cat", "dog": "Dog"}):
        (folder / "classes.json").write_text(json.dumps(words))
        assert labels(folder, "json.label") == [1, 0, 1, *nothing]
        assert load_manifest(folder, "train", "json.label").num_classes == 2
    (folder / "classes.json").write_text(json.dumps({"cat": 0, "dog": 7}))
    with pytest.raises(UserError, match=r"does not give its 2 classes the labels 0..1"):
        load_manifest(folder, "train")


@pytest.mark.parametrize("text", [".label", "json.", "json..x", ""])
def test_impossible_sources(text: str) -> None:
    with pytest.raises(UserError, match="is no source of labels"):
        parse_label_source(text, {})
