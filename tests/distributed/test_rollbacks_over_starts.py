"""A run that rolls back goes on as if it had never been stopped, and its limit of rollbacks is one over all starts."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from run_results import differences, run_results
from support import run_processes, start_processes, tool

FAULTY = str(Path(__file__).parent / "faulty_train.py")
CHECKPOINT_EVERY = 4
SETTINGS = [
    *("optim.ema=0.9", "optim.epochs=20", "run.max_steps=32", "log.every=1", "validation.every=100"),
    *(f"checkpoint.every={CHECKPOINT_EVERY}", "checkpoint.keep_last=1", "log.figure_images=0"),
    *("guard.spike_factor=1.03", "guard.max_rollbacks=100"),
]


def rollbacks(output: str) -> list[str]:
    """The lines that say so, in the order of their steps; one that a later start repeated is there once."""
    lines = re.findall(r"(?:step \d+: .*rolling back|rolled back to .*)", output)
    pairs = {f"{lines[number]}; {lines[number + 1]}" for number in range(0, len(lines), 2)}
    return sorted(pairs, key=lambda line: int(line.split()[1].rstrip(":")))


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_stopped_run_rolls_back_where_the_unbroken_one_does(ranks: int, small_config: Path, tmp_path: Path) -> None:
    """Stopped by a limit that is then raised, by signals and by a kill."""
    common = [f"--config={small_config}", *SETTINGS]
    expected = rollbacks(run_processes(ranks, "tools/train.py", *common, "run.name=unbroken"))
    spikes = [int(line.split()[1].rstrip(":")) for line in expected]
    # Just before a spike, where no checkpoint is due: after a stop, one is there that the unbroken run does not have.
    before_spikes = [step - 1 for step in spikes[2:] if (step - 1) % CHECKPOINT_EVERY][:2]
    stops = [("none", 0, "guard.max_rollbacks=1", 2)]
    for fault, step, status in zip(("stop", "die"), before_spikes, (0, -signal.SIGKILL), strict=True):
        stops.append((fault, step, "guard.max_rollbacks=100", status))
    output = ""
    for fault, step, limit, status in stops:
        processes = start_processes(ranks, FAULTY, fault, "0", str(step), *common, "run.name=stopped", limit)
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        assert processes[0].returncode == status, outputs
        output += outputs[0]
    output += run_processes(ranks, "tools/train.py", *common, "run.name=stopped")
    assert rollbacks(output) == expected
    for noted in (tmp_path / "runs" / "stopped").glob("samples_*.jsonl"):
        noted.unlink()
    assert differences(run_results(tmp_path / "runs" / "stopped"), run_results(tmp_path / "runs" / "unbroken")) == []


def test_a_run_at_its_limit_of_rollbacks_says_so_before_it_trains(small_config: Path, tmp_path: Path) -> None:
    for spikes in (1, 0):
        done = tool("tools/train.py", f"--config={small_config}", *SETTINGS, "guard.max_rollbacks=0")
        assert done.status == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert re.search(r"max_rollbacks=0 is reached: 1 rollback was .* set guard\.max_rollbacks=1 or more", line)
        assert done.stdout.count("rolling back") == spikes
    assert "loss" not in done.stdout
    assert not (tmp_path / "runs" / "small" / "summary.json").exists()
