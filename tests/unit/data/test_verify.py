"""`make_shards.py verify`: everything that is wrong, at once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_factory import image_of, make_shards, sample_members, tar_bytes

from sar_dist.data.making.sources import FileSample, FileSource
from sar_dist.data.making.verify import verify_folder
from sar_dist.data.making.writing import WritingOptions, write_shards
from sar_dist.errors import UserError

TOOL = Path(__file__).resolve().parents[3] / "tools" / "make_shards.py"


def write(folder: Path, count: int) -> None:
    """``count`` samples of 3 classes in shards of 10."""
    source = folder.with_name("images")
    source.mkdir()
    for number in range(count):
        (source / f"k{number:02d}.png").write_bytes(image_of(number))
    samples = [FileSample(f"k{number:02d}", {"png": f"k{number:02d}.png"}, number % 3) for number in range(count)]
    options = WritingOptions(samples_per_shard=10, processes=1)
    write_shards(FileSource("test", source, "train", samples, ("a", "b", "c")), folder, options)


def test_verify_reports_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "a", 40)
    verify_folder(tmp_path / "a", deep=True)
    assert (
        "train: 4 shards, 0 damaged; 40 samples, 0 bad; 3 classes of 13 to 14 samples (fewest: label 1, b, most: label 0, a)"
        in capsys.readouterr().out
    )
    (tmp_path / "a" / "train-000001.tar").unlink()
    os.truncate(tmp_path / "a" / "train-000002.tar", 700)
    with pytest.raises(UserError, match="2 problems"):
        verify_folder(tmp_path / "a")
    lines = capsys.readouterr().out.splitlines()
    assert "train-000001.tar" in lines[0]
    assert "train-000002.tar: 700 bytes, its manifest says" in lines[1]
    assert "2 damaged; 20 samples" in lines[2]


def test_verify_names_bad_samples(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken = image_of(3)[:40]
    members = [
        *sample_members(1),
        ("b.jpg", broken),
        ("b.cls", b"1"),
        ("c.cls", b"1"),
        ("d.jpg", image_of(4)),
        ("d.cls", b"x"),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    with pytest.raises(UserError, match="2 problems"):
        verify_folder(tmp_path)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "shard a.tar: c: no image",
        "shard a.tar: d: label 'x' is neither a class number (digits in 0..n-1) nor a word of classes.json",
    ]
    with pytest.raises(UserError, match="3 problems"):
        verify_folder(tmp_path, deep=True)
    assert "shard a.tar: b: " in capsys.readouterr().out


def test_verify_prints_names_that_are_no_text_and_counts_what_belongs_to_no_sample(tmp_path: Path) -> None:
    members = [("._a.jpg", b"x"), (b"\xe9.jpg".decode("utf-8", "surrogateescape"), image_of(1)), ("\xe9.cls", b"1")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members, tarfile.GNU_FORMAT))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, TOOL, "verify", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert r"shard a.tar: \udce9: no label in cls" in done.stdout
    assert r"shard a.tar: \xe9: no image" in done.stdout
    assert "left out 1 members that belong to no sample, such as '._a.jpg'" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_of_several_layouts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_shards(tmp_path / "a", [3, 4], "train")
    make_shards(tmp_path / "a", [2], "val")
    verify_folder(tmp_path / "a")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "val"]
    with pytest.raises(UserError, match="no manifest"):
        verify_folder(tmp_path)


def test_verify_tells_shards_without_labels_from_sets_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = [("a.jpg", image_of(1)), ("b.jpg", image_of(2))]
    (tmp_path / "train-0.tar").write_bytes(tar_bytes(without))
    verify_folder(tmp_path)
    (tmp_path / "train-1.tar").write_bytes(tar_bytes(sample_members(1)))
    with pytest.raises(UserError, match="1 problems"):
        verify_folder(tmp_path)
    assert (
        "shard train-0.tar: none of its 2 samples has a label in cls, unlike those of other" in capsys.readouterr().out
    )


def test_a_jpeg_of_which_libjpeg_warns_is_good_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One whose second half is zeros: every decoder makes a picture of it, and training takes it."""
    pytest.importorskip("simplejpeg")
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(out, "JPEG")
    whole = out.getvalue()
    damaged = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    members = [("a.jpg", whole), ("a.cls", b"0"), ("b.jpg", damaged), ("b.cls", b"0")]
    (tmp_path / "train-0.tar").write_bytes(tar_bytes(members))
    verify_folder(tmp_path, processes=1)
    assert capsys.readouterr().err == ""
    verify_folder(tmp_path, deep=True, processes=1)
    said = capsys.readouterr()
    assert "2 samples, 0 bad" in said.out
    assert "1 images can be decoded, but libjpeg warns of them" in said.err
    assert "the first in shard train-0.tar, b: " in said.err


def test_a_name_with_a_line_break_stays_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train-0.tar").write_bytes(tar_bytes([("a\nb.jpg", image_of(0)), ("a\nb.cls", b"x")]))
    with pytest.raises(UserError):
        verify_folder(tmp_path, processes=1)
    assert r"shard train-0.tar: a\nb: label 'x' is neither" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["manifest.json", "_info.json", "classes.json"])
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_describes_shards_is_a_file_or_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Taken for absent, it would change what is read or what labels mean."""
    make_shards(tmp_path, [3], "train")
    if kind == "folder":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=rf"{name} is (no file|a link to nothing); restore or remove it"):
        verify_folder(tmp_path, processes=1)


def test_a_pipe_called_like_a_tar_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_shards(tmp_path, [3], "train")
    os.mkfifo(tmp_path / "train-1.tar")
    verify_folder(tmp_path, processes=1)
    assert "left out 1 pipes or devices called like tars, such as train-1.tar" in capsys.readouterr().err
