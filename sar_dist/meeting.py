"""Where the processes of a run find each other before there is a process group, and speak with one voice.

Rank 0 holds a small store (PyTorch's TCPStore, at MASTER_ADDR:MASTER_PORT; the process group uses the same one later).
It knows who has arrived, so that a wait says for whom; it carries what is wrong on one process to the others; and it
decides which process prints the one line of an error.
"""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from sar_dist.errors import CannotMeet, UserError, in_brief, shortened, text_of
from sar_dist.launch_environment import find_meeting_place, read_environment
from sar_dist.library_defaults import check_interfaces, set_library_defaults
from sar_dist.output import warn
from sar_dist.program import let_speak

if TYPE_CHECKING:
    import torch.distributed as dist  # slow to import, and a single process meets nobody

T = TypeVar("T")

MEETING_TIME = timedelta(minutes=30)
_SAY_EVERY_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_ASK_SECONDS = 0.5  # between two questions to a name server
_LISTEN_SECONDS = 2.0  # that a process waits for rank 0 to say the line
_LINGER_SECONDS = 3.0  # that rank 0 waits for the others to hear that it was said
_NAMED_RANKS = 16
_ANOTHER_PORT = (
    "give this run a port of its own, such as 29501: deepspeed --master_port, torchrun --master-port, or MASTER_PORT"
)
_STRANGE = f"what answers there is no meeting place of this program (or a rank 0 that stands still): {_ANOTHER_PORT}"
_NAME_SECONDS = 60.0  # that a name may come late: Kubernetes publishes that of a pod after it has started


class NotFound(CannotMeet):
    """This process does not find rank 0; what others find, it cannot know."""

    for_every_process = True


class Meeting:
    """One process's connection to the store. ``join`` makes it.

    Raises:
        UserError: the store is another run's, in which this rank has arrived before.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, place: str) -> None:
        self.store = store
        self.rank = rank
        self.world = world
        self.place = place
        self._rounds = 0
        # torchrun's agent keeps its store over its restarts, and lets no other run near it.
        if store.add(f"arrivals/{rank}", 1) > 1 and not _agent_holds_store():
            raise CannotMeet(f"another run meets at {place} already; {_ANOTHER_PORT}")
        store.set(f"here/{rank}", platform.node())

    def wait_for_all(self, seconds: float, say_every: float = _SAY_EVERY_SECONDS) -> None:
        """Wait until every process is there; rank 0 says who is missing. Call on every process.

        Raises:
            UserError: some did not come in time.
        """
        began = last = time.monotonic()
        while not self.store.check(["all here"]):
            if self.rank == 0:
                missing = [rank for rank in range(self.world) if not self.store.check([f"here/{rank}"])]
                if not missing:
                    self.store.set("all here", "")
                    return
                if time.monotonic() - last > say_every:
                    last = time.monotonic()
                    warn(f"waiting at {self.place} for {_listed(missing)} of {self.world} processes")
                if time.monotonic() - began > seconds:
                    raise CannotMeet(
                        f"{_listed(missing)} of {self.world} processes did not come to {self.place} in {seconds:g} s; "
                        "see their logs, and whether their nodes reach that address"
                    )
            elif time.monotonic() - began > seconds + _LINGER_SECONDS:
                raise CannotMeet(f"not all of {self.world} processes came to {self.place} in {seconds:g} s")
            self._wait()

    def together(self, action: Callable[[], T]) -> T:
        """Run ``action`` on every process; where it fails on one of them, all raise its UserError."""
        self._rounds += 1
        done, problem = f"done/{self._rounds}", f"problem/{self._rounds}"
        try:
            result = action()
        except UserError as error:
            self.store.compare_set(problem, "", f"{text_of(error)} (rank {self.rank} on {platform.node()})")
            raise
        self.store.add(done, 1)
        while self.store.add(done, 0) < self.world:
            if self.store.check([problem]):
                raise UserError(self.store.get(problem).decode())
            self._wait()
        return result

    def exchange(self, text: str) -> list[str]:
        """What every process gives, in rank order. Call on every process."""
        self._rounds += 1
        key, count = f"given/{self._rounds}", f"count/{self._rounds}"
        self.store.set(f"{key}/{self.rank}", text)
        self.store.add(count, 1)
        while self.store.add(count, 0) < self.world:
            self._wait()
        return [given.decode() for given in self.store.multi_get([f"{key}/{rank}" for rank in range(self.world)])]

    def _wait(self) -> None:
        """Let a moment pass. Raises UserError where another process has ended with an error, which it has printed."""
        if self.store.add("speakers", 0):
            raise UserError("another process of this run ended with an error; see its line")
        time.sleep(_LOOK_SECONDS)

    def speaks(self) -> bool:
        """Whether this process is the one to print an error's line: rank 0, or the first other one that it leaves it to."""
        try:
            return self._lead() if self.rank == 0 else self._follow()
        except RuntimeError:  # rank 0 and its store have gone: what this process knows would stay unsaid
            return True

    def _lead(self) -> bool:
        first = self.store.add("speakers", 1) == 1
        if first:
            self.store.set("rank 0 speaks", "")
        deadline = time.monotonic() + _LINGER_SECONDS
        while self.store.add("listeners", 0) < self.world - 1 and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return first

    def _follow(self) -> bool:
        deadline = time.monotonic() + _LISTEN_SECONDS
        while not (leads := self.store.check(["rank 0 speaks"])) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        speaks = not leads and self.store.add("speakers", 1) == 1
        self.store.add("listeners", 1)
        return speaks


