"""The demo's model trains on a GPU: every ZeRO stage and precision, compiled once; and the program that checks it works.

``make test-gpu`` runs the tests that need a GPU. The others run the same program on the CPU, in every ``make test``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from support import tool

from benchmarks.training_check import Variant, WaitCounter, problems_of

GPU = {"DS_ACCELERATOR": "cuda"}
EARLY_STEPS, EARLY_TOLERANCE = 3, 2e-2  # before rounding has grown, all precisions give about the same losses


@pytest.fixture(scope="module")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = tmp_path_factory.mktemp("demo") / "shards"
    made = tool("tools/make_shards.py", "demo", str(shards), "--train=256", "--val=64", "--image-size=64")
    assert made.status == 0, made.stderr
    return shards


def check(shards: Path, folder: Path, *arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    """What benchmarks/training_check.py finds, by setting."""
    out = folder / "found.jsonl"
    fixed = [f"--data={shards}", f"--work={folder / 'runs'}", f"--out={out}"]
    done = tool("benchmarks/training_check.py", *fixed, *arguments, timeout=550, **environment)
    assert out.exists(), (done.stdout + done.stderr)[-4000:]
    found = {result["variant"]: result for result in map(json.loads, out.read_text().splitlines())}
    problems = {variant: result["problems"] for variant, result in found.items() if result["problems"]}
    assert (done.status, problems) == (0, {}), (done.stdout + done.stderr)[-4000:]
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_training_on_a_gpu(stage: int, demo_shards: Path, tmp_path: Path) -> None:
    variants = [f"zero{stage}/{precision}" for precision in ("bf16_parameters", "fp16", "bf16")]
    variants += ["zero1/bf16_parameters/compiled"] if stage == 1 else []
    found = check(demo_shards, tmp_path, *variants, **GPU)
    assert sorted(found) == sorted(variants)
    exact = found[f"zero{stage}/bf16"]["losses"]
    for variant, result in found.items():
        assert result["device"] == "cuda"
        assert len(result["losses"]) == 20
        assert result["waits"]["step"], f"{variant}: an optimizer step waits for the norm; nothing was counted"
        assert result["losses"][:EARLY_STEPS] == pytest.approx(exact[:EARLY_STEPS], rel=EARLY_TOLERANCE)


def test_the_same_program_on_the_cpu(demo_shards: Path, tmp_path: Path) -> None:
    small = ["optim.global_batch=16", "engine.micro_batch=8", "model.options.depth=2"]
    options = ["--device=cpu", "--steps=6", *(f"--set={setting}" for setting in small)]
    found = check(demo_shards, tmp_path, *options, "zero1/bf16", "zero2/fp32", "zero3/bf16_parameters")
    assert sorted(found) == ["zero1/bf16", "zero2/fp32", "zero3/bf16_parameters"]
    exact = found["zero2/fp32"]["losses"]
    for result in found.values():
        assert (result["steps"], result["waits"], result["resumed_from"]) == (6, None, 3)
        assert result["resume_difference"] == 0.0
        assert result["losses"][:EARLY_STEPS] == pytest.approx(exact[:EARLY_STEPS], rel=EARLY_TOLERANCE)
    assert (tmp_path / "runs" / "zero3-bf16_parameters" / "checkpoints" / "step_00000006").is_dir()


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    common = ["benchmarks/training_check.py", f"--data={tmp_path}", f"--work={tmp_path}"]
    for arguments, message in (
        (["zero4/bf16"], "'zero4/bf16' is no setting"),
        (["zero1/bf16/fast"], "is no setting"),
        (["--steps=5", "zero1/bf16"], "--steps must be 6 or more"),
        (["zero1/bf16"], "PyTorch finds no GPU here"),
    ):
        done = tool(*common, *arguments, CUDA_VISIBLE_DEVICES="")
        assert done.status == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_waits_are_counted_by_phase_and_place() -> None:
    import torch

    counter, original = WaitCounter(), torch.cuda.synchronize
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment] # a CPU has nothing to wait for
    try:
        with counter.installed("cpu"):
            torch.cuda.synchronize()  # before anything is counted
            for phase, repeats in (("micro_batch", 4), ("step", 2)):
                counter.phase = phase
                for _ in range(repeats):
                    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            torch.cuda.synchronize()
            with pytest.warns(UserWarning, match="something else"):
                warnings.warn("something else", stacklevel=1)
        counted = torch.cuda.synchronize
        torch.cuda.synchronize()  # no longer counted
    finally:
        torch.cuda.synchronize = original
    assert counted.__name__ == "<lambda>"
    assert counter.per_phase(4, 2) == {"micro_batch": {"warned": 1}, "step": {"device": 0.5, "warned": 1}}
    assert all("tests/gpu/test_gpu_training.py:" in place for place in counter.places)


def test_problems_are_found() -> None:
    well = {"losses": [2.0, 1.9], "validation_loss": 1.8, "skipped_steps": 0, "device": "cuda", "waits": None}
    stage1 = Variant.parse("zero1/bf16")
    assert problems_of(well, stage1) == []
    assert problems_of({**well, "losses": [2.0, float("nan")]}, stage1) == ["a loss is not finite"]
    assert problems_of({**well, "skipped_steps": 2}, stage1) == ["2 steps were skipped"]
    assert problems_of({**well, "skipped_steps": 2}, Variant.parse("zero1/fp16")) == []
    assert "differs by 0.5" in problems_of({**well, "resume_difference": 0.5}, stage1)[0]
    assert problems_of({**well, "resume_difference": float("nan")}, stage1) != []
    waits = {"micro_batch": {"device": 2.0}, "step": {"warned": 5.0}}
    assert problems_of({**well, "waits": waits}, stage1) == ["2 waits (device) in a micro-batch, 0 expected"]
    assert problems_of({**well, "waits": waits}, Variant.parse("zero2/fp16")) == []
