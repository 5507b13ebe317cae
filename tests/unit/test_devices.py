"""The device of a process: its own GPU, and the CPU only where that is meant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sar_dist import devices
from sar_dist.devices import find_device, process_count, shared_gpu, use_deterministic_kernels, uses_cuda
from sar_dist.errors import UserError

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n"
OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\nGCC version:\n"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A node with an NVIDIA device, whose driver PyTorch cannot use, and nothing that asks for the CPU."""
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "SLURM_GPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "_NVIDIA_DEVICE", tmp_path / "nvidiactl")
    monkeypatch.setattr(devices, "_NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "version").write_text(DRIVER)
    return tmp_path


@pytest.fixture
def free_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch's choice of kernels is as before after the test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def test_deterministic_kernels(free_choice: None) -> None:
    use_deterministic_kernels()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic


def test_a_workspace_that_is_not_deterministic_is_refused(free_choice: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 .*; unset it, or use :4096:8 or :16:8"):
        use_deterministic_kernels()
    assert not torch.are_deterministic_algorithms_enabled()


def give_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


def test_an_old_driver_is_refused(node: Path) -> None:
    with pytest.raises(UserError, match=r"\(driver 535\.54\.03\).*CUDA 13\.0, which needs driver 580 or newer"):
        find_device(0)


def test_a_build_without_cuda_is_refused(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="is a build without CUDA"):
        find_device(0)


def test_a_container_without_its_gpus_is_refused(node: Path) -> None:
    (node / "version").write_text(OPEN_DRIVER)
    (node / "nvidiactl").unlink()
    with pytest.raises(UserError, match=r"driver 580\.65\.06\).*--gpus all"):
        find_device(0)


def test_a_new_driver_that_does_not_work_is_refused(node: Path) -> None:
    (node / "version").write_text(OPEN_DRIVER)
    with pytest.raises(UserError, match="nvidia-smi"):
        find_device(0)


@pytest.mark.parametrize(("name", "value"), [("DS_ACCELERATOR", "cpu"), ("CUDA_VISIBLE_DEVICES", "")])
def test_the_cpu_can_be_meant(node: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # so that what is set is undone
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setenv(name, value)
    assert find_device(0) == torch.device("cpu")
    assert os.environ["DS_ACCELERATOR"] == "cpu"  # DeepSpeed takes the same


def test_the_cpu_can_be_meant_where_there_are_gpus(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 8)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not uses_cuda()
    assert find_device(3) == torch.device("cpu")


def test_a_node_without_a_gpu_computes_on_its_cpu(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delenv("DS_ACCELERATOR")
    (node / "nvidiactl").unlink()
    (node / "version").unlink()
    assert find_device(1) == torch.device("cpu")


def test_each_process_takes_its_own_gpu(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 2)
    assert find_device(1) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="local rank 2 has no GPU: this node has 2"):
        find_device(2)


def test_a_gpu_of_the_task_alone_is_number_0(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match="local rank 3"):
        find_device(3)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    assert find_device(3) == torch.device("cuda", 0)
    assert os.environ["LOCAL_RANK"] == "0"


def test_two_ranks_with_one_gpu_are_found() -> None:
    assert shared_gpu([("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]) is None
    assert shared_gpu([("a", "1"), ("b", "1"), ("a", "2"), ("b", "1")]) == (1, 3)


def test_the_demo_takes_as_many_processes_as_there_are_gpus(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 1)
    assert process_count(2) == 1
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert process_count(2) == 2


@pytest.mark.parametrize("value", ["CPU", "nonsense", "xpu", ""])
def test_an_accelerator_that_is_none_of_ours_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", value)
    with pytest.raises(UserError, match=f"^DS_ACCELERATOR='{value}' is neither cpu nor cuda; unset it"):
        uses_cuda()


def test_a_gpu_that_is_asked_for_and_not_there_is_one_line(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"^DS_ACCELERATOR=cuda, but PyTorch finds no GPU; unset it"):
        uses_cuda()
