"""The throw-away Slurm cluster of mini_slurm.sh as a fixture, and jobs on it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ROOT, program_environment, read_metrics

SCRIPT = Path(__file__).parent / "mini_slurm.sh"
FINAL_STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
SMALL_LIMITS = "--memory-gib 0.1 --shm-gib 0.1 --tmp-gib 0.1 --run-gib 0.1"


@dataclass
class Job:
    """A submitted job of slurm/multinode.sh with its files in ``folder``."""

    cluster: Cluster
    number: str
    folder: Path

    @property
    def output(self) -> str:
        """The job's own log, over all its lives."""
        path = self.folder / "job.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def field(self, name: str) -> str:
        """A field of ``scontrol show job``."""
        found = re.search(rf"\b{name}=(\S*)", self.cluster.run("scontrol", "show", "job", "-o", self.number))
        return found[1] if found else ""

    def logs(self, part: str) -> str:
        """Everything that the ranks of a try wrote, such as life0.try1."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"logs/*/{part}/rank*.log")))

    def wait(self, condition: Callable[[], bool] | None = None, timeout: float = 240) -> None:
        """Until ``condition`` holds, or without one, until the job has ended for good."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ended = self.field("JobState") in FINAL_STATES
            if condition() if condition else ended:
                return
            assert not ended, f"the job ended early\n{self.output[-4000:]}"
            time.sleep(0.2)
        raise AssertionError(f"not within {timeout} s; {self.field('JobState')}\n{self.output[-4000:]}")

    def wait_for_step(self, run: Path, step: int) -> None:
        """Until ``run`` has logged ``step`` steps."""
        self.wait(lambda: (run / "metrics.jsonl").exists() and max(read_metrics(run), default=0) >= step)

    def end(self) -> None:
        """Cancel what is left of it, so that the next test finds free nodes."""
        self.cluster.run("scancel", self.number, check=False)
        self.cluster.run("scontrol", "update", "NodeName=ALL", "State=RESUME", check=False)


class Cluster:
    """A running mini_slurm.sh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, node: str = "ctl", check: bool = True, **environment: str) -> str:
        """Run a command on a node, or on the controller; its standard output."""
        done = subprocess.run(
            [str(SCRIPT), "in", str(self.folder), node, *command],
            cwd=ROOT,
            env=program_environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def start(self, log: Path, *command: str, node: str = "ctl") -> Iterator[None]:
        """A command on a node while the block runs, with what it prints in ``log``."""
        started = [str(SCRIPT), "in", str(self.folder), node, *command]
        with (
            log.open("wb") as file,
            subprocess.Popen(started, cwd=ROOT, env=program_environment(), stdout=file, stderr=file) as process,
        ):
            try:
                yield
            finally:
                process.kill()

    def pids(self, pattern: str) -> set[int]:
        """Processes on any node whose command line matches."""
        return set(map(int, self.run("pgrep", "-f", "--", pattern, check=False).split()))

    def cable(self, action: str, node: str) -> None:
        """``cut`` or ``mend`` the node's network."""
        subprocess.run([str(SCRIPT), action, str(self.folder), node], check=True, timeout=30)

    def submit(
        self,
        folder: Path,
        *arguments: str,
        script: str = "slurm/multinode.sh",
        options: tuple[str, ...] = (),
        **environment: str,
    ) -> Job:
        """Submit a script of slurm/ with one task a node and no GPU."""
        small = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=100"]
        settings = {"SAR_LOG_DIR": str(folder / "logs"), "SAR_PREFLIGHT_ARGS": SMALL_LIMITS, **environment}
        files = [f"--output={folder}/job.out", *options]
        number = self.run("sbatch", "--parsable", *small, *files, script, *arguments, **settings)
        return Job(self, number.strip(), folder)


def wait_until(condition: Callable[[], bool], timeout: float) -> None:
    """Until ``condition`` holds; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.2)


def start_cluster() -> Iterator[Cluster]:
    """A cluster of three nodes; skips, or fails under SAR_DIST_REQUIRE_SLURM=1, where none can run."""
    check = subprocess.run([str(SCRIPT), "check"], capture_output=True, text=True, timeout=30, check=False)
    if check.returncode != 0:
        reason = f"no Slurm cluster here: {check.stdout.strip()}"
        if os.environ.get("SAR_DIST_REQUIRE_SLURM") == "1":
            pytest.fail(f"{reason}; SAR_DIST_REQUIRE_SLURM=1 forbids to skip")
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a socket may have 107 characters
    start = [str(SCRIPT), "start", str(folder), "3"]
    try:
        started = subprocess.run(start, stdout=subprocess.PIPE, text=True, check=False)
        assert started.returncode == 0, started.stdout
        yield Cluster(folder)
    finally:
        subprocess.run([str(SCRIPT), "stop", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def collect_jobs() -> Iterator[list[Job]]:
    """A list for submitted jobs, which are cancelled after the test."""
    jobs: list[Job] = []
    yield jobs
    for job in jobs:
        job.end()
