"""What goes wrong on one process is noticed by all of them, in seconds, with the cause in the log."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT, program_environment, read_metrics, run_processes, start_processes

from sar_dist.checkpoint import CheckpointReader, complete_checkpoints

FAULTY = str(Path(__file__).parent / "faulty_train.py")


def finite_steps(run: Path) -> list[int]:
    return [step for step, entry in read_metrics(run).items() if isinstance(entry["loss"], float)]


@pytest.mark.parametrize("precision", ["bf16_parameters", pytest.param("bf16", marks=pytest.mark.long)])
def test_non_finite_step_is_skipped_and_blamed(precision: str, small_config: Path, tmp_path: Path) -> None:
    settings = [f"--config={small_config}", "run.max_steps=5", "optim.ema=0.9", f"engine.precision={precision}"]
    output = run_processes(2, FAULTY, "nan", "1", "3", *settings)
    assert "warning: step 3 was skipped: the loss is not finite on rank 1; its training samples were" in output
    assert "Virtual Memory" not in output  # what DeepSpeed's bf16 optimizer prints of each parameter group
    metrics = read_metrics(tmp_path / "runs" / "small")
    assert finite_steps(tmp_path / "runs" / "small") == [1, 2, 4, 5]
    assert metrics[5]["skipped_steps"] == 1
    assert metrics[4]["learning_rate"] == metrics[3]["learning_rate"]  # the schedule waits with the optimizer
    reader = CheckpointReader(complete_checkpoints(tmp_path / "runs" / "small" / "checkpoints")[0])
    assert reader.adam_step == 4
    assert all(tensor.isfinite().all() for ema in (True, False) for tensor in reader.state_dict(ema=ema).values())


def test_rollback_returns_to_the_last_checkpoint_with_fresh_data(small_config: Path, tmp_path: Path) -> None:
    output = run_processes(
        2, FAULTY, "nan", "0", "4", f"--config={small_config}", "run.max_steps=6", "guard.non_finite=rollback"
    )
    assert "rolling back" in output
    assert "rolled back to the weights after step 2" in output
    reader = CheckpointReader(complete_checkpoints(tmp_path / "runs" / "small" / "checkpoints")[0])
    assert reader.step == 6
    assert reader.adam_step == 4  # steps 1, 2, 5 and 6
    metrics = read_metrics(tmp_path / "runs" / "small")
    assert [metrics[step]["skipped_steps"] for step in range(1, 7)] == [0, 0, 0, 1, 1, 1]
    assert "skipped steps     1" in output


def test_stop_on_non_finite(small_config: Path) -> None:
    processes = start_processes(2, FAULTY, "nan", "0", "2", f"--config={small_config}", "guard.non_finite=stop")
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "error: step 2 was skipped: the loss is not finite on rank 0" in outputs[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise OSError('no such module here')", "small.py:[0-9]+ cannot be loaded: OSError: no such module here"),
        ("wrong = {'data.train': 'missing'}", "data.train: there is no .*missing.*"),
    ],
)
def test_error_on_one_rank_is_printed_once(fault: str, message: str, small_config: Path) -> None:
    """As data or a library that one node lacks; both processes end, and the reason is in the log."""
    text = small_config.read_text().replace("return RunConfig(", "run = RunConfig(").rstrip()
    text += f"\n    import os\n    wrong = {{}}\n    if os.environ['RANK'] == '1':\n        {fault}\n    return run.vary(wrong)\n"
    small_config.write_text(text)
    processes = start_processes(2, "tools/train.py", f"--config={small_config}")
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    (line,) = [line for line in "\n".join(outputs).splitlines() if line.startswith("error: ")]
    assert re.search(message, line)


@pytest.mark.parametrize("fault", ["hang", pytest.param("stuck_data", marks=pytest.mark.long)])
def test_stalled_process_ends_the_job_with_stacks(fault: str, small_config: Path) -> None:
    start = time.monotonic()
    processes = start_processes(
        2, FAULTY, fault, "1", "3", f"--config={small_config}", f"guard.stall_minutes={10 / 60}", "run.max_steps=5"
    )
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    assert "Timeout (0:00:10)!" in outputs[1]
    assert "faulty_train.py" in outputs[1]  # the guilty line
    assert time.monotonic() - start < 100


def test_dead_process_takes_the_job_down_in_seconds(small_config: Path) -> None:
    quiet = ("--log_level", "critical", "--no_local_rank")
    command = ["-m", "deepspeed.launcher.runner", *quiet, "--num_accelerators", "2", "--master_port", "29877"]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command, FAULTY, "die", "1", "3", "--config", str(small_config)],
        cwd=ROOT,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("error: another process of this run has gone (")
    assert "Traceback" not in done.stdout + done.stderr
    assert time.monotonic() - start < 300  # start-up included; a collective's own time-out is half an hour


def test_nobody_waits_for_the_checkpoint_of_a_dead_process(small_config: Path) -> None:
    processes = start_processes(2, FAULTY, "die_writing", "1", "3", f"--config={small_config}", "run.max_steps=4")
    assert processes[1].wait(timeout=120) == -signal.SIGKILL
    assert processes[0].wait(timeout=20) not in (0, None)
    for process in processes:
        process.communicate()


def test_clock_that_jumps_changes_nothing(small_config: Path, tmp_path: Path) -> None:
    arguments = (f"--config={small_config}", "run.max_steps=6", "run.max_hours=1")
    run_processes(1, FAULTY, "clock", "0", "3", *arguments, "run.name=jumped")
    run_processes(1, "tools/train.py", *arguments, "run.name=steady")
    jumped, steady = (read_metrics(tmp_path / "runs" / name) for name in ("jumped", "steady"))
    assert {step: entry["loss"] for step, entry in jumped.items()} == {s: entry["loss"] for s, entry in steady.items()}
    assert jumped[3]["time"] < jumped[2]["time"]
    timed = [entry["step_seconds"] for step, entry in jumped.items() if step > 1]  # the first only starts the clock
    assert len(timed) == 5
    assert all(0 < seconds < 100 for seconds in timed)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_failed_save_is_reported_and_training_goes_on(rank: int, small_config: Path, tmp_path: Path) -> None:
    processes = start_processes(2, FAULTY, "full_disk", str(rank), "3", f"--config={small_config}", "run.max_steps=7")
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert "warning: the checkpoint of step 4 could not be saved: OSError: [Errno 28] No space left" in outputs[0]
    assert "error: the checkpoint of step 7 could not be saved" in outputs[0]
    assert [process.returncode for process in processes] == [2, 2]
    run = tmp_path / "runs" / "small"
    assert [folder.name for folder in complete_checkpoints(run / "checkpoints")] == ["step_00000002"]
    assert finite_steps(run) == [1, 2, 3, 4, 5, 6, 7]
    output = run_processes(2, "tools/train.py", f"--config={small_config}", "run.max_steps=7")
    assert "resumed after step 2" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_really_full_disk(small_config: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(runs)], check=True)
    try:
        processes = start_processes(
            1,
            "tools/train.py",
            f"--config={small_config}",
            "run.max_steps=40",
            "checkpoint.keep_last=9",
            "checkpoint.every=1",
        )
        output = processes[0].communicate(timeout=200)[0]
        assert processes[0].returncode == 2, output
        assert "No space left" in output
        assert "Traceback" not in output
        newest = CheckpointReader(complete_checkpoints(runs / "small" / "checkpoints")[0])  # intact: it verifies
        assert math.isfinite(newest.parameter("head.bias").sum())
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)
