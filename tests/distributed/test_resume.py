"""A run that is killed, signalled or moved to other processes goes on exactly where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support import jpeg, read_metrics, run_processes, start_processes, tool, write_tar

from sar_dist.checkpoint import CheckpointReader, CheckpointStore, complete_checkpoints
from sar_dist.config import load_config
from sar_dist.training.checks import check_training_data
from sar_dist.training.setup import build_train_loader

STEPS = 8
REPEATED = ("loss", "loss_entropy", "learning_rate", "gradient_norm", "entropy_weight", "bad_images")


def wait_for_step(run: Path, step: int, processes: list[subprocess.Popen[str]], timeout: float = 180) -> None:
    """Wait until ``run`` has logged ``step`` optimizer steps and committed a checkpoint."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0][-3000:]
        logged = (run / "metrics.jsonl").exists() and max(read_metrics(run), default=0) >= step
        if logged and complete_checkpoints(run / "checkpoints"):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached in {timeout} s")


def curve(run: Path) -> dict[int, list[float]]:
    """What a resumed run must repeat bit for bit, by step."""
    return {step: [entry[name] for name in REPEATED] for step, entry in read_metrics(run).items()}


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        pytest.param(1, "bf16", marks=pytest.mark.long),
        (3, "bf16"),
        (1, "bf16_parameters"),
        pytest.param(2, "bf16_parameters", marks=pytest.mark.long),
        pytest.param(3, "bf16_parameters", marks=pytest.mark.long),
    ],
)
def test_killed_run_continues_bit_for_bit(stage: int, precision: str, small_config: Path) -> None:
    runs = small_config.parent.parent / "runs"
    common = ["tools/train.py", f"--config={small_config}", f"engine.zero_stage={stage}", f"run.max_steps={STEPS}"]
    common.append(f"engine.precision={precision}")
    common += ["model.drop_path=0.2", "optim.ema=0.9", "augment.mixup=0.8", "augment.random_erasing=0.25"]
    common += ["augment.where=device", "augment.rand_augment=rand-m9-mstd0.5-inc1"]
    if stage == 3:
        common.append("model.train_sizes=[24,32,40]")
    run_processes(2, *common, "run.name=unbroken")

    killed = start_processes(2, *common, "run.name=killed", "log.every=1")
    wait_for_step(runs / "killed", 3, killed)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    output = run_processes(2, *common, "run.name=killed")

    assert "resumed after step" in output
    assert curve(runs / "killed") == curve(runs / "unbroken")
    for prefix in ("val", "val_ema"):
        scores = [
            {step: entry | {"time": 0} for step, entry in read_metrics(runs / name, prefix).items()}
            for name in ("killed", "unbroken")
        ]
        assert scores[0] == scores[1]
    one, other = (
        CheckpointReader(complete_checkpoints(runs / name / "checkpoints")[0]) for name in ("killed", "unbroken")
    )
    for kind in ("master", "exp_avg", "exp_avg_sq", "ema"):
        for name in one.shapes:
            assert torch.equal(one.parameter(name, kind), other.parameter(name, kind)), (kind, name)


def noted_samples(run: Path) -> dict[int, list[int]]:
    """Samples of the global batch of each step, as the ranks noted them; what a killed start noted last is overwritten."""
    batches: dict[int, list[int]] = {}
    for file in sorted(run.glob("samples_*.jsonl")):
        for step, samples in map(json.loads, file.read_text().splitlines()):
            batches[step] = [*batches.get(step, []), *samples]
        file.unlink()
    return batches


def test_a_mixture_goes_on_with_another_number_of_processes(
    small_config: Path, small_shards: Path, tmp_path: Path
) -> None:
    """Two data sets 3 to 1, killed on two processes and resumed on one: the samples of a loader that was never stopped."""
    other, run = tmp_path / "other", tmp_path / "runs" / "small"
    members = {f"{n:06d}.{end}": jpeg(n) if end == "jpg" else b"1" for n in range(2000, 2010) for end in ("jpg", "cls")}
    write_tar(other / "train-0000.tar", members)
    sets = f"[{{shards: {small_shards}, weight: 3}}, {{shards: {other}, weight: 1}}]"
    common = [f"--config={small_config}", f"data.train={sets}", "run.max_steps=12", "engine.micro_batch=4"]
    program = [str(Path(__file__).parent / "faulty_train.py"), "none", "0", "0"]
    killed = start_processes(2, *program, *common)
    wait_for_step(run, 3, killed)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = noted_samples(run)
    output = run_processes(1, *program, *common)
    assert "training set other: 25.00% of the images, 10 samples, 2.65 passes an epoch of 106" in output
    resumed = int(output.partition("resumed after step ")[2].split()[0])
    assert 2 <= resumed <= len(before)
    noted = {step: samples for step, samples in before.items() if step < resumed} | noted_samples(run)

    config = load_config(run / "config.json")
    loader = build_train_loader(config, config.data, check_training_data(config), 0, 1)
    unbroken = [sample for batch in loader.iterate(0, 12) for sample in batch["sample"].tolist()]
    assert [sample for step in range(12) for sample in noted[step]] == unbroken
    assert [sample >= 96 for sample in unbroken].count(True) == 12 * 16 // 4
    expected = {
        step: {f"images_of_{small_shards.name}": 12 * step, "images_of_other": 4 * step} for step in range(1, 13)
    }
    found = read_metrics(run, "data")
    assert {step: {name: found[step][name] for name in values} for step, values in expected.items()} == expected
    assert f"images by set     {small_shards.name} 144 (75.00%), other 48 (25.00%)" in output


