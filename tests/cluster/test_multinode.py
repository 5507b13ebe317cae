"""slurm/multinode.sh on a real Slurm: real DeepSpeed training on two nodes that ends well whatever happens to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Job, collect_jobs, start_cluster, wait_until
from support import read_metrics, run_processes

from sar_dist.checkpoint import complete_checkpoints
from sar_dist.checkpoint.layout import step_of

FAULTY = f"{Path(__file__).parent}/fail_first_try.py"
REPEATED = ("loss", "loss_entropy", "learning_rate", "gradient_norm", "entropy_weight", "bad_images")
LONG_RUN = ("optim.epochs=1000", "validation.every=1000ep", "checkpoint.every=20")

cluster = pytest.fixture(scope="module")(start_cluster)
submitted = pytest.fixture(collect_jobs)


def curve(run: Path) -> dict[int, list[float]]:
    """What an interrupted run must repeat bit for bit, by step."""
    return {step: [entry[name] for name in REPEATED] for step, entry in read_metrics(run).items()}


def unbroken(config: Path, *arguments: str) -> dict[int, list[float]]:
    """The curve of the same training on two processes without a cluster and without a fault."""
    run_processes(2, "tools/train.py", f"--config={config}", *arguments, "run.name=unbroken")
    return curve(config.parent.parent / "runs" / "unbroken")


def goes_on_exactly(job: Job, config: Path, *arguments: str) -> None:
    """The job trains to its end, from a checkpoint, as if it had not been interrupted."""
    job.wait()
    assert job.field("JobState") == "COMPLETED", job.output
    assert "resumed after step" in job.output
    assert curve(config.parent.parent / "runs" / "small") == unbroken(config, *arguments)


def lose_srun(cluster: Cluster, config: Path) -> None:
    """Kill srun, and before it the process that it starts to kill the step if it should end."""
    for pid in sorted(cluster.pids(f"^srun .*{config}"), reverse=True):
        cluster.run("kill", "-KILL", str(pid))


def running(cluster: Cluster, config: Path, submitted: list[Job], *arguments: str, step: int = 3) -> Job:
    """A job that has trained so many steps."""
    folder = config.parent.parent
    job = cluster.submit(folder, str(config), *arguments)
    submitted.append(job)
    job.wait_for_step(folder / "runs" / "small", step)
    return job


def test_runs_to_the_end(cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]) -> None:
    job = cluster.submit(tmp_path, str(small_config), "run.max_steps=6")
    submitted.append(job)
    job.wait()
    assert job.field("JobState") == "COMPLETED", job.output
    assert sorted(read_metrics(tmp_path / "runs" / "small")) == list(range(1, 7))
    assert "preflight: n1 ok: all-reduce over 2 nodes at" in job.output
    assert "preflight: n2 ok: all-reduce over 2 nodes at" in job.output
    assert f"training is done: {tmp_path}/runs/small" in job.output
    record = (tmp_path / "logs" / job.number / "environment-life0.txt").read_text()
    assert "commit: " in record
    assert "NumNodes=2" in record


def test_signalled_job_saves_requeues_and_continues_exactly(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    """What Slurm does before the time limit (#SBATCH --signal), here at a moment of our choice."""
    arguments = (*LONG_RUN, "run.max_steps=80")
    job = running(cluster, small_config, submitted, *arguments)
    cluster.run("scancel", "--signal=USR2", job.number)
    expected = unbroken(small_config, *arguments)  # while the job waits in the queue
    job.wait()
    assert job.field("JobState") == "COMPLETED", job.output
    assert job.field("Restarts") == "1"
    assert f"requeueing job {job.number}: step " in job.output
    assert "(SIGUSR2)" in job.logs("life0.try0")
    assert "resumed after step" in job.logs("life1.try0")
    assert curve(tmp_path / "runs" / "small") == expected


@pytest.mark.long
def test_preempted_job_comes_back_and_continues_exactly(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    """A job that saves and ends within the grace time counts as completed for Slurm: the script has to requeue it."""
    arguments = (*LONG_RUN, "run.max_steps=120")
    job = running(cluster, small_config, submitted, *arguments)
    cluster.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    job.wait()
    assert job.field("JobState") == "COMPLETED", job.output
    assert job.field("Restarts") == "1"
    assert "(SIGTERM)" in job.logs("life0.try0")
    assert "resumed after step" in job.logs("life1.try0")
    assert curve(tmp_path / "runs" / "small") == unbroken(small_config, *arguments)


@pytest.mark.long
@pytest.mark.parametrize(("fault", "cause"), [("die", "no error message: ended from outside"), ("hang", "no progress")])
def test_lost_rank_is_named_and_training_tried_again(
    fault: str, cause: str, cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    arguments = ("run.max_steps=8", "guard.stall_minutes=0.2")
    job = cluster.submit(tmp_path, str(small_config), *arguments, SAR_PROGRAM=f"{FAULTY} {fault} 1 5")
    submitted.append(job)
    job.wait()
    assert job.field("JobState") == "COMPLETED", job.output
    assert job.field("Restarts") == "0"
    assert cause in job.output.split("==== what went wrong")[1]
    assert "life 0, try 1" in job.output
    assert "resumed after step" in job.output
    assert curve(tmp_path / "runs" / "small") == unbroken(small_config, *arguments)


@pytest.mark.long
def test_lost_step_daemon_is_noticed_by_its_ranks(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    """With slurmstepd killed on one node nobody waits for that rank: all save together, and the job goes on exactly."""
    arguments = (*LONG_RUN, "run.max_steps=80")
    job = running(cluster, small_config, submitted, *arguments)
    daemons = sorted(cluster.pids(rf"^slurmstepd: \[{job.number}\.1\]"))
    assert len(daemons) == 2
    cluster.run("kill", "-KILL", str(daemons[1]))
    ranks = rf"python\S* -u tools/train.py --config {small_config}"
    srun = rf"srun .*{ranks}"  # waits for the lost node a while longer
    job.wait(lambda: cluster.pids(ranks) == cluster.pids(srun), timeout=30)
    assert "the launcher has gone" in job.logs("life0.try0")
    goes_on_exactly(job, small_config, *arguments)


@pytest.mark.long
def test_lost_srun_of_the_script_is_noticed_by_its_ranks(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    """With srun and its helper killed Slurm lets a step run on: the ranks save together and end before the job goes on."""
    arguments = (*LONG_RUN, "run.max_steps=80")
    job = running(cluster, small_config, submitted, *arguments)
    lose_srun(cluster, small_config)
    goes_on_exactly(job, small_config, *arguments)
    assert "the launcher has gone" in job.logs("life0.try0")


def test_ranks_of_a_lost_srun_on_another_machine_save_and_end(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    run, program = tmp_path / "runs" / "small", f"tools/train.py --config={small_config}"
    command = ("srun", "--nodes=2", "--ntasks=2", "--mem=100", sys.executable, *program.split(), *LONG_RUN)
    with cluster.start(tmp_path / "srun.log", *command):
        wait_until(lambda: (run / "metrics.jsonl").exists() and max(read_metrics(run), default=0) >= 3, timeout=120)
        (number,) = cluster.run("squeue", "--noheader", "--format=%i").split()
        submitted.append(Job(cluster, number, tmp_path))  # which keeps its nodes without srun
        lose_srun(cluster, small_config)
        wait_until(lambda: not cluster.pids(program), timeout=30)
    assert complete_checkpoints(run / "checkpoints")


@pytest.mark.long
def test_killed_step_leaves_nobody_and_is_tried_again(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    """`scancel --signal=KILL JOB.STEP`: nobody can save, and the job goes on exactly from the last checkpoint."""
    arguments = (*LONG_RUN, "run.max_steps=80")
    job = running(cluster, small_config, submitted, *arguments, step=25)
    first = cluster.pids(rf"tools/train.py --config {small_config}")
    assert first
    cluster.run("scancel", "--signal=KILL", f"{job.number}.1")
    job.wait(lambda: not first & cluster.pids("tools/train.py"), timeout=30)
    goes_on_exactly(job, small_config, *arguments)
    assert job.field("Restarts") == "0"
    assert "life 0, try 1" in job.output


@pytest.mark.long
def test_always_failing_job_gives_up(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    program = f"{FAULTY.replace('cluster/fail_first_try', 'distributed/faulty_train')} die 0 1"
    job = cluster.submit(tmp_path, str(small_config), SAR_PROGRAM=program, SAR_RETRIES="1")
    submitted.append(job)
    job.wait()
    assert job.field("JobState") == "FAILED"
    assert job.output.count("==== what went wrong") == 2
    assert "giving up after 2 tries without a new checkpoint" in job.output


@pytest.mark.long
def test_lives_without_progress_are_bounded(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    program = """-c open(__import__('os').environ['SAR_REQUEUE_FILE'],'w').write('more')"""
    settings = {"SAR_PROGRAM": program, "SAR_REQUEUES": "1", "SAR_PREFLIGHT": "0"}
    job = cluster.submit(tmp_path, str(small_config), **settings)
    submitted.append(job)
    job.wait()
    assert job.field("JobState") == "FAILED", job.output
    assert job.field("Restarts") == "2"
    assert "giving up: 2 lives in a row brought no new checkpoint" in job.output


@pytest.mark.long
def test_cancelled_job_saves_and_stays_cancelled(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    job = running(cluster, small_config, submitted, *LONG_RUN)
    cluster.run("scancel", job.number)
    job.wait()
    assert job.field("JobState") == "CANCELLED"
    job.wait(lambda: cluster.run("squeue", "--noheader") == "")
    assert job.field("Restarts") == "0"
    assert "requeueing" not in job.output
    assert complete_checkpoints(tmp_path / "runs" / "small" / "checkpoints")


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("optim.lrr=1",), ("data.train=/nowhere",)])
def test_bad_configuration_fails_once(
    arguments: tuple[str, ...], cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    job = cluster.submit(tmp_path, str(small_config), *arguments)
    submitted.append(job)
    job.wait()
    assert job.field("JobState") == "FAILED"
    assert job.field("ExitCode") == "2:0"
    assert job.output.count("error: ") >= 1
    assert "try 1" not in job.output
    assert job.field("Restarts") == "0"


@pytest.mark.long
def test_sick_node_is_named_excluded_and_the_job_requeued(
    cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]
) -> None:
    cluster.run("dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M", "count=1000", node="n1")
    try:
        job = cluster.submit(tmp_path, str(small_config), "run.max_steps=2")
        submitted.append(job)
        job.wait()
    finally:
        cluster.run("rm", "/dev/shm/full", node="n1")
    assert job.field("JobState") == "COMPLETED", job.output
    assert "preflight: n1 bad: 0.0 GiB free in /dev/shm, 0.1 wanted" in job.output
    assert "excluded from now on: n1" in job.output
    assert job.field("NodeList") == "n[2-3]"


@pytest.mark.long
def test_lost_node_is_replaced(cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]) -> None:
    arguments = (*LONG_RUN, "run.max_steps=300", "guard.stall_minutes=0.2")
    job = cluster.submit(tmp_path, str(small_config), *arguments)
    submitted.append(job)
    run = tmp_path / "runs" / "small"
    job.wait(lambda: bool(complete_checkpoints(run / "checkpoints")))
    cluster.cable("cut", "n2")
    try:
        job.wait()
    finally:
        cluster.cable("mend", "n2")
    assert job.field("JobState") == "COMPLETED", job.output
    assert job.field("NodeList") == "n[1,3]"
    assert step_of(complete_checkpoints(run / "checkpoints")[0]) == 300
    assert curve(run) == unbroken(small_config, *arguments)


@pytest.mark.long
def test_time_limit_chains_lives(cluster: Cluster, small_config: Path, tmp_path: Path, submitted: list[Job]) -> None:
    arguments = (*LONG_RUN, "log.every=100")
    options = ("--time=2", "--signal=USR2@60")  # Slurm signals up to a minute early
    job = cluster.submit(tmp_path, str(small_config), *arguments, options=options)
    submitted.append(job)
    job.wait(lambda: "life 1, try 0" in job.output and "resumed after step" in job.logs("life1.try0"))
    assert "(SIGUSR2)" in job.logs("life0.try0")


@pytest.mark.long
def test_bare_srun_finds_its_meeting_place(cluster: Cluster, small_config: Path, tmp_path: Path) -> None:
    """Without MASTER_ADDR and MASTER_PORT, as somebody types it."""
    training = [sys.executable, "tools/train.py", f"--config={small_config}", "run.max_steps=2"]
    output = cluster.run("srun", "--nodes=2", "--ntasks=2", "--mem=100", *training)
    assert "2 processes" in output
    assert sorted(read_metrics(tmp_path / "runs" / "small")) == [1, 2]
