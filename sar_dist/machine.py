"""What a run is planned for, and a tool's defaults of it. Apart from the plan, so that ``--help`` need not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sar_dist.errors import UserError

GIB = 1024**3
MOST = 1e9  # of any of a machine's figures, in its unit

# CUDA context, communication library and kernels' workspaces, and the allocator's fragmentation: assumed, not measured.
RESERVED_BYTES = 1.5 * GIB
FRAGMENTATION = 0.05


@dataclass(frozen=True)
class Machine:
    """What a run is planned for. The defaults are those of a node with 8 H100 SXM GPUs.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: GPUs, and processes, on each.
        gpu_memory: GiB of one GPU.
        peak_tflops: dense bfloat16 peak of one GPU.
        mfu: model FLOPs utilisation, 0 to 1, of the configured setting.
        link_gbps: Gbit/s that one GPU sends to others of its node.
        node_link_gbps: Gbit/s that one node sends to others.
        price_per_gpu_hour: in any currency, or None.
    """

    nodes: int
    gpus_per_node: int
    gpu_memory: float = 80.0
    peak_tflops: float = 989.0
    mfu: float = 0.4
    link_gbps: float = 3600.0
    node_link_gbps: float = 3200.0
    price_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 1 / MOST <= value <= MOST:
                raise UserError(f"--{name.replace('_', '-')} must be positive and at most {MOST:g}, not {value}")
        if self.mfu > 1:
            raise UserError(f"--mfu is a share of the peak, 0 to 1, not {self.mfu}")

    @property
    def world_size(self) -> int:
        """GPUs, and processes, in all."""
        return self.nodes * self.gpus_per_node

    @property
    def usable_memory(self) -> float:
        """Bytes of a GPU's memory that tensors can have."""
        return (self.gpu_memory * GIB - RESERVED_BYTES) * (1 - FRAGMENTATION)
