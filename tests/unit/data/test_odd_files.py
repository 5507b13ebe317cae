"""Files that are not what they should be are called what they are, with what to do."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from shard_factory import image_of, tar_bytes

from sar_dist.data.layout import format_of_image, no_plain_tar
from sar_dist.data.making.sources.parquet_splits import find_parquet_files
from sar_dist.data.shards import index_shard
from sar_dist.data.shards.label_source import LabelSource, parse_label_source
from sar_dist.data.shards.odd_members import held_instead
from sar_dist.data.shards.tar_index import NO_LABEL, parse_label
from sar_dist.errors import UserError


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (b"\0\0\0\x20ftypavif\0\0\0\0", "avif"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "heic"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
        (b"\xff\x4f\xff\x51\0", "j2k"),
        (b"P6\n2 2\n255\n", "ppm"),
        (b"P5 2 2 255\n", "pgm"),
        (b"RIFF\0\0\0\0WEBP", "webp"),
        (b"\xff\xd8\xff", "jpg"),
        (b"PK\x03\x04", None),
        (b"P7 what", None),
    ],
)
def test_formats_of_images_by_their_first_bytes(data: bytes, extension: str | None) -> None:
    assert format_of_image(data) == extension


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
            r"a message of a server .*AccessDenied.*again",
        ),
        (b'{"message": "Not Found"}', "a message of a server"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (lzma.compress(b"a", lzma.FORMAT_ALONE), "lzma.*`unlzma < FILE > NEW.tar`"),
        (b"", r"0 bytes\); fetch or make it again"),
        (b"\0" * 1024, "holds no sample; members of a sample are called KEY.jpg"),
        (tar_bytes([("a.jpg", b"1")]) + tar_bytes([("b.jpg", b"2")]), "joined by cat; give each as a file of its own"),
        (tar_bytes([("a.jpg", b"1")])[:700], "truncated: .*; fetch or make it again"),
    ],
)
def test_files_that_are_no_tars(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=message):
        index_shard(tmp_path / "a.tar")


def test_a_tar_may_begin_with_any_letter() -> None:
    assert no_plain_tar(tar_bytes([("{a}.jpg", b"1")])[:512]) is None


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"heic": b"1", "cls": b"1"}, "an image as .heic, which is not read: convert"),
        ({"image": image_of(1), "cls": b"1"}, "an image as .image: give such members the ending of their format, .png"),
        ({"jpg": b"", "cls": b"1"}, "an image of 0 bytes as .jpg"),
        ({"txt": b"a", "cls": b"1"}, "only .txt, .cls"),
    ],
)
def test_what_a_sample_holds_instead_of_an_image(members: dict[str, bytes], said: str) -> None:
    assert said in held_instead(members)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/data-00000-of-00001.arrow", r"save_to_disk writes it; .*load_from_disk\(.*to_parquet"),
        ("train.parquet.gz", "train.parquet.gz, which is compressed"),
        ("train.parquet.incomplete", "not downloaded to its end"),
        ("train-0.tar", "`make_shards.py tars` reads .tar files"),
        ("train.txt", "no .parquet files in"),
    ],
)
def test_sets_that_are_not_of_parquet_files(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        find_parquet_files(tmp_path)


def test_a_part_of_a_split_from_the_hub_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "partial-train").mkdir()
    (tmp_path / "partial-train" / "0000.parquet").write_bytes(b"")
    assert [*find_parquet_files(tmp_path)] == ["partial-train/0000.parquet"]
    assert "are the first part of a split alone" in capsys.readouterr().err


def test_a_label_that_is_there_twice_is_none() -> None:
    labels: LabelSource = parse_label_source("json.label", {})
    twice, other = b'{"label": 1, "label": 2}', b'{"x": 1, "x": 2, "label": 2}'
    assert [labels.label(data, parse_label, NO_LABEL) for data in (twice, other)] == [NO_LABEL, 2]
    assert labels.found({"json": twice}) == "'label' twice in one object"
