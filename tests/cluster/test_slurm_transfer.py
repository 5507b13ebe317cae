"""slurm/transfer_eval.sh on a real Slurm: a finished run is evaluated on two nodes, also when the job is interrupted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Job, collect_jobs, start_cluster
from support import ROOT, program_environment, run_processes

SCRIPT = "slurm/transfer_eval.sh"

cluster = pytest.fixture(scope="module")(start_cluster)
submitted = pytest.fixture(collect_jobs)


def train(config: Path) -> Path:
    run_processes(1, "tools/train.py", f"--config={config}", "run.max_steps=2")
    return config.parent.parent / "runs" / "small"


@pytest.mark.long
def test_tasks_with_data_are_run_and_the_others_named(
    cluster: Cluster, small_config: Path, small_shards: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    run = train(small_config)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagenet-1k-wds").symlink_to(small_shards)
    validation = "imagenet_val workers=0"
    job = cluster.submit(tmp_path, str(run), validation, "voc_seg", script=SCRIPT, SAR_DIST_DATA=f"{tmp_path}/data")
    submitted.append(job)
    job.wait()
    assert job.field("JobState") == "FAILED", "what was asked for by name must be there"
    assert f"done: {validation}" in job.output
    assert "not run: voc_seg: error: no data for voc_seg: looked for" in job.output
    assert "1 of 2 evaluations are done" in job.output
    result = json.loads((run / "transfer" / "imagenet_val" / "result.json").read_text())
    assert result["environment"]["world_size"] == 2
    assert result["data"]["samples"] == 21


@pytest.mark.long
def test_job_near_its_time_limit_is_requeued_and_goes_on(
    cluster: Cluster, small_config: Path, small_shards: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    run = train(small_config)
    evaluation = f"imagenet_val --data {small_shards} workers=0"
    job = cluster.submit(tmp_path, str(run), evaluation, script=SCRIPT)
    submitted.append(job)
    job.wait(lambda: bool(job.logs("life0.task0.imagenet_val.try0")))
    cluster.run("scancel", "--batch", "--signal=USR2", job.number)
    job.wait()
    assert job.field("JobState") == "COMPLETED", job.output
    assert job.field("Restarts") == "1"
    assert "requeueing" in job.output
    assert (run / "transfer" / f"imagenet_val_{small_shards.name}" / "result.json").is_file()


def dry_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, "--dry-run", *arguments],
        cwd=ROOT, env=program_environment(SAR_SRUN_ARGS="--container-image=x"), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_dry_run_prints_one_command_a_task(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = dry_run(str(tmp_path), "knn", "ade20k head=upernet --data /data/ade20k")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("srun --distribution=block:block --cpu-bind=cores --container-image=x ")
    assert f"tools/transfer_eval.py --model {tmp_path} --task knn" in lines[0]
    assert lines[1].rstrip().endswith("--task ade20k head=upernet --data /data/ade20k")


def test_default_suite_has_only_tasks_that_exist(tmp_path: Path) -> None:
    from sar_dist.transfer.registry import TASKS

    (tmp_path / "config.json").write_text("{}")
    commands = dry_run(str(tmp_path)).stdout.splitlines()
    tasks = [command.split("--task ")[1].split()[0] for command in commands]
    assert len(tasks) >= 10
    assert set(tasks) <= set(TASKS)


@pytest.mark.parametrize(
    ("arguments", "message"), [((), "say which run"), (("nowhere",), "neither a run nor an export")]
)
def test_bad_arguments_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = dry_run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
