"""Ranks and meeting place under every launcher, and refusals where processes would train alone side by side."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.launch_environment import find_meeting_place, first_host, read_environment
from sar_dist.program import run_tool

OWN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "CROSS_SIZE")
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
MPICH = {"PMI_RANK": "1", "MPI_LOCALRANKID": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_")):
            monkeypatch.delenv(name)
    for name in OWN:
        monkeypatch.setenv(name, "0")  # so that what the functions set is undone afterwards
        monkeypatch.delenv(name)


def under(monkeypatch: pytest.MonkeyPatch, *launchers: dict[str, str], **more: str) -> None:
    for variables in (*launchers, more):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "x"},
        {"RANK": ""},
        {"RANK": "1"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "9" * 20},
        {"RANK": "0", "LOCAL_RANK": "-1", "WORLD_SIZE": "1"},
    ],
)
def test_a_rank_that_makes_no_sense_is_said_by_whoever_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    """None of the processes may be the one with RANK=0, which says what all know."""
    under(monkeypatch, variables)
    with pytest.raises(SystemExit) as ended:
        run_tool(lambda: read_environment()[0])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: RANK")


@pytest.mark.parametrize("address", ["", " "])
def test_an_empty_meeting_place_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    under(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": "29500"})
    with pytest.raises(UserError, match="nowhere to meet: set MASTER_ADDR"):
        find_meeting_place(2)
    under(monkeypatch, SLURM)
    assert find_meeting_place(2) == ("gpu03", 29500)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (OPEN_MPI, (3, 1, 4)),
        (MPICH, (1, 1, 2)),
        (SLURM, (5, 1, 8)),
        ({**SLURM, **OPEN_MPI}, (3, 1, 4)),  # mpirun whose daemons are tasks of a step
        ({**SLURM, "PMI_RANK": "5", "PMI_SIZE": "8"}, (5, 1, 8)),  # srun --mpi=pmi2
        ({**OPEN_MPI, "RANK": "9", "LOCAL_RANK": "7", "WORLD_SIZE": "16"}, (9, 7, 16)),  # torchrun under mpirun
    ],
)
def test_ranks(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, int, int]) -> None:
    under(monkeypatch, variables)
    assert read_environment() == expected
    assert os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", os.environ["LOCAL_RANK"]) == os.environ["LOCAL_RANK"]
    assert read_environment() == expected


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_RANK": "0", "PMI_SIZE": "2"},
        {**OPEN_MPI, "RANK": "0", "WORLD_SIZE": "1"},
        {**SLURM, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_several_worlds_of_one_are_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    under(monkeypatch, variables)
    with pytest.raises(UserError, match="processes were started"):
        read_environment()
    under(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"})  # each task starts its own
    assert read_environment() == (0, 0, 1)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[003-007,12]-ib,login1", "gpu003-ib"),
        ("rack[2,4]node[08-11]", "rack2node08"),
        ("n[1-2].cluster.example", "n1.cluster.example"),
        ("", ""),
    ],
)
def test_first_host_of_a_slurm_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_meeting_place_comes_from_the_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, SLURM)
    host, port = find_meeting_place(8)
    assert host == "gpu03"
    assert 20000 <= port < 30000
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (host, str(port))
    places = set()
    for rank in "07":  # every rank finds the same one, every job step another one
        for step in "01":
            monkeypatch.delenv("MASTER_ADDR")
            monkeypatch.delenv("MASTER_PORT")
            under(monkeypatch, SLURM_PROCID=rank, SLURM_STEP_ID=step)
            places.add(find_meeting_place(8))
    assert len(places) == 2
    monkeypatch.delenv("MASTER_PORT")
    under(monkeypatch, MASTER_ADDR="ib-gpu03")
    assert find_meeting_place(8)[0] == "ib-gpu03"


def test_meeting_place_on_one_node_of_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, MPICH, PMIX_NAMESPACE="job1")
    assert find_meeting_place(2)[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "4"}, "4 processes have nowhere to meet: set MASTER_ADDR"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "mpirun: -x MASTER_ADDR"),
        ({"MASTER_ADDR": "n1", "MASTER_PORT": "port"}, "MASTER_PORT=port is not a port"),
        ({"MASTER_ADDR": "n1", "MASTER_PORT": "70000"}, "is not a port"),
    ],
)
def test_no_place_to_meet(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    under(monkeypatch, variables)
    with pytest.raises(UserError, match=message):
        find_meeting_place(4)


def test_a_single_process_opens_no_port_and_leaves_its_children_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "TCPStore", lambda *_, **__: pytest.fail("a port was opened"))
    distributed.initialize(torch.device("cpu"))
    try:
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
    finally:
        distributed.shutdown()
