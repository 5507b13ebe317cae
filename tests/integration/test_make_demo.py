"""What `make demo` does, on fewer images: demo shards, two processes under the deepspeed launcher, validation, pictures."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

from support import ROOT, program_environment, read_metrics, tool

from sar_dist.config import apply_overrides
from sar_dist.transfer.registry import find_task


def test_demo_end_to_end(tmp_path: Path) -> None:
    made = tool("tools/make_shards.py", "demo", str(tmp_path / "demo"), "--train", "160", "--val", "48")
    assert made.status == 0, made.stderr
    assert tool("tools/make_shards.py", "verify", str(tmp_path / "demo" / "train"), "--deep").status == 0
    overrides = ["run.max_steps=3", f"run.dir={tmp_path / 'runs'}", "log.every=1"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "deepspeed.launcher.runner",
            "--log_level=critical",
            "--num_accelerators=2",
            "--master_port=29831",
            "tools/train.py",
            "--config=configs/demo.py",
            *overrides,
        ],
        cwd=ROOT,
        env=program_environment(SAR_DIST_DATA=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "demo"
    assert sorted(read_metrics(run)) == [1, 2, 3]
    assert read_metrics(run, "val")[3]["images"] == 48
    for said in ("2 processes", "tensorboard --logdir", str(run / "checkpoints"), str(run / "figures")):
        assert said in done.stdout
    assert len(list((run / "figures").glob("attention_*.png"))) == 1
    assert_nothing_buries_the_run(done.stdout, done.stderr)


def assert_nothing_buries_the_run(stdout: str, stderr: str) -> None:
    """Neither the launcher nor a library speaks between the lines of two processes, and each step is said once."""
    assert stderr == ""
    lines = stdout.splitlines()
    assert [line.split("  ")[1] for line in lines if line.startswith("demo  step")] == [
        "step 1/3 (33.3%)",
        "step 2/3 (66.7%)",
        "step 3/3 (100.0%)",
    ]
    ours = r"demo: |peak |demo  step |warning: training waited|step 3: validation|finished 3 steps|  (replaced|skipped|metrics|TensorBoard|checkpoints|attention) "
    assert [line for line in lines if not re.match(ours, line)] == []


def test_makefile_demo_uses_what_the_test_uses() -> None:
    recipe = (ROOT / "Makefile").read_text()
    assert "tools/make_shards.py demo data/demo" in recipe
    assert (
        "deepspeed --log_level critical --num_accelerators $$($(RUN) python -m sar_dist.devices 2) tools/train.py"
        in recipe
    )
    assert "tools/train.py --config configs/demo.py" in recipe


def test_makefile_demo_evaluates_what_it_trained() -> None:
    commands = [
        line.split() for line in (ROOT / "Makefile").read_text().splitlines() if "tools/transfer_eval.py" in line
    ]
    assert len(commands) == 2
    for command in commands:
        given = dict(itertools.pairwise(command))
        task = find_task(given["--task"])
        apply_overrides(task.settings_type, [word for word in command if "=" in word])
        assert (given["--model"], given["--data"]) == ("runs/demo", "data/demo")
