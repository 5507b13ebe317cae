"""A process's share of the cores, where processes share them, in containers, and between real processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import run_processes

from sar_dist.cores import CoreUse, own_use, read_quota, share_of_cores


def use(*cores: int, machine: str = "a", container: str = "x", quota: float | None = None) -> CoreUse:
    return CoreUse(machine, cores, container, quota)


def test_bound_processes_have_their_cores_for_themselves() -> None:
    ranks = [use(*range(12 * rank, 12 * rank + 12)) for rank in range(8)]
    assert [share_of_cores(own, ranks) for own in ranks] == [12] * 8


def test_unbound_processes_share_evenly_with_those_of_their_machine_alone() -> None:
    here, there = [use(*range(96))] * 8, [use(*range(96), machine="b")] * 2
    assert {share_of_cores(own, [*here, *there]) for own in here} == {12}
    assert {share_of_cores(own, [*here, *there]) for own in there} == {48}


def test_sets_that_overlap_are_counted_core_by_core() -> None:
    first, second = use(0, 1, 2, 3), use(2, 3)
    assert share_of_cores(first, [first, second]) == 3
    assert share_of_cores(second, [first, second]) == 1


def test_more_processes_than_cores() -> None:
    assert share_of_cores(use(0), [use(0)] * 4) == 1


def test_a_quota_counts_for_the_container_that_has_it() -> None:
    first = [use(*range(64), container="p", quota=8.0)] * 2
    second = [use(*range(64), container="q")] * 2
    assert share_of_cores(first[0], [*first, *second]) == 4
    assert share_of_cores(second[0], [*first, *second]) == 16


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "something else"}, None),
        ({}, None),
    ],
)
def test_quotas_of_control_groups(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_quota(tmp_path) == cores


def test_what_processes_tell_each_other_comes_back_equal() -> None:
    own = own_use()
    assert CoreUse.from_json(own.to_json()) == own
    assert set(own.cores) == os.sched_getaffinity(0)


def test_real_processes_share_without_a_process_group(tmp_path: Path) -> None:
    """Three processes on core 0: one core each; the default then leaves none for workers. A given number stays."""
    program = tmp_path / "share.py"
    program.write_text(
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from sar_dist import distributed\n"
        "from sar_dist.config import DataSettings\n"
        "from sar_dist.data import with_workers\n"
        "distributed.meet()\n"
        "said = distributed.exchange(os.environ['RANK'])\n"
        "print('found', said, with_workers(DataSettings()).workers, with_workers(DataSettings(workers=5)).workers)\n"
        "distributed.exchange('')\n"
    )
    output = run_processes(3, str(program))
    assert output.count("found ['0', '1', '2'] 0 5") == 3
