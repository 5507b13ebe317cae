"""The benchmarks run: each can be asked for help, and some measure something tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import ROOT, tool

PARTS = {"gpu_code.py", "jpegs.py", "step_sides.py"}  # of other benchmarks
PROGRAMS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name not in PARTS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_benchmark_explains_itself(program: str) -> None:
    done = tool(f"benchmarks/{program}", "--help")
    assert (done.status, done.stdout.startswith("usage:")) == (0, True), done.stderr


def test_train_step_compares_all_sides(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    model = ["--model=vit_tiny_patch16_224", '--model-options={"depth": 1}', "--batch=2", "--micro-batches=2"]
    options = ["--rounds=2", "--block=2", "--precision", "fp32", "bf16_parameters", f"--out={out}"]
    done = tool("benchmarks/train_step.py", *model, *options)
    assert done.status == 0, done.stderr[-3000:]
    results = json.loads(out.read_text())["results"]
    assert [result["precision"] for result in results] == ["fp32", "bf16_parameters"]
    for result in results:
        sides = result["sides"]
        assert list(sides) == ["bare loop", "like timm", "engine", "ours"]
        assert sides["bare loop"]["wall_ratio"] == 1
        for side in sides.values():
            assert side["images_per_second"] == pytest.approx(4 / side["wall_seconds"])
            assert side["peak_gib"] > 0


def test_a_setting_that_fails_or_comes_too_late_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    done = tool("benchmarks/train_step.py", "--seconds=0", "--precision", "fp32", f"--out={out}")
    assert done.status == 1
    assert "not begun" in json.loads(out.read_text())["results"][0]["error"]
    done = tool("benchmarks/train_step.py", "--sides", "ours")
    assert done.status == 2
    assert "bare loop" in done.stderr


def test_spatial_entropy_measures_its_share_of_a_step(tmp_path: Path) -> None:
    out = tmp_path / "entropy.json"
    options = ["--reference", "--steps", "--repeats=1", "--models", "vit_tiny_patch16_224", "--step-batch=1"]
    done = tool("benchmarks/spatial_entropy.py", *options, f"--out={out}")
    assert done.status == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert 0 < found["steps"][0]["share"] < 1
    assert found["cases"][0]["median_ms"].keys() >= {"loop", "cpu", "torch", "fused q.k"}


@pytest.mark.long
def test_device_augmentation_is_counted_as_the_page_says_and_is_little_of_a_step(tmp_path: Path) -> None:
    out = tmp_path / "augmentation.json"
    done = tool("benchmarks/device_augmentation.py", "--count=4", "--rounds=1", f"--out={out}", timeout=500)
    assert done.status == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    page = (ROOT / "docs" / "augmentation.md").read_text()
    finish = found["device"]["normalise, erase, mix"]["share"]
    for name, row in found["device"].items():
        assert 0 < row["share"] + finish < 0.04
        assert f"| {name} | {row['kernels']} | {row['megabytes_per_image']:.2f} |" in page
    assert found["workers"].keys() | {"normalise, erase, mix"} == found["device"].keys()
    assert 0 < found["host"]["compiled"] < found["host"]["as it is"]
