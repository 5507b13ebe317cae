"""A label that is none is shown as it is found, by whoever refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from shard_factory import image_of, tar_bytes

from sar_dist.data import check_shards, load_manifest
from sar_dist.data.making import verify_folder
from sar_dist.data.making.sources.tars import tar_sources
from sar_dist.errors import UserError

FOUND = [
    ("cls", b"1.0", "'1.0'"),
    ("cls", b"\xef\xbb\xbfcat", r"'\ufeffcat'"),
    ("cls", b'"3"', "'\"3\"'"),
    ("cls", b"0x1", "'0x1'"),
    ("cls", b"9" * 50, f"'{'9' * 39}... (52 characters)"),
    ("cls", b"\xff\xfe3\0", r"'\\xff\\xfe3\x00'"),
    ("json.y", b'{"y": 1.0}', "1.0"),
    ("json.y", b'{"y": [1]}', "[1]"),
    ("json.y", b'{"y": true}', "true"),
    ("json.y", b'{"y": null}', "null"),
    ("json.y", b'{"y": "0x1"}', '"0x1"'),
    ("json.y", b'{"y": 99999999999999}', "99999999999999"),
    ("json.y", b"{'y': 1}", "in a json that is no JSON, b\"{'y': 1}\","),
]


@pytest.mark.parametrize(("source", "data", "found"), FOUND)
def test_what_is_found_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, data: bytes, found: str
) -> None:
    member = source.partition(".")[0]
    good = b'{"y": 0}' if member == "json" else b"0"
    members = [("a.jpg", image_of(1)), (f"a.{member}", data), ("b.jpg", image_of(2)), (f"b.{member}", good)]
    (tmp_path / "train-0.tar").write_bytes(tar_bytes(members))
    with pytest.raises(UserError) as error:
        check_shards(load_manifest(tmp_path, "train", source), num_classes=2, max_bad_fraction=0)
    assert f"the first is sample 0 of shard train-0.tar, with label {found}. " in str(error.value)
    with pytest.raises(UserError) as error:
        tar_sources(tmp_path, source, None)
    assert f"the first is sample 0 of train-0.tar, with label {found};" in str(error.value)
    with pytest.raises(UserError, match="1 problems in"):
        verify_folder(tmp_path, processes=1, label=source)
    assert f"a: label {found} is neither a class number (digits in 0..n-1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "data", "held"),
    [
        ("cls", b"1.0", "has a label in cls (a number, or a word of classes.json): the first holds '1.0'; data.label"),
        ("json.y", b'{"x": 1}', "has a label in json.y; data.label"),
        ("json.y", b"[1]", "has a label in json.y; data.label"),
        ("txt", b"1", "has a label in txt; data.label"),
    ],
)
def test_none_of_all_has_a_label(tmp_path: Path, source: str, data: bytes, held: str) -> None:
    member = "json" if source == "txt" else source.partition(".")[0]
    (tmp_path / "train-0.tar").write_bytes(tar_bytes([("a.jpg", image_of(1)), (f"a.{member}", data)]))
    with pytest.raises(UserError) as error:
        check_shards(load_manifest(tmp_path, "train", source), num_classes=2, max_bad_fraction=0)
    assert held in str(error.value)
