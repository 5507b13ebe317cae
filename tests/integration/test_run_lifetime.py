"""What happens to a run's directory between and during starts, as a user sees it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from support import ROOT, program_environment, read_metrics, tool

from sar_dist.cores import own_use, share_of_cores
from sar_dist.data.workers import default_workers


def train(config_file: Path, *overrides: str) -> tuple[int, str, str]:
    done = tool("tools/train.py", f"--config={config_file}", *overrides)
    return done.status, done.stdout, done.stderr


def validations_of(run: Path) -> list[str]:
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"prefix": "val"' in line]


def test_a_run_outlives_its_damaged_configuration_and_ends_once(small_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "small"
    assert train(small_config, "run.max_steps=2")[0] == 0
    configuration = (run / "config.json").read_text()
    for damaged in (configuration[:1000], ""):
        (run / "config.json").write_text(damaged)
        status, output, error = train(small_config, "run.max_steps=4")
        assert status == 0, error
        assert "resumed after step" in output
        assert json.loads((run / "config.json").read_text())["optim"] == json.loads(configuration)["optim"]
    validations = validations_of(run)
    assert train(small_config, "run.max_steps=4")[0] == 0  # finished already: it is not scored a second time
    assert validations_of(run) == validations
    refused = train(small_config, "run.max_steps=6", "optim.lr=0.5")
    assert refused[0] == 2
    assert "was started with optim.lr=0.001" in refused[2]


def test_deterministic_kernels_and_workers_change_nothing_on_a_cpu(small_config: Path, tmp_path: Path) -> None:
    """The number of workers that the cores allow is recorded in the first line, and the setting in config.json."""
    curves = []
    for name, options in (("plain", ()), ("other", ("run.deterministic=true", "data.workers=none"))):
        done = tool("tools/train.py", f"--config={small_config}", "run.max_steps=3", f"run.name={name}", *options)
        assert done.status == 0, done.stderr
        run = tmp_path / "runs" / name
        curves.append({step: values["loss"] for step, values in read_metrics(run).items()})
    cores = share_of_cores(own_use(), [own_use()])
    assert re.search(rf"1 process, {default_workers(cores)} data workers?\n", done.stdout), done.stdout
    assert json.loads((run / "config.json").read_text())["run"]["deterministic"] is True
    assert curves[0] == curves[1]


def test_of_two_starts_one_trains(small_config: Path, tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "tools/train.py", f"--config={small_config}", "optim.epochs=3000", "validation.every=1000ep"],
        cwd=ROOT,
        env=program_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        metrics = tmp_path / "runs" / "small" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert metrics.exists()
        status, _, error = train(small_config, "optim.epochs=3000", "validation.every=1000ep")
        assert status == 2
        assert f"is in use by process {first.pid} on" in error
        assert error.count("\n") == 1
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    status, _, error = train(small_config, "optim.epochs=3000", "validation.every=1000ep", "run.max_steps=1")
    assert status == 0, error  # a dead holder is no holder