_meeting: Meeting | None = None


def meet(timeout: timedelta = MEETING_TIME) -> None:
    """Let the processes know each other from here on: an error on any of them is then said, and said once.

    Raises:
        UserError: rank 0 was not found in time, or a process has not the network interface that a variable names.
    """
    set_library_defaults()
    if (meeting := join(timeout)) is None:
        check_interfaces()
    else:
        meeting.together(check_interfaces)


def join(timeout: timedelta) -> Meeting | None:
    """Connect to rank 0's store, or open it; None for a single process. Later calls give the same meeting.

    Raises:
        UserError: rank 0 is not found in time, or its port is taken.
    """
    global _meeting
    rank, _, world = read_environment()
    if _meeting is None and world > 1:
        import torch.distributed as dist

        host, port = find_meeting_place(world)
        store = dist.PrefixStore(
            f"sar_dist/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", _connect(host, port, timeout)
        )
        _meeting = Meeting(store, rank, world, f"{host}:{port}")
        let_speak(_meeting.speaks)
    return _meeting


def part() -> None:
    """Say that this process needs rank 0's store no more; rank 0 waits a moment for the others to say so."""
    if _meeting is None:
        return
    deadline = time.monotonic() + _LINGER_SECONDS
    try:
        _meeting.store.add("parted", 1)
        while _meeting.rank == 0 and time.monotonic() < deadline and _meeting.store.add("parted", 0) < _meeting.world:
            time.sleep(_LOOK_SECONDS)
    except RuntimeError:  # rank 0 has gone
        return


def _connect(host: str, port: int, timeout: timedelta) -> dist.TCPStore:
    import torch.distributed as dist

    rank, _, world = read_environment()
    _wait_for_name(host, min(_NAME_SECONDS, timeout.total_seconds()))
    opens = rank == 0 and not _agent_holds_store()
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        patience = timedelta(seconds=min(_SAY_EVERY_SECONDS, timeout.total_seconds()))

        def store(patience: timedelta = patience) -> dist.TCPStore:
            return dist.TCPStore(host, port, world, opens, patience, wait_for_workers=False, multi_tenant=True)

        try:
            return store() if opens else _answered(store, f"{host}:{port}", deadline)
        except (RuntimeError, ValueError) as error:
            reason = in_brief(error)
            if opens and "EADDRINUSE" in reason:
                raise CannotMeet(
                    f"port {port} of this machine is taken, perhaps by another run; {_ANOTHER_PORT}"
                ) from error
            if opens or time.monotonic() > deadline:
                raise NotFound(f"the processes could not meet at {host}:{port}: {reason}") from error
            strange = f"; {_STRANGE}" if "Ping failed" in reason else ""
            warn(f"rank {rank} on {platform.node()} waits for rank 0 at {host}:{port}{strange}")
            if strange:  # which it says at once
                time.sleep(min(_SAY_EVERY_SECONDS, max(0.0, deadline - time.monotonic())))


def _answered(connect: Callable[[], T], place: str, deadline: float) -> T:
    """What ``connect`` gives or raises. It waits for ever where something takes the connection, and says nothing.

    Raises:
        NotFound: until the deadline nothing was said there.
    """
    outcome: Future[T] = Future()

    def try_it() -> None:
        try:
            outcome.set_result(connect())
        except BaseException as error:  # noqa: BLE001 -- it is raised where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=try_it, name="finds rank 0", daemon=True).start()
    patience = 1.25 * _SAY_EVERY_SECONDS  # before that ``connect`` gives up by itself where nobody listens
    while True:
        left = deadline - time.monotonic()
        try:
            return outcome.result(max(_LOOK_SECONDS, min(patience, left)))
        except FutureTimeout:
            if left <= patience:
                raise NotFound(f"the processes could not meet at {place}: {_STRANGE}") from None
            warn(f"rank {read_environment()[0]} on {platform.node()} waits for rank 0 at {place}; {_STRANGE}")
            patience = _SAY_EVERY_SECONDS


def _agent_holds_store() -> bool:
    """Whether torchrun's agent opens the store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _wait_for_name(host: str, seconds: float) -> None:
    """Return when this node knows the name. Raises NotFound if it does not come to know it."""
    deadline, said = time.monotonic() + seconds, False
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no name of a host"
            if isinstance(error, UnicodeError) or time.monotonic() > deadline:
                raise NotFound(f"{platform.node()} cannot find MASTER_ADDR={shortened(host)}: {reason}") from error
        if not said:
            warn(f"{platform.node()} cannot find MASTER_ADDR={host} yet ({reason}); waiting {seconds:g} s for the name")
            said = True
        time.sleep(_ASK_SECONDS)


def _listed(ranks: list[int]) -> str:
    more = f" and {len(ranks) - _NAMED_RANKS} more" if len(ranks) > _NAMED_RANKS else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:_NAMED_RANKS]))}{more}"
