"""tools/transfer_eval.py as users type it, on a run that two processes trained."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT, jpeg, program_environment, read_metrics, run_processes, tool

from sar_dist.model_specs import SPEC_HELP
from sar_dist.transfer import load_model

MODEL_KEYS = ("engine.zero_stage=3", "run.max_steps=4", "optim.ema=0.5", "checkpoint.every=4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_shards: Path) -> tuple[Path, Path]:
    """A run of two ZeRO-3 processes with averaged weights, and the shards it was trained on."""
    from support import SMALL_CONFIG

    folder = tmp_path_factory.mktemp("trained")
    config = folder / "small.py"
    config.write_text(SMALL_CONFIG.format(runs=str(folder / "runs"), data=str(small_shards)))
    run_processes(2, "tools/train.py", "--config", str(config), *MODEL_KEYS)
    return folder / "runs" / "small", small_shards


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 24 training and 13 validation images of 4 classes."""
    root = tmp_path_factory.mktemp("pictures") / "pictures"
    for split, count in (("train", 24), ("val", 13)):
        for number in range(count):
            file = root / split / f"c{number % 4}" / f"{number:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(number))
    return root


HELP = """
import runpy, sys
try:
    runpy.run_path("tools/transfer_eval.py", run_name="__main__")
finally:
    print(sorted({"torch", "timm", "matplotlib"} & set(sys.modules)))
"""


def test_help_names_every_kind_of_model_and_imports_nothing_slow():
    done = tool("-c", HELP, "--help")
    assert done.status == 0, done.stderr
    assert SPEC_HELP in " ".join(done.stdout.split())  # wrapped to the terminal's width
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Run the tool inside this process, which has paid for the slow imports; exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transfer_eval.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(ROOT / "tools" / "transfer_eval.py"), run_name="__main__")
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def evaluate(*arguments: str, **environment: str) -> str:
    done = tool("tools/transfer_eval.py", *arguments, **environment)
    assert done.status == 0, done.stderr + done.stdout
    return done.stdout


def result(out: Path, label: str) -> dict:
    return json.loads((out / label / "result.json").read_text())


def test_a_zero_checkpoint_its_export_and_training_agree(trained, tmp_path, in_process):
    run, shards = trained
    assert in_process("--task", "imagenet_val", "--model", str(run), "--data", str(shards), "workers=0")[0] == 0
    label = f"imagenet_val_{shards.name}"
    of_run = result(run / "transfer", label)
    last = read_metrics(run, "val_ema")[4]
    assert all(of_run["metrics"][name] == pytest.approx(last[name]) for name in ("top1", "top5"))
    assert of_run["data"]["samples"] == 21
    assert not of_run["partial"]

    assert tool("tools/export.py", str(run), str(tmp_path / "export")).status == 0
    run_processes(
        2, "tools/transfer_eval.py", "--task", "imagenet_val", "--model", str(tmp_path / "export"),
        "--data", str(shards), "--out", str(tmp_path / "out"), "workers=0",
    )  # fmt: skip
    of_export = result(tmp_path / "out", label)
    assert of_export["model"]["fingerprint"] == of_run["model"]["fingerprint"]
    assert of_export["metrics"] == of_run["metrics"]


def test_the_second_call_shows_the_result_and_another_model_is_refused(trained, tmp_path, in_process):
    run, shards = trained
    arguments = ("--task", "imagenet_val", "--data", str(shards), "--out", str(tmp_path), "workers=0", "--limit", "10")
    status, first, _ = in_process(*arguments, "--model", str(run))
    assert status == 0
    assert "PARTIAL" in first
    assert "10 samples" in first
    _, second, _ = in_process(*arguments, "--model", str(run))
    assert "already done" in second
    status, _, errors = in_process(*arguments, "--model", f"random:{run}")
    assert status == 2
    assert "another model" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "knnn"], "did you mean knn"),
        ([], "--task NAME is missing"),
        (["--task", "imagenet_val", "colour=red"], "unknown key 'colour'"),
        (
            ["--task", "imagenet_val", "--data", "nowhere"],
            "--data nowhere: there is no nowhere or nothing/nowhere or data/nowhere; expected",
        ),
        (["--task", "ade20k"], "looked for nothing/"),
        (["--task", "imagenet_val", "--data", ".", "--model", "runs/gone"], "runs/gone: there is no such folder"),
        (["--task", "imagenet_val", "--data", ".", "--model", "random:vit_tiny_patch16_224"], "has no val split"),
    ],
)
def test_bad_input_is_one_line(in_process, monkeypatch, arguments, message):
    monkeypatch.setenv("SAR_DIST_DATA", "nothing")
    status, _, errors = in_process(*arguments)
    assert status == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_list_and_the_help_explain_the_tasks(in_process):
    _, listed, _ = in_process("--list")
    assert "finetune\n    fine-tunes the whole model" in listed
    _, helped, _ = in_process("--task", "finetune", "--help")
    assert "entropy_weight (float, 0.0)" in helped


FINETUNE = (
    "epochs=2", "warmup_epochs=1", "global_batch=8", "micro_batch=8", "workers=0", "train.engine.precision=fp32",
    "entropy_weight=0.01", "train.run.max_steps=6", "train.checkpoint.every=2", "train.log.figure_images=0", "train.log.every=1",
    "image_size=48", "layer_decay=0.8", "train.data.streams=1", "train.optim.min_lr=0",
)  # fmt: skip


@pytest.mark.long
def test_fine_tuning_killed_in_the_middle_ends_as_if_nothing_had_been(trained, pictures, tmp_path):
    run, _ = trained
    command = ("--task", "finetune", "--model", str(run), "--data", str(pictures), *FINETUNE)
    unbroken = evaluate(*command, "--out", str(tmp_path / "unbroken"))
    assert "newly initialised head.weight, head.bias" in unbroken
    assert "resampled pos_embed" in unbroken
    tuned = load_model(str(tmp_path / "unbroken" / "finetune_entropy_pictures" / "run"))
    assert tuned.classes == ("c0", "c1", "c2", "c3"), "checkpoints record the names of the classes"

    folder = tmp_path / "killed" / "finetune_entropy_pictures"
    process = subprocess.Popen(
        [sys.executable, "tools/transfer_eval.py", *command, "--out", str(tmp_path / "killed")],
        cwd=ROOT, env=program_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(folder.glob("run/checkpoints/step_*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists(), "it was over before it could be killed"
    evaluate(*command, "--out", str(tmp_path / "killed"))

    whole, continued = (result(tmp_path / name, folder.name) for name in ("unbroken", "killed"))
    assert continued["metrics"] == whole["metrics"]
    losses = [read_metrics(tmp_path / name / folder.name / "run") for name in ("unbroken", "killed")]
    assert [entry["loss"] for entry in losses[0].values()] == [entry["loss"] for entry in losses[1].values()]
    assert len(losses[0]) == 6
    assert (tmp_path / "killed" / folder.name / "confusion.png").stat().st_size > 1000
