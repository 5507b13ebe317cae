"""Starts one run again and again, and ends each start at a random time in a random way, until it is done undisturbed.

What happens in a round is drawn: one start or two at once, under a launcher or none, a disk that is full, and who gets
which signal when. Whatever it is, all processes of the round must have ended 30 s later. Where there is no launcher, the
killer asks the others of a start to end once one of them has failed, as a launcher does, but 10 s later.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from support import ROOT, Process, free_port, program_environment, start_processes
from test_launchers import SECONDS_TO_END, descendants

from sar_dist.processes import ProcessIdentity, identify

KINDS = ["kill"] * 7 + ["two starts"] * 3 + ["full disk"] * 2
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
_LAUNCHERS = (
    ["-m", "deepspeed.launcher.runner", "--num_accelerators", "{ranks}", "--master_port", "{port}"],
    ["-m", "torch.distributed.run", "--nproc-per-node", "{ranks}", "--master-port", "{port}"],
)
_SLOWER = 3  # times as long a start takes that is no fork of a process with the libraries
_NOTICED = 10  # seconds
_FULL = "100000"  # bytes that a file may have on the full disk: less than a checkpoint, more than metrics
_ON_FULL_DISK = str(Path(__file__).parent / "full_disk_train.py")


class RandomKiller:
    """Draws and carries out rounds.

    Args:
        ranks: processes of a start.
        training: arguments of tools/train.py.
        seconds: that an unbroken start takes.
        seed: of all that is drawn.
        launchers: whether real launchers are killed too, which takes long.
    """

    def __init__(self, ranks: int, training: list[str], seconds: float, seed: int, *, launchers: bool) -> None:
        self.ranks = ranks
        self.training = training
        self.seconds = seconds
        self.chance = random.Random(seed)
        self.kinds = [*KINDS, "launcher"] if launchers else KINDS
        self.kills: Counter[str] = Counter()
        self.slowest = 0.0

    def round(self) -> bool:
        """One round; whether the run was done in it."""
        kind = self.chance.choice(self.kinds)
        if kind == "launcher":
            return self._under_launcher()
        program = [_ON_FULL_DISK, _FULL] if kind == "full disk" else ["tools/train.py"]
        groups = [start_processes(self.ranks, *program, *self.training) for _ in range(1 + (kind == "two starts"))]
        try:
            return self._end(kind, groups)
        finally:
            for process in (process for group in groups for process in group):
                process.kill()

    def _end(self, kind: str, groups: list[list[Process]]) -> bool:
        everyone = [process for group in groups for process in group]
        self._sleep(everyone, self.chance.uniform(0.3, 1.1 * self.seconds))
        done = all(process.poll() == 0 for process in groups[0])
        for group in groups:  # of two starts the other would train on
            victims = self.chance.choice([group, group[:1], group[-1:]])
            for process in victims:
                if process.poll() is None:
                    self.kills[kind] += 1
                    process.send_signal(self.chance.choice(_SIGNALS))
        self._wait_for_end(groups)
        outputs = ["".join(process.communicate()[0] for process in group) for group in groups]
        assert sum("is in use by process" in output for output in outputs) < len(groups), outputs
        return done and kind != "full disk"

    def _wait_for_end(self, groups: list[list[Process]]) -> None:
        """As a launcher does it: once a process has failed, the others of its start are asked to end.

        They notice by themselves once they have met; before that they wait for each other.
        """
        everyone = [process for group in groups for process in group]
        began = time.monotonic()
        self._sleep(everyone, _NOTICED)
        for group in groups:
            if any(process.poll() for process in group):
                for process in group:
                    process.terminate()
        self._sleep(everyone, SECONDS_TO_END - _NOTICED)
        self.slowest = max(self.slowest, time.monotonic() - began)
        if alive := [process for process in everyone if process.poll() is None]:
            for process in alive:
                process.send_signal(signal.SIGABRT)  # it shows where each of its threads is
            raise AssertionError("a process goes on\n" + "\n---\n".join(process.communicate()[0] for process in alive))

    def _under_launcher(self) -> bool:
        launcher = [part.format(ranks=self.ranks, port=free_port()) for part in self.chance.choice(_LAUNCHERS)]
        process = subprocess.Popen(
            [sys.executable, *launcher, "tools/train.py", *self.training],
            cwd=ROOT,
            env=program_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._sleep([process], self.chance.uniform(1, _SLOWER * self.seconds))
        family = _family(process.pid) if process.poll() is None else []
        done = process.poll() == 0
        if family:
            self.kills["launcher"] += 1
            process.send_signal(self.chance.choice(_SIGNALS))
        began = time.monotonic()
        while any(member.is_alive() for member in family) and time.monotonic() < began + SECONDS_TO_END:
            process.poll()
            time.sleep(0.1)
        self.slowest = max(self.slowest, time.monotonic() - began)
        alive = [member for member in family if member.is_alive()]
        assert not alive, f"{launcher[1]}: {len(alive)} of {len(family)} processes go on without it"
        process.wait()
        return done

    @staticmethod
    def _sleep(processes: list[Process], seconds: float) -> None:
        """Wait so long, or until all of the processes have ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(0.05)


def _family(pid: int) -> list[ProcessIdentity]:
    return [found for member in descendants(pid) if (found := identify(member)) is not None]
