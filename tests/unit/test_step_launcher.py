"""Whether srun still lives, from the kernel's table of connections and srun's port."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sar_dist import step_launcher
from sar_dist.step_launcher import StepLauncher, find_step_launcher

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the connections to 127.0.0.1, as (port there, state) each."""
    table = tmp_path / "tcp"
    monkeypatch.setattr(step_launcher, "_TABLE", table)

    def write(*connections: tuple[int, str]) -> None:
        rows = [f"   {n}: 0B0200C0:B9AC 0100007F:{port:04X} {state} 0:0" for n, (port, state) in enumerate(connections)]
        table.write_text("\n".join([HEADER, *rows]))

    return write


def test_srun_is_gone_when_its_connection_ends_and_nobody_listens(connected: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connected((9, "01"), (22, "01"), (23, "06"))
        launcher = StepLauncher("127.0.0.1", port)
        listening.settimeout(0)
        connected((9, "01"), (22, "01"))
        assert launcher.is_alive()
        with pytest.raises(BlockingIOError):
            listening.accept()  # it was not asked
        connected((9, "01"), (22, "08"))
        assert launcher.is_alive()
        listening.accept()[0].close()
    assert launcher.is_alive(), "another one's connection has ended, once"
    connected((9, "08"))
    assert not launcher.is_alive()


def test_without_a_connection_nothing_is_concluded(connected: Callable[..., None]) -> None:
    connected()
    assert StepLauncher("127.0.0.1", 1).is_alive()


@pytest.mark.parametrize(
    ("groups", "command", "found"),
    [
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0", [], True),
        ("4:freezer:/slurm/uid_0/job_7/step_0", [], True),
        ("0::/system.slice/slurmstepd.scope/job_7/step_batch", ["slurmstepd: [7.0]"], False),
        ("0::/job_8/step_0", [], False),
        ("0::/", ["slurmstepd: [7.0]"], True),
        ("0::/", ["slurmstepd: [7.bat"], False),
        ("0::/", ["slurmstepd: ["], False),
        ("0::/", [], False),
    ],
)
def test_variables_of_another_step_are_not_believed(
    groups: str, command: list[str], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (STEP | {"SLURM_STEP_LAUNCHER_PORT": "9"}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "cgroup").write_text(groups)
    monkeypatch.setattr(step_launcher, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(step_launcher, "ancestors", lambda: iter([5]))
    monkeypatch.setattr(step_launcher, "command_of", lambda _: command)
    assert (find_step_launcher() is not None) == found
    monkeypatch.setenv("SLURM_STEP_LAUNCHER_PORT", "")
    assert find_step_launcher() is None
