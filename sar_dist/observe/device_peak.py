"""The most that a device could compute: from its data sheet, or as fast as it multiplies matrices."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

# Dense (no structured sparsity) bfloat16 tensor-core peak in TFLOP/s, by words of torch.cuda.get_device_name(); the first
# match counts, so that special variants come before their family. From the vendors' data sheets, halved where they give
# the figure with sparsity. V100 has no bfloat16: its float16 peak.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("GB300", 2500.0),  # GB300 NVL72 data sheet: 360 PFLOP/s with sparsity over 72 GPUs
    ("GB200", 2500.0),  # GB200 NVL72 data sheet: the same
    ("B300", 2250.0),  # DGX B300 data sheet: 36 PFLOP/s with sparsity over 8 GPUs
    ("B200", 2250.0),
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("H100 NVL", 835.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("H800", 989.0),  # an H100 SXM with slower NVLink
    ("H20", 148.0),  # H20 data sheet
    ("A100", 312.0),
    ("A10", 125.0),  # A10 data sheet
    ("L40S", 362.0),
    ("L4", 121.0),  # L4 data sheet: 242 with sparsity
    ("V100-PCIE", 112.0),
    ("V100", 125.0),
    ("RTX PRO 6000 Blackwell Max-Q", 439.0),  # data sheet: 3511 TOPS of FP4 with sparsity, an eighth of it
    ("RTX PRO 6000", 504.0),  # RTX Blackwell PRO architecture paper, float32 accumulation
    ("RTX 4090", 165.0),
    ("MI300X", 1307.0),
    ("MI325X", 1307.0),  # MI325X data sheet
    ("MI350X", 2300.0),  # MI350X data sheet: 4.6 PFLOP/s with sparsity
    ("MI355X", 2500.0),  # MI355X data sheet: 5.0 PFLOP/s with sparsity
)

MATRIX_SIDE = 768
REPETITIONS = 5


@dataclass(frozen=True)
class DevicePeak:
    """What the utilisation of a device is measured against.

    Attributes:
        flops: FLOP/s of one device, or of this process on a CPU; None when it is not known.
        measured: by a matrix product on this machine, not from a data sheet.
        device: its name.
    """

    flops: float | None
    measured: bool
    device: str

    def __str__(self) -> str:
        if self.flops is None:
            return f"no peak known for {self.device}: no MFU"
        source = "measured by a matrix product" if self.measured else "data sheet"
        return f"peak {self.flops / 1e12:.3g} TFLOP/s ({source})"


def find_peak(device: torch.device) -> DevicePeak:
    """The data sheet's figure of a GPU; on a CPU a measurement, which takes about a tenth of a second."""
    if device.type == "cpu":
        return DevicePeak(measure_cpu_flops(), True, "CPU")
    name = torch.cuda.get_device_name(device)
    return DevicePeak(peak_flops(name), False, name)


def measure_cpu_flops() -> float:
    """FLOP/s of the fastest of a few matrix products in float32 and in bfloat16, with the threads that PyTorch has.

    Measured in CPU time: what else runs on the machine would make the peak look low, and the training good.
    """
    threads = torch.get_num_threads()
    fastest = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.full((MATRIX_SIDE, MATRIX_SIDE), 0.5, dtype=dtype)
        for _ in range(REPETITIONS):
            start = time.process_time()
            torch.mm(matrix, matrix)
            seconds = (time.process_time() - start) / threads
            fastest = max(fastest, 2 * MATRIX_SIDE**3 / seconds)
    return fastest


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 peak of a device in FLOP/s, or None when it is not in ``PEAK_TFLOPS``.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it, such as "NVIDIA H100 80GB HBM3".
    """
    for part, teraflops in PEAK_TFLOPS:
        if re.search(rf"\b{re.escape(part)}\b", device_name):
            return teraflops * 1e12
    return None
