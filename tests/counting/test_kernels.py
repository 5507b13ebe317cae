"""The Triton kernels, compiled for GPUs that are not there: exactly what their launchers would start, without spills.

The assembler that comes with Triton's package says how many registers a kernel takes and whether some did not fit.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
driver = pytest.importorskip("triton.runtime").driver
backends = pytest.importorskip("triton.backends").backends
if not {"nvidia", "amd"} <= backends.keys() or triton.knobs.runtime.interpret:
    pytest.skip("this Triton does not compile for GPUs here", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

from sar_dist.regularizer import triton_kernel  # noqa: E402

KERNELS = ("_spatial_entropy_kernel", "_query_key_forward_kernel", "_key_backward_kernel")
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MOST_REGISTERS = {"sm_80": 128, "sm_90": 128, "sm_100": 144, "gfx942": 128}
# Bytes that a thread of the first kernel keeps in memory, by target and side: one spilled register, measured.
SPILLED = {("sm_80", 48): 8, ("sm_90", 48): 8}
RESOURCES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class DriverWithoutGpu:
    """What Triton asks of a driver before a launch."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target.arch)  # compiled kernels are kept by device

    def get_current_stream(self, _: Any) -> int:
        return 0


class Compiled:
    """Takes the place of a kernel: compiles it for the arguments of a launch, and starts nothing."""

    def __init__(self, kernel: Any, found: dict[str, Any], **more: Any) -> None:
        self.kernel = kernel
        self.found = found
        self.more = more

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            self.found[self.kernel.__name__] = self.kernel.warmup(*arguments, grid=grid, **options, **self.more)

        return launch


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The kernels of the newest launches, by name."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found: dict[str, Any] = {}
    for name in KERNELS:
        monkeypatch.setattr(triton_kernel, name, Compiled(getattr(triton_kernel, name), found))
    yield found
    driver.set_active(None)  # the machine's own, once somebody asks for it


def launch_all(side: int, dim: int, dtype: torch.dtype) -> None:
    """Launch every kernel as ViTs of ``side`` x ``side`` patches and heads of ``dim`` numbers do."""
    triton_kernel.launch_spatial_entropy(torch.zeros(2, 3, side, side, dtype=dtype))
    query, key = torch.zeros(2, 3, dim, dtype=dtype), torch.zeros(2, 3, side * side, dim, dtype=dtype)
    entropy, gradient, _, _ = triton_kernel.launch_query_key_forward(query, key, side, side)
    triton_kernel.launch_key_backward(entropy, gradient, query, dtype)


def resources(kernel: Any, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes (on AMD: registers) that a thread keeps in memory for want of registers."""
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        spilled = [int(number) for number in re.findall(r"\.[sv]gpr_spill_count: +(\d+)", text)]
        assert len(spilled) == 2
        return int(re.findall(r"\.vgpr_count: +(\d+)", text)[0]), sum(spilled)
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    report = subprocess.run([str(RESOURCES), "-res-usage", str(binary)], capture_output=True, text=True, check=True)
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", report.stdout)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def assert_fits(compiled: dict[str, Any], target: str, side: int, folder: Path) -> None:
    assert compiled.keys() == set(KERNELS)
    for name, kernel in compiled.items():
        registers, spilled = resources(kernel, folder)
        assert 0 < registers <= MOST_REGISTERS[target], name
        assert spilled <= (SPILLED.get((target, side), 0) if name == KERNELS[0] else 0), name


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_without_spills(target: str, compiled: dict[str, Any], tmp_path: Path) -> None:
    driver.set_active(DriverWithoutGpu(TARGETS[target]))
    launch_all(14, 64, torch.bfloat16)
    assert_fits(compiled, target, 14, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("side", [16, 24, 32, 48, 64])
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_of_other_grids_and_types(
    target: str, side: int, dtype: torch.dtype, compiled: dict[str, Any], tmp_path: Path
) -> None:
    driver.set_active(DriverWithoutGpu(TARGETS[target]))
    launch_all(side, 80 if side == 16 else 64, dtype)  # heads of ViT-H/14 have 80 numbers
    assert_fits(compiled, target, side, tmp_path)


def test_a_spill_is_found(compiled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.set_active(DriverWithoutGpu(TARGETS["sm_90"]))
    with_few = Compiled(triton_kernel._spatial_entropy_kernel.kernel, compiled, maxnreg=32)
    monkeypatch.setattr(triton_kernel, "_spatial_entropy_kernel", with_few)
    triton_kernel.launch_spatial_entropy(torch.zeros(2, 3, 14, 14))
    registers, spilled = resources(compiled["_spatial_entropy_kernel"], tmp_path)
    assert registers <= 32
    assert spilled > 0
