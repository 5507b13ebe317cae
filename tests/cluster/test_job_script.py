"""slurm/multinode.sh from its first line to its last, with programs in the place of Slurm's that note how they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import ROOT, Finished, program_environment

# The first two are what every job script has in its allocation.
ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SAR_PREFLIGHT": "0", "SAR_SRUN_ARGS": ""}
RECORD = "JobId=7 {array}JobName=x Restarts={restarts} NumTasks=2 CPUs/Task={cpus} Command=/spool/x.sh WorkDir=/"
PROGRAMS = {
    "scontrol": 'case $1 in show) [[ $2 = job ]] && echo "$RECORD" || echo n1 ;; *) echo "$*" >>"$CALLS" ;; esac',
    "scancel": 'echo "scancel $*" >>"$CALLS"; echo "step 3: SIGUSR2" >"$SAR_REQUEUE_FILE"',
    "srun": 'env >"$RUN/srun.env"; eval "$STEP"',
    "sleep": "",
    "squeue": "",
    "python": 'echo "$RUN"',
}
FINISHES = 'touch "$RUN/summary.json"'
WARNED = 'kill -USR2 "$(ps -o ppid= "$PPID" | tr -d " ")"; until [[ -s $SAR_REQUEUE_FILE ]]; do :; done'


def job(folder: Path, step: str, array: str = "", restarts: int = 0, cpus: int = 1, **environment: str) -> Finished:
    """Run the script in a job whose training step does what ``step`` says."""
    programs = folder / "programs"
    programs.mkdir()
    (folder / "run").mkdir()
    (folder / "calls").touch()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    settings = ALLOCATION | {
        "RECORD": RECORD.format(array=array, restarts=restarts, cpus=cpus),
        "RUN": f"{folder}/run",
        "CALLS": f"{folder}/calls",
        "STEP": step,
        "SAR_PYTHON": f"{programs}/python",
        "SAR_LOG_DIR": f"{folder}/logs",
        "SAR_REPOSITORY": str(ROOT),
    }
    variables = program_environment(**settings | environment)
    variables["PATH"] = f"{programs}{os.pathsep}{variables['PATH']}"
    command = ["bash", str(ROOT / "slurm/multinode.sh"), "configs/demo.py"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("step", "status", "said"), [(FINISHES, 0, "training is done"), ("", 130, "SIGINT or SIGQUIT")]
)
def test_only_a_run_with_its_summary_is_done(step: str, status: int, said: str, tmp_path: Path) -> None:
    done = job(tmp_path, step)
    assert (done.status, said in done.stdout) == (status, True), done
    assert (tmp_path / "calls").read_text() == ""


@pytest.mark.parametrize(("array", "name"), [("", "7"), ("ArrayJobId=5 ArrayTaskId=2 ", "5_2")])
def test_warning_to_the_script_alone_reaches_the_ranks_and_requeues_this_job_alone(
    array: str, name: str, tmp_path: Path
) -> None:
    """``--signal=B:USR2@300``; and the number of an array means all of its tasks."""
    done = job(tmp_path, WARNED, array=array, SLURM_ARRAY_JOB_ID="3", SLURM_ARRAY_TASK_ID="9")
    assert done.status == 0, done
    assert (tmp_path / "calls").read_text().splitlines() == [f"scancel --signal=USR2 {name}", f"requeue {name}"]


def test_marker_of_an_earlier_job_of_this_number_requeues_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "logs" / "7" / "life0.try0" / "requeue"
    marker.parent.mkdir(parents=True)
    marker.write_text("step 3: SIGUSR2\n")
    assert "training is done" in job(tmp_path, FINISHES).stdout


@pytest.mark.parametrize("cpus", ["7", "1"])
def test_variables_of_the_job_that_submitted_this_one_are_forgotten(cpus: str, tmp_path: Path) -> None:
    """srun refuses two kinds of memory; --export=NONE would hide MASTER_ADDR from the ranks."""
    inherited = {"MEM_PER_CPU": "50", "MEM_PER_NODE": "100", "CPUS_PER_TASK": cpus, "RESTART_COUNT": "3"}
    inherited |= {"EXPORT_ENV": "NONE", "ARRAY_TASK_ID": "4"}
    done = job(tmp_path, FINISHES, restarts=1, **{f"SLURM_{name}": value for name, value in inherited.items()})
    assert "life 1, try 0" in done.stdout
    given = dict(line.split("=", 1) for line in (tmp_path / "run" / "srun.env").read_text().splitlines() if "=" in line)
    assert given["SLURM_EXPORT_ENV"] == "ALL"
    assert not {"SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_ARRAY_TASK_ID"} & given.keys()


def test_what_was_asked_of_this_job_is_kept(tmp_path: Path) -> None:
    job(
        tmp_path,
        FINISHES,
        array="ArrayJobId=5 ArrayTaskId=2 ",
        cpus=7,
        SLURM_CPUS_PER_TASK="7",
        SLURM_ARRAY_TASK_ID="2",
    )
    given = (tmp_path / "run" / "srun.env").read_text()
    assert "SLURM_CPUS_PER_TASK=7\n" in given
    assert "SLURM_ARRAY_TASK_ID=2\n" in given
