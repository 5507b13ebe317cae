"""What can be checked of the cluster files without a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import ROOT, Finished, program_environment, tool

WAITING = """Timeout (0:00:12)!
Thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Thread 0x00008f (most recent call first):
  File "/x/site-packages/torch/distributed.py", line 9 in all_reduce
  File "/repo/sar_dist/training/trainer.py", line 101 in train_step
"""
HUNG = WAITING.replace("site-packages/torch/distributed", "site-packages/some/library").replace("101", "102")
TRACEBACK = """Traceback (most recent call last):
  File "/repo/tools/train.py", line 9, in main
  File "/repo/sar_dist/data/images/decode.py", line 7, in decode
ValueError: not an image
"""


def script(*arguments: str, folder: Path = ROOT) -> Finished:
    """Run slurm/multinode.sh outside of any job."""
    done = subprocess.run(
        ["bash", str(ROOT / "slurm/multinode.sh"), *arguments],
        cwd=folder,
        env=program_environment(SAR_PYTHON=sys.executable),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_dry_run_prints_what_would_be_launched(tmp_path: Path) -> None:
    done = script("--dry-run", "configs/vit_b_in1k.py", "run.name=x", "data.train=/a b", folder=tmp_path)
    assert done.status == 0, done.stderr
    assert f"run directory:  {ROOT}/runs/x (newest checkpoint: step 0)" in done.stdout
    assert "--signal=USR2@300" in done.stdout
    assert "slurm/preflight.py" in done.stdout
    assert "tools/train.py --config configs/vit_b_in1k.py run.name=x data.train=/a\\ b" in done.stdout
    assert "configs/vit_l_in1k.py" in script("--dry-run").stdout


def test_dry_run_refuses_a_bad_configuration() -> None:
    done = script("--dry-run", "optim.lrr=1")
    assert done.status == 2
    assert done.stderr.splitlines() == [
        "error: unknown key 'optim.lrr'; did you mean 'optim.lr'? (--help lists every key)"
    ]


def test_script_outside_of_a_job_says_how_to_start_it() -> None:
    done = script()
    assert done.status == 2
    assert "sbatch" in done.stderr


def common(command: str, *arguments: str, **environment: str) -> Finished:
    """Run a line of bash that uses slurm/common.sh."""
    line = f'REPOSITORY={ROOT} record=""; source "$REPOSITORY/slurm/common.sh" && {command}'
    environment = program_environment(**environment)
    done = subprocess.run(
        ["bash", "-uc", line, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("cpus", "tasks", "given", "each"),
    [
        ("192(x2)", "8(x2)", "", "24"),
        ("192(x2),64", "8(x3)", "", "8"),
        ("192,64", "8,2", "", "24"),
        ("7", "2", "", "3"),
        ("1", "2", "", ""),
        ("192(x2)", "8(x2)", "5", "5"),
        ("", "", "", ""),
        ("nonsense", "8", "", ""),
    ],
)
def test_a_task_gets_its_share_of_the_jobs_cpus(cpus: str, tasks: str, given: str, each: str) -> None:
    done = common(
        "cpus_per_task",
        SLURM_JOB_CPUS_PER_NODE=cpus,
        SLURM_TASKS_PER_NODE=tasks,
        **({"SLURM_CPUS_PER_TASK": given} if given else {}),
    )
    assert (done.status, done.stdout.strip(), done.stderr) == (0, each, "")


def test_compiled_kernels_are_on_the_nodes_disk_in_every_script(tmp_path: Path) -> None:
    shown = script("--dry-run").stdout
    assert f"TRITON_CACHE_DIR=/tmp/sar_dist-{os.getuid()}/triton" in shown
    assert f"TORCHINDUCTOR_CACHE_DIR=/tmp/sar_dist-{os.getuid()}/inductor" in shown
    printed = 'echo "$TRITON_CACHE_DIR $TORCHINDUCTOR_CACHE_DIR $SAR_CACHE_DIR"'
    assert common(printed, SAR_CACHE_DIR="/nvme").stdout == "/nvme/triton /nvme/inductor /nvme\n"
    assert common(printed, TRITON_CACHE_DIR="/mine").stdout.startswith("/mine ")


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        (("ok: fast", "ok: fine"), "ok: fast"),
        (("ok: fast", "ok: fine\nwarning: slow"), "ok: fast\nwarning: slow"),
        (("ok: fast", "bad: x; y"), "bad: x; y"),
        (("bad: x", "bad: x"), "bad: x"),
        (("bad: x", "bad: y\nwarning: slow"), "bad: x; y"),
        (("ok: waited in vain for rank 1 of 2",), "bad: gave no answer, see {folder}/preflight-n1.log"),
        ((), "bad: gave no answer, see {folder}/preflight-n1.log"),
    ],
)
def test_a_node_is_as_good_as_its_worst_process(answers: tuple[str, ...], verdict: str, tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "n11.0").write_text("bad: another node\n")
    for number, answer in enumerate(answers):
        (tmp_path / "nodes" / f"n1.{number}").write_text(f"{answer}\n")
    done = common('verdict_of "$0" n1 2', str(tmp_path))
    assert (done.stdout, done.stderr) == (f"{verdict.format(folder=tmp_path)}\n", "")


def test_health_check_has_a_process_for_each_gpu_placed_as_training_is() -> None:
    check = script("--dry-run").stdout.partition("health check:")[2].splitlines()[0]
    assert "srun --distribution=block:block --cpu-bind=cores --cpus-per-task=" in check
    assert "--ntasks" not in check


def test_ranks_sit_on_cores_and_sockets_of_their_own() -> None:
    training = script("--dry-run").stdout.partition("training:")[2]
    assert "--distribution=block:block --cpu-bind=cores --cpus-per-task=" in training
    assert "--cpus-per-task" not in script("--dry-run").stdout.partition("environment")[0]


@pytest.mark.parametrize(("status", "bad_input"), [(2, True), (3, False), (12, False), (143, False)])
def test_only_status_2_is_bad_input(status: int, bad_input: bool, tmp_path: Path) -> None:
    (tmp_path / "srun.log").write_text(f"srun: error: n2: task 1: Exited with exit code {status}\nsrun: Terminating\n")
    done = common('was_bad_input "$0"', str(tmp_path))
    assert (done.status, done.stderr) == (0 if bad_input else 1, "")


def test_summary_names_causes_before_consequences(tmp_path: Path) -> None:
    (tmp_path / "rank0000.log").write_text("step 1\nRuntimeError: [/x] Connection closed by peer [192.0.2.1]:4711\n")
    (tmp_path / "rank0001.log").write_text(TRACEBACK)
    (tmp_path / "rank0002.log").write_text("step 1\nRuntimeError: [/x] Connection closed by peer [192.0.2.9]:17\n")
    (tmp_path / "rank0003.log").write_text("step 1\n")
    (tmp_path / "rank0004.log").write_text(WAITING)
    (tmp_path / "rank0005.log").write_text(HUNG)
    (tmp_path / "srun.log").write_text("srun: error: n2: task 1: Exited with exit code 1\n")
    done = tool("slurm/summarize_logs.py", str(tmp_path))
    assert done.status == 0, done.stderr
    text = done.stdout
    assert "n2: task 1: Exited with exit code 1" in text
    assert 'decode.py", line 7, in decode\n  ValueError: not an image' in text
    assert "-- consequence, ranks 0, 2:" in text
    assert text.index("-- rank 1:") < text.index("-- consequence")
    assert "-- rank 3:\n  no error message: ended from outside" in text
    assert "-- rank 5:\n  no progress for guard.stall_minutes; it was in:\n  /repo" in text
    assert "-- consequence, rank 4:\n  no progress for guard.stall_minutes; it waited for other ranks in:\n" in text
    assert "/repo/sar_dist/training/trainer.py:101 in train_step" in text
    assert "site-packages" not in text
    assert len(text.splitlines()) < 40


def test_summary_of_many_ranks_fits_on_a_screen(tmp_path: Path) -> None:
    for rank in range(512):
        (tmp_path / f"rank{rank:04d}.log").write_text("Error\n" * (rank % 50) + f"{'x' * (rank % 40)}Error: {rank}\n")
    done = tool("slurm/summarize_logs.py", str(tmp_path))
    assert len(done.stdout.splitlines()) < 40


def test_kubernetes_manifest_parses_and_its_command_is_valid() -> None:
    runtime, job = yaml.safe_load_all((ROOT / "docs/kubernetes.yaml").read_text())
    assert (runtime["kind"], job["kind"]) == ("TrainingRuntime", "TrainJob")
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
        item["name"] for item in pod["volumes"]
    }
    trainer = job["spec"]["trainer"]
    assert pod["terminationGracePeriodSeconds"] > int(trainer["command"][1].split("=")[1])
    config, *overrides = trainer["args"]
    assert tool("slurm/run_directory.py", config, *overrides).stdout == "/shared/runs/vit_l_in1k\n"


@pytest.mark.parametrize(
    "path", ["slurm/multinode.sh", "slurm/transfer_eval.sh", "slurm/common.sh", "tests/cluster/mini_slurm.sh"]
)
def test_shell_scripts_are_clean(path: str) -> None:
    if shutil.which("shellcheck") is None:
        if os.environ.get("SAR_DIST_REQUIRE_SLURM") == "1":
            pytest.fail("no shellcheck; SAR_DIST_REQUIRE_SLURM=1 forbids to skip")
        pytest.skip("no shellcheck (apt-get install shellcheck)")
    done = subprocess.run(
        ["shellcheck", "--external-sources", path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
