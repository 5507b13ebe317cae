"""Before there is a process group: who is missing is said, one process's error ends all, and its line appears once."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from sar_dist import meeting as meeting_module
from sar_dist.errors import CannotMeet, UserError
from sar_dist.meeting import Meeting


def on_ranks(world: int, action: Callable[[Meeting], Any], ranks: list[int] | None = None) -> list[Any]:
    """``action`` on threads that stand for the processes; a raised UserError as its text."""
    store = dist.HashStore()

    def run(rank: int) -> Any:
        try:
            return action(Meeting(store, rank, world, "n1:29500"))
        except UserError as error:
            return f"error: {error}"

    ranks = list(range(world)) if ranks is None else ranks
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(run, ranks))


def test_all_meet() -> None:
    assert on_ranks(4, lambda meeting: meeting.wait_for_all(10)) == [None] * 4


def test_missing_ranks_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = on_ranks(4, lambda meeting: meeting.wait_for_all(0.3, say_every=0.1), ranks=[0, 2])
    assert outcomes[0].startswith("error: ranks 1, 3 of 4 processes did not come to n1:29500 in 0.3 s")
    assert outcomes[1].startswith("error: not all of 4 processes came")
    assert "waiting at n1:29500 for ranks 1, 3 of 4 processes" in capsys.readouterr().err


def test_error_of_one_process_ends_all() -> None:
    def check(meeting: Meeting) -> int:
        def action() -> int:
            if meeting.rank == 2:
                raise UserError("no data here")
            return meeting.rank

        assert meeting.together(lambda: meeting.rank) == meeting.rank
        return meeting.together(action)

    outcomes = on_ranks(3, check)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].startswith("error: no data here (rank 2 on ")
    assert outcomes[2] == "error: no data here"


@pytest.mark.parametrize("failing", [[0], [0, 1, 2], [1], [1, 2]])
def test_line_of_an_error_is_printed_once(failing: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_module, "_LISTEN_SECONDS", 0.3)
    monkeypatch.setattr(meeting_module, "_LINGER_SECONDS", 1.0)
    spoken = on_ranks(3, lambda meeting: meeting.speaks(), ranks=failing)
    assert sum(spoken) == 1
    assert spoken[0] or 0 not in failing


def test_who_cannot_ask_any_more_speaks() -> None:
    class Gone:
        def add(self, key: str, number: int) -> int:
            return number

        def set(self, key: str, value: str) -> None: ...

        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("connection closed")

    assert Meeting(Gone(), 1, 2, "n1:29500").speaks()  # type: ignore[arg-type]


def test_nobody_waits_for_a_process_that_ended_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_module, "_LISTEN_SECONDS", 0.1)

    def start(meeting: Meeting) -> Any:
        return meeting.speaks() if meeting.rank == 1 else meeting.together(lambda: meeting.rank)

    assert on_ranks(2, start) == ["error: another process of this run ended with an error; see its line", True]


def test_a_process_that_finds_another_run_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_module, "_LISTEN_SECONDS", 0.1)
    store = dist.HashStore()
    first = Meeting(store, 1, 2, "n1:29500")
    with pytest.raises(CannotMeet, match=r"another run meets at n1:29500 already; .* deepspeed --master_port"):
        Meeting(store, 1, 2, "n1:29500")
    assert first.speaks()


def test_a_store_that_an_agent_keeps_over_its_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store = dist.HashStore()
    for _ in range(2):
        Meeting(store, 1, 2, "n1:29500")


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_module, "_meeting", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(CannotMeet, match=f"port {port} of this machine is taken, .* a port of its own"):
            meeting_module.join(timedelta(seconds=5))


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH\r\n"])
def test_a_strange_service_at_the_meeting_place_is_said(
    greeting: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that greets, and one that takes the connection and waits, which PyTorch waits for without a limit."""
    monkeypatch.setattr(meeting_module, "_SAY_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(meeting_module, "read_environment", lambda: (1, 1, 2))
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(greeting)
                kept.append(connection)

        pool.submit(serve)
        try:
            with pytest.raises(CannotMeet, match="could not meet at"):
                meeting_module._connect("127.0.0.1", port, timedelta(seconds=1.5))
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()
    said = capsys.readouterr().err
    assert f"waits for rank 0 at 127.0.0.1:{port}; what answers there is no meeting place of this program" in said
    assert said.count("waits for rank 0") < 9


def test_a_name_may_come_late(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As that of a pod in Kubernetes; the wait is said once."""
    answers = iter([OSError(-2, "Name or service not known")] * 3)

    def look_up(host: str, port: None) -> None:
        for answer in answers:
            raise answer

    monkeypatch.setattr(meeting_module.socket, "getaddrinfo", look_up)
    meeting_module._wait_for_name("master-0", 30)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot find MASTER_ADDR=master-0 yet (Name or service not known); waiting 30 s for the name")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".x"])
def test_a_name_that_does_not_resolve_is_said_by_whoever_looks_for_it(host: str) -> None:
    with pytest.raises(CannotMeet, match=f"cannot find MASTER_ADDR={host}: ") as refused:
        meeting_module._wait_for_name(host, 0.2)
    assert refused.value.for_every_process
