"""``tools/make_shards.py`` as a user runs it: exit status, messages, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from support import ROOT, jpeg, program_environment, tool

from sar_dist.data import check_shards, load_manifest


def make_tree(root: Path, count: int) -> Path:
    for number in range(count):
        path = root / f"class{number % 3}" / f"image{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return root


def test_make_verify_damage_verify(tmp_path: Path) -> None:
    source, out = make_tree(tmp_path / "val", 30), str(tmp_path / "out")
    made = tool("tools/make_shards.py", "imagefolder", str(source), out, "--samples-per-shard", "10")
    assert (made.status, made.stdout) == (0, f"{out}: 30 samples of 3 classes in 3 shards, 0.1 MB\n")
    assert load_manifest(out, "val").total == 30
    verified = tool("tools/make_shards.py", "verify", out, "--deep")
    assert verified.status == 0
    assert verified.stdout == "val: 3 shards, 0 damaged; 30 samples, 0 bad; 3 classes of 10 samples each\n"

    again = tool("tools/make_shards.py", "imagefolder", str(source), out)
    assert again.status == 2
    assert again.stderr.splitlines()[-1] == (
        f"error: {out} holds finished shards already, of another source, other labels or other options, or of an earlier "
        "version; choose another folder or remove it"
    )
    os.truncate(tmp_path / "out" / "val-000001.tar", 1000)
    damaged = tool("tools/make_shards.py", "verify", out)
    assert damaged.status == 2
    assert "val-000001.tar: 1000 bytes" in damaged.stdout
    assert damaged.stderr.splitlines()[-1].startswith("error: 1 problems")
    assert "Traceback" not in damaged.stderr + again.stderr


def test_urls_are_no_places_here(tmp_path: Path) -> None:
    source, url = make_tree(tmp_path / "train", 3), f"file://{tmp_path}/out"
    for arguments in (("imagefolder", str(source), url), ("tars", "s3://b/x", str(tmp_path / "out")), ("verify", url)):
        made = tool("tools/make_shards.py", *arguments)
        assert made.status == 2
        assert "is a URL, which is not taken here; give a folder" in made.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert not (ROOT / "file:").exists()


def test_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL while shards are written: nothing half written is taken for whole, and the same command completes it."""
    out = tmp_path / "out"
    command = ["demo", str(out), "--train", "120", "--val", "20", "--image-size", "64", "--samples-per-shard", "10"]
    command += ["--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "tools/make_shards.py", *command], cwd=ROOT, env=program_environment(), start_new_session=True
    )
    end = time.monotonic() + 120
    while len(list(out.glob("train/*.tar"))) < 5:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "train" / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("train/*.tar")}
    resumed = tool("tools/make_shards.py", *command)
    assert resumed.status == 0, resumed.stderr
    # A process may have been killed between finishing a shard and noting it down: that one is written again.
    written_again = [path for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert len(written_again) <= 2 < len(before)
    for split, total in (("train", 120), ("val", 20)):
        manifest = load_manifest(out, split)
        assert manifest.total == total
        check_shards(manifest, num_classes=10, max_bad_fraction=0)
    assert not [path for path in out.rglob(".*") if path.suffix != ".index"]
