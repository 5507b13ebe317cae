"""Programs that are run side by side: in order, stopped together, with a word about how long it still takes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from sar_dist.errors import UserError
from sar_dist.launchers import STARTER_VARIABLE
from sar_dist.processes import available_cores
from sar_dist.progress import format_duration


@dataclass(frozen=True)
class Job:
    """One program to run: what it is called, its command, and how one sees that it is done."""

    name: str
    command: Sequence[str]
    log: Path
    is_done: Callable[[], bool]


@dataclass
class Processes:
    """The programs that are running now, so that they can be told to stop, and how long those before them took."""

    running: dict[subprocess.Popen[bytes], float] = field(default_factory=dict)  # when each was started
    seconds: list[float] = field(default_factory=list)  # of those that came to their end
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: bool = False

    def start(self, job: Job, threads: int) -> subprocess.Popen[bytes] | None:
        """Start a program that writes to its log; None when everything is being stopped."""
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        environment[STARTER_VARIABLE] = str(os.getpid())  # training saves and ends where this process is killed
        with self.lock, job.log.open("ab") as log:
            if self.stopping:
                return None
            # A session of its own: Ctrl-C reaches it through ``stop`` alone, once.
            process = subprocess.Popen(
                job.command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            self.running[process] = time.monotonic()
            return process

    def ended(self, process: subprocess.Popen[bytes], done: bool) -> None:
        """Note that a program has ended."""
        with self.lock:
            started = self.running.pop(process)
            if done:
                self.seconds.append(time.monotonic() - started)

    def stop(self) -> None:
        """Start nothing more, ask what is running to save and stop."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)

    def seconds_left(self, waiting: int, at_once: int) -> float:
        """Time until ``waiting`` jobs, those that are running among them, are done, if they take as long as those before.

        Args:
            waiting: jobs without an end.
            at_once: how many run at the same time.
        """
        with self.lock:
            each, now = sum(self.seconds) / len(self.seconds), time.monotonic()
            gone = sum(min(each, now - started) for started in self.running.values())
        return (waiting * each - gone) / min(at_once, max(1, waiting))


def run_jobs(jobs: Sequence[Job], at_once: int, say: Callable[[str], None], deadline: float | None = None) -> bool:
    """Run the jobs that are not done, ``at_once`` at the same time, in order.

    After a failure the others that are running come to their end, no new one is started. SIGINT and SIGTERM stop all of
    them, with everything saved, and so does the ``deadline``, a time of ``time.monotonic``.

    Returns:
        whether all are done; False when the deadline came first.

    Raises:
        UserError: a program failed, or was stopped before its end.
    """
    waiting = [job for job in jobs if not job.is_done()]
    say(f"{len(jobs) - len(waiting)} of {len(jobs)} done already")
    processes, failures = Processes(), list[str]()
    threads = max(1, available_cores() // at_once)
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), processes.stop) if deadline is not None else None
    pool = ThreadPoolExecutor(at_once)
    try:
        if timer is not None:
            timer.start()
        futures = [pool.submit(_run, job, processes, threads, failures, say) for job in waiting]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if processes.seconds and not failures and not processes.stopping and done < len(waiting):
                left = processes.seconds_left(len(waiting) - done, at_once)
                # What runs longer than those before it leaves nothing to calculate with.
                more = f", about {format_duration(left)} left for these" if left > 0 else ""
                say(f"{len(jobs) - len(waiting) + done} of {len(jobs)} done{more}")
    except KeyboardInterrupt:
        say("stopping: what is running saves its state; the same command goes on from there")
        processes.stop()
        raise
    finally:
        if timer is not None:
            timer.cancel()
        pool.shutdown(wait=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise UserError(failures[0])
    return not processes.stopping or all(job.is_done() for job in jobs)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(job: Job, processes: Processes, threads: int, failures: list[str], say: Callable[[str], None]) -> None:
    if failures:
        return
    job.log.parent.mkdir(parents=True, exist_ok=True)
    try:
        process = processes.start(job, threads)
    except OSError as error:
        failures.append(f"{job.name}: cannot start {job.command[0]}: {error.strerror}")
        return
    if process is None:
        return
    say(f"{job.name}: started, log in {job.log}")
    status = process.wait()
    done = job.is_done()
    processes.ended(process, done)
    if done:
        say(f"{job.name}: done")
    elif not processes.stopping:
        failures.append(f"{job.name} ended with status {status} before its end: {last_line(job.log)} (see {job.log})")


def last_line(log: Path) -> str:
    """The last words of a program: its error line where there is one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it printed nothing"])[-1]