def stop_in_validation(step: int, arguments: list[str], **environment: str) -> str:
    """Start two processes, signal one of them in the validation of ``step``; what rank 0 printed afterwards."""
    program = str(Path(__file__).parent / "faulty_train.py")
    processes = start_processes(2, program, "slow_validation", "0", str(step), *arguments, **environment)
    seen = ""
    for line in processes[0].stdout or ():
        seen += line
        if "validating slowly" in line:
            break
    processes[1].send_signal(signal.SIGUSR2)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [seen, *outputs]
    return outputs[0]


# 21 images on two processes: 6 batches for each of the two models.
IN_VALIDATION = ["optim.ema=0.9", "validation.every=2", "log.every=1", "data.workers=1", "engine.micro_batch=2"]


def test_a_signal_stops_a_validation_which_the_next_start_makes_up_for(small_config: Path, tmp_path: Path) -> None:
    run, marker = tmp_path / "runs" / "small", tmp_path / "requeue"
    common = [f"--config={small_config}", *IN_VALIDATION, "run.max_steps=3"]
    output = stop_in_validation(2, common, SAR_REQUEUE_FILE=str(marker))
    assert "stopped after step 2 (SIGUSR2)" in output
    # The signal is agreed on within a batch or two, of which process 1 may be ahead by as many.
    assert output.count("validating slowly") <= 6, "it went on to the end of the validation"
    assert marker.read_text() == "step 2: SIGUSR2\n"
    assert read_metrics(run, "val") == {}
    output = run_processes(2, "tools/train.py", *common)
    assert "resumed after step 2" in output
    assert list(read_metrics(run)) == [1, 2, 3]
    assert list(read_metrics(run, "val_ema")) == [2, 3]


@pytest.mark.long
def test_a_validation_that_was_made_up_for_is_not_forgotten(small_config: Path, tmp_path: Path) -> None:
    """Killed before the next checkpoint, a third start begins with what was saved before the validation was done."""
    common = [f"--config={small_config}", *IN_VALIDATION, "run.max_steps=4"]
    stop_in_validation(2, [*common, "run.name=stopped"])
    stopped, unbroken = tmp_path / "runs" / "stopped", tmp_path / "runs" / "unbroken"
    run_processes(2, "tools/train.py", *common, "run.name=stopped")
    for folder in complete_checkpoints(stopped / "checkpoints"):
        if CheckpointReader(folder).step > 2:
            shutil.rmtree(folder)
    run_processes(2, "tools/train.py", *common, "run.name=stopped")
    run_processes(2, "tools/train.py", *common, "run.name=unbroken")
    assert curve(stopped) == curve(unbroken)
    for prefix in ("val", "val_ema"):
        one, other = ({s: e | {"time": 0} for s, e in read_metrics(run, prefix).items()} for run in (stopped, unbroken))
        assert one == other
    states = [CheckpointReader(complete_checkpoints(run / "checkpoints")[0]) for run in (stopped, unbroken)]
    assert states[0].manifest.train_state == states[1].manifest.train_state


def test_a_run_stopped_in_a_validation_may_be_shortened_to_before_it(small_config: Path, tmp_path: Path) -> None:
    """The validation is made up for; the batch of its step, of which pictures would show samples, is not there."""
    run = tmp_path / "runs" / "small"
    common = [f"--config={small_config}", *IN_VALIDATION, "log.figures_every=2"]
    stop_in_validation(2, [*common, "run.max_steps=3"])
    output = run_processes(1, "tools/train.py", *common, "run.max_steps=1")
    assert "resumed after step 2" in output
    assert list(read_metrics(run, "val_ema")) == [2]
    assert json.loads((run / "summary.json").read_text())["step"] == 2


def test_time_limit_saves_and_stops(small_config: Path, tmp_path: Path) -> None:
    done = tool("tools/train.py", f"--config={small_config}", "run.max_hours=1e-9")
    assert done.status == 0, done.stderr
    assert "stopped after step 1 (run.max_hours is over)" in done.stdout
    assert len(complete_checkpoints(tmp_path / "runs" / "small" / "checkpoints")) == 1


