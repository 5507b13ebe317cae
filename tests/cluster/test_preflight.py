"""slurm/preflight.py: what it says of nodes, GPUs, cores and links, with fakes where a GPU would be needed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import ROOT, free_port, program_environment, tool

sys.path.insert(0, str(ROOT / "slurm"))
import link_checks
import node_checks
import preflight
from node_checks import Findings

CPU = torch.device("cpu")
NO_LIMITS = ("--memory-gib=0", "--shm-gib=0", "--tmp-gib=0", "--run-gib=0", "--megabytes=1")


def test_one_node(tmp_path: Path) -> None:
    common = ["slurm/preflight.py", f"--out={tmp_path}", f"--run={tmp_path}/not/yet", "--shm-gib=0", "--tmp-gib=0"]
    port = str(free_port() - 1)
    healthy = tool(*common, "--memory-gib=0.01", "--run-gib=0", SLURMD_NODENAME="good", MASTER_PORT=port)
    assert healthy.status == 0, healthy.stdout + healthy.stderr
    assert (tmp_path / "good.0").read_text().startswith("ok: no link to test (gloo), ")
    greedy = tool(*common, "--memory-gib=1e6", "--gpus=99", SLURMD_NODENAME="poor", MASTER_PORT=port)
    assert greedy.status == 1
    verdict = (tmp_path / "poor.0").read_text()
    assert verdict.startswith("bad: ")
    assert "GiB of memory free, 1e+06 wanted" in verdict
    assert "0 of 99 GPUs are usable" in verdict


def start(folder: Path, tasks: list[tuple[str, int]], *arguments: str, **environment: str) -> list[Path]:
    """Run the check with tasks (node, local rank), as srun would; their verdict files."""
    command = [sys.executable, "slurm/preflight.py", f"--out={folder}", f"--run={folder}", *NO_LIMITS, *arguments]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port() - 1), **environment}
    running = []
    for rank, (node, local) in enumerate(tasks):
        names = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_STEP_NUM_TASKS": str(len(tasks))}
        task = program_environment(SLURMD_NODENAME=node, **names, **meeting)
        running.append(subprocess.Popen(command, cwd=ROOT, env=task, stdout=subprocess.DEVNULL))
    for process in running:
        process.wait(timeout=120)
    return [folder / f"{node}.{local}" for node, local in tasks]


def test_links_inside_and_between_nodes(tmp_path: Path) -> None:
    for verdict in start(tmp_path, [("n0", 0), ("n0", 1), ("n1", 0), ("n1", 1)]):
        text = verdict.read_text()
        assert text.startswith("ok: all-reduce over 2 nodes at "), text
        assert "all-reduce over 2 processes of the node at " in text
        assert "clock +0.0" in text or "clock -0.0" in text


def test_slow_links_are_judged_where_a_limit_is_given(tmp_path: Path) -> None:
    files = start(tmp_path, [("n0", 0), ("n0", 1)], "--min-node-gbps=1e9", "--min-gbps=1e9")
    assert all(" Gbit/s, 1e+09 wanted" in file.read_text() for file in files)


def test_a_process_without_its_gpu_spoils_nothing_for_the_others(tmp_path: Path) -> None:
    """The node without GPUs is bad; its neighbours neither wait for it in a collective nor are blamed."""
    first, second = start(tmp_path, [("n0", 0), ("n1", 0)], "--gpus=1", "--patience=30")
    assert first.read_text().startswith("bad: 0 of 1 GPUs are usable\n")
    assert "all-reduce failed" not in first.read_text() + second.read_text()


def test_nobody_asks_the_store_again_after_it_said_that_it_leaves() -> None:
    """Rank 0 may have ended by then, and a question without an answer would cost the node its verdict."""

    class Store:
        calls = 0

        def set(self, *_: object) -> None:
            self.calls += 1

        def add(self, *_: object) -> int:
            self.calls += 1
            if self.calls > 2:
                raise dist.DistNetworkError("Connection was likely closed")
            return 1

    store: Any = Store()
    link_checks.leave(store, rank=1, world=2)
    assert store.calls == 2
    link_checks.leave(store, rank=1, world=2)  # and where rank 0 was gone before


@pytest.mark.long
def test_the_node_that_is_cut_off_is_blamed(tmp_path: Path) -> None:
    """Two of three nodes meet; the third looks for them where nobody listens."""
    port = free_port()
    command = [
        sys.executable,
        "slurm/preflight.py",
        f"--out={tmp_path}",
        f"--run={tmp_path}",
        *NO_LIMITS,
        "--patience=8",
    ]
    nodes = []
    for number, address in enumerate(("127.0.0.1", "127.0.0.1", "127.0.0.2")):
        rank = {"SLURM_PROCID": str(number), "SLURM_STEP_NUM_TASKS": "3", "SLURMD_NODENAME": f"n{number}"}
        meeting = {"MASTER_ADDR": address, "MASTER_PORT": str(port if number < 2 else free_port())}
        nodes.append(subprocess.Popen(command, cwd=ROOT, env=program_environment(**rank, **meeting)))
    assert [node.wait(timeout=60) for node in nodes] == [0, 0, 1]
    assert (tmp_path / "n0.0").read_text() == (tmp_path / "n1.0").read_text() == "ok: waited in vain for rank 2 of 3\n"
    assert (tmp_path / "n2.0").read_text().startswith("bad: cannot reach 127.0.0.2:")


def test_a_failing_device_is_said_and_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> float:
        raise RuntimeError("uncorrectable ECC error\nwith a stack")

    monkeypatch.setattr(link_checks, "matmul_tflops", fail)
    findings = Findings()
    assert not link_checks.measure_device(findings, CPU, "n1").fit
    assert findings.problems == ["cpu: uncorrectable ECC error"]
    assert not link_checks.measure_device(findings, None, "n1").fit


@pytest.mark.parametrize(("least", "bad"), [(0.0, False), (0.85, True)])
def test_a_slow_gpu_is_named_against_its_own_node(least: float, bad: bool) -> None:
    node = [link_checks.Facts("n1", speed, fit=True) for speed in (700.0, 690.0, 560.0, 710.0)]
    others = [link_checks.Facts("n2", 100.0, fit=True), link_checks.Facts("n1", 0.0, fit=False)]
    findings = [Findings() for _ in node]
    for own, found in zip(node, findings, strict=True):
        link_checks.judge_speed(found, own, [*node, *others], least)
    said = findings[2].problems if bad else findings[2].warnings
    assert len(said) == 1
    assert "81% of the median speed of its node (560 TFLOP/s)" in said[0]
    assert not any(found.problems + found.warnings for found in (findings[0], findings[1], findings[3]))


def test_matrix_products_are_timed_and_checked() -> None:
    assert 1e-4 < node_checks.matmul_tflops(CPU, seconds=0.05) < 100
    assert node_checks.multiplies(CPU)


def test_a_wrong_sum_is_no_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group=None: tensor.fill_(3.0))
    with pytest.raises(RuntimeError, match="wrong sum"):
        link_checks.all_reduce_gbps(64, CPU)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group=None: tensor.fill_(2.0))
    assert link_checks.all_reduce_gbps(64, CPU) > 0


def fake_gpu(monkeypatch: pytest.MonkeyPatch, *, count: int, free: float) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * 80 * 2**30), 80 * 2**30))


def test_missing_occupied_and_wrong_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, count=8, free=1.0)
    assert node_checks.gpu_problems(CPU, 8) == []
    fake_gpu(monkeypatch, count=7, free=0.5)
    assert node_checks.gpu_problems(CPU, 8) == [
        "7 of 8 GPUs are usable",
        "GPU None has only 40 of 80 GiB free",
    ]
    monkeypatch.setattr(node_checks, "multiplies", lambda device: False)
    assert "computes wrong results" in node_checks.gpu_problems(CPU, 7)[1]


def test_a_driver_that_pytorch_cannot_use_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sar_dist import devices

    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13\n")
    monkeypatch.setattr(devices, "_NVIDIA_DRIVER", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    findings = Findings()
    assert preflight.check_device(findings, 8, local_rank=1) is None
    assert "driver 470.57.02" in findings.problems[0]


def test_the_compiler_of_triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sysconfig

    headers = tmp_path / "include"
    headers.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(headers))
    compiler = tmp_path / "bin" / "clang"
    compiler.parent.mkdir()
    monkeypatch.setenv("PATH", str(compiler.parent))
    monkeypatch.delenv("CC", raising=False)
    said = node_checks.compiler_problem()
    assert said is not None
    assert said.startswith("no C compiler ($CC, gcc or clang) and no Python.h (Debian: python3-dev): ")
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert str(node_checks.compiler_problem()).startswith("no Python.h")
    (headers / "Python.h").touch()
    assert node_checks.compiler_problem() is None
    monkeypatch.setenv("CC", "icc -O2")
    assert str(node_checks.compiler_problem()).startswith("no C compiler")


@pytest.mark.parametrize(
    ("text", "cores"), [("0-2,8", {0, 1, 2, 8}), ("5\n", {5}), ("", set()), ("0-1,4-5\n", {0, 1, 4, 5})]
)
def test_lists_of_cores_in_the_kernels_notation(text: str, cores: set[int]) -> None:
    assert node_checks.parse_cores(text) == cores
    assert node_checks.write_cores(cores) == text.strip()


@pytest.mark.parametrize(
    ("near", "allowed", "far"),
    [
        ("24-47", "0-11", True),  # the other socket
        ("24-47", "24-35", False),
        ("24-47", "0-47", False),  # not bound: may run near it
        ("24-47", "20-27", False),
        ("24-47", "18-25", True),
        ("", "0-11", False),  # a virtual machine that does not say
        ("nonsense", "0-11", False),
    ],
)
def test_processes_on_the_wrong_socket(near: str, allowed: str, far: bool, tmp_path: Path) -> None:
    """With the files of a made-up /sys/bus/pci/devices."""
    device = tmp_path / "0000:3b:00.0"
    device.mkdir()
    (device / "local_cpulist").write_text(f"{near}\n")
    said = node_checks.far_from(
        "GPU 3", node_checks.near_cores(device.name, tmp_path), node_checks.parse_cores(allowed)
    )
    assert (said is not None) is far
    if said is not None:
        assert f"cores {allowed}, far from its GPU 3 at cores {near}" in said


def test_the_place_of_a_gpu_is_found_by_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "0001:c1:0a.0").mkdir()
    (tmp_path / "0001:c1:0a.0" / "local_cpulist").write_text("8-15\n")
    place = SimpleNamespace(pci_domain_id=1, pci_bus_id=0xC1, pci_device_id=10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: place)
    assert "far from its GPU 2 at cores 8-15" in str(
        node_checks.place_warning(torch.device("cuda", 2), {0, 1}, tmp_path)
    )
    assert node_checks.place_warning(torch.device("cuda", 2), {8, 9}, tmp_path) is None
    assert node_checks.near_cores("0000:00:00.0", tmp_path) == set()


def test_memory_and_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = argparse.Namespace(run=tmp_path / "new", memory_gib=1e6, shm_gib=0, tmp_gib=0, run_gib=1e9)
    memory, disk = node_checks.machine_problems(wanted)
    assert "GiB of memory free, 1e+06 wanted" in memory
    assert f"GiB free in {tmp_path}, 1e+09 wanted" in disk
    assert os.path.exists("/dev/shm")