def test_checkpoint_moves_to_other_processes_stages_and_precisions(small_config: Path, tmp_path: Path) -> None:
    """2 processes ZeRO-2 -> 1 process ZeRO-1 -> 2 processes ZeRO-3: every optimizer tensor stays what it was."""
    common = ["tools/train.py", f"--config={small_config}", "optim.ema=0.9", "optim.layer_decay=0.8", "run.max_steps=3"]
    run_processes(2, *common, "engine.zero_stage=2")
    first = CheckpointReader(complete_checkpoints(tmp_path / "runs" / "small" / "checkpoints")[0])
    folder = first.folder
    for number, (world_size, stage, precision) in enumerate(
        [(1, 1, "fp32"), (2, 3, "bf16"), (2, 1, "bf16_parameters")]
    ):
        target = tmp_path / f"moved{number}"
        script = str(Path(__file__).parent / "resave.py")
        run_processes(world_size, script, str(small_config), str(folder), str(target), str(stage), precision)
        moved = CheckpointReader(complete_checkpoints(target)[0])
        assert moved.manifest.world_size == world_size
        assert moved.adam_step == first.adam_step == 3
        assert moved.manifest.engine.lr_scheduler == first.manifest.engine.lr_scheduler
        for kind in ("master", "exp_avg", "exp_avg_sq", "ema"):
            for name in first.shapes:
                assert torch.equal(first.parameter(name, kind), moved.parameter(name, kind)), (kind, name)
        folder = moved.folder


def test_every_damaged_file_is_found_and_the_previous_checkpoint_used(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["tools/train.py", f"--config={small_config}"]
    assert tool(*common, "run.max_steps=4").status == 0
    newest, previous = complete_checkpoints(tmp_path / "runs" / "small" / "checkpoints")
    for name in sorted(os.listdir(newest)):
        original = (newest / name).read_bytes()
        for damaged in (original[: len(original) // 2], original[:-1] + bytes([original[-1] ^ 1])):
            (newest / name).write_bytes(damaged)
            reader = CheckpointStore(newest.parent, keep_last=2, keep_every=None).newest()
            assert reader is not None
            assert reader.folder == previous
            assert f"skipping a damaged checkpoint: {newest / name}" in capsys.readouterr().err
            (newest.parent / f"damaged-{newest.name}").rename(newest)  # where it was set aside
        (newest / name).write_bytes(original)
    (newest / "manifest.json").unlink()
    done = tool(*common, "run.max_steps=5")
    assert done.status == 0, done.stderr
    assert "skipping a damaged checkpoint" in done.stderr
    assert f"resumed after step 2 from {previous}" in done.stdout


def test_another_configuration_is_refused(small_config: Path, tmp_path: Path) -> None:
    assert tool("tools/train.py", f"--config={small_config}", "run.max_steps=1").status == 0
    changed = tool("tools/train.py", f"--config={small_config}", "optim.lr=0.5")
    assert changed.status == 2
    assert "optim.lr=0.001 (now 0.5)" in changed.stderr
    never = tool("tools/train.py", f"--config={small_config}", "run.resume=never")
    assert never.status == 2
    assert len(never.stderr.splitlines()) == 1
    assert json.loads((tmp_path / "runs" / "small" / "config.json").read_text())["optim"]["lr"] == 1e-3


def test_finished_run_started_again_adds_nothing_and_a_moved_one_goes_on(small_config: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "runs" / "small", tmp_path / "archive" / "moved"
    command = ["tools/train.py", f"--config={small_config}", "run.max_steps=2"]
    assert tool(*command).status == 0

    def results() -> tuple[list[str], str]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        measured = [line for line in lines if '"hardware"' not in line]  # which every start records
        return measured, (run / "summary.json").read_text()

    before = results()
    (run / "summary.json").unlink()  # as after a kill just before it was written
    again = tool(*command)
    assert again.status == 0, again.stderr
    assert "finished 2 steps" in again.stdout
    assert results() == before

    faulty = str(Path(__file__).parent / "faulty_train.py")
    (longer,) = start_processes(1, faulty, "die", "0", "3", f"--config={small_config}", "run.max_steps=3")
    output = longer.communicate(timeout=60)[0]
    assert longer.returncode == -signal.SIGKILL, output
    assert not (run / "summary.json").exists(), "the result of an earlier end is no result of this run"

    moved.parent.mkdir()
    run.rename(moved)
    done = tool("tools/train.py", f"--config={moved / 'config.json'}", "run.max_steps=3")
    assert done.status == 0, done.stderr
    assert f"resumed after step 2 from {moved}" in done.stdout
    assert not run.exists()
