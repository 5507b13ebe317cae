"""What a process sends in one optimizer step, and how long that takes at given link speeds."""

from __future__ import annotations

from dataclasses import dataclass

from sar_dist.config import RunConfig
from sar_dist.engine import batch_arithmetic, deepspeed_config, optimizer_of
from sar_dist.planning.memory import MAX_LIVE_PARAMETERS
from sar_dist.planning.precision import Precision
from sar_dist.planning.shape import ModelShape


@dataclass(frozen=True)
class Communication:
    """Bytes that each process sends in one optimizer step, with ring algorithms.

    Attributes:
        gradients: all-reduce (ZeRO 1 and 2) or reduce-scatter (ZeRO 3).
        weights: all-gather, once after the update (ZeRO 1 and 2) or in every micro-batch (ZeRO 3).
        matrices: all-to-all of an optimizer that needs whole matrices (ZeRO 3).
        seconds: time of both at the link speeds, were nothing of it hidden behind computation.
    """

    gradients: float
    weights: float
    matrices: float
    seconds: float

    @property
    def total(self) -> float:
        """Bytes sent in all."""
        return self.gradients + self.weights + self.matrices


def collective_payloads(shape: ModelShape, config: RunConfig, world_size: int) -> dict[str, float]:
    """Bytes of the tensors that go through each kind of collective in one optimizer step, on each process.

    Returns:
        "all_reduce", "all_gather", "reduce_scatter" and "all_to_all"; for a gather or scatter, bytes of the whole tensor.
    """
    zero = deepspeed_config(config, world_size)["zero_optimization"]
    precision = Precision.of(config)
    gradients = precision.sent_gradients(shape)
    micro_batches = batch_arithmetic(config, world_size).accumulation
    if zero["stage"] < 3:
        reductions = micro_batches if zero["stage"] == 2 else 1  # ZeRO-1 adds up micro-batches before it reduces
        weights = float(precision.weight * shape.parameters)
        return {"all_reduce": reductions * gradients, "all_gather": weights, "reduce_scatter": 0.0, "all_to_all": 0.0}
    # What the limit of live parameters allows stays gathered from forward to backward; the rest is gathered again.
    kept = min(1.0, zero.get("stage3_max_live_parameters", MAX_LIVE_PARAMETERS) / shape.parameters)
    gathers = micro_batches * (2 - kept)
    return {
        "all_reduce": 0.0,
        "all_gather": gathers * precision.sent_weights(shape),
        "reduce_scatter": micro_batches * gradients,
        "all_to_all": optimizer_of(config.optim).exchanged_bytes(shape.block_matrices / world_size),
    }


def plan_communication(
    shape: ModelShape, config: RunConfig, nodes: int, gpus_per_node: int, *, link_gbps: float, node_link_gbps: float
) -> Communication:
    """Communication of one optimizer step.

    In a ring over W processes each sends 2 (W - 1) / W of an all-reduced tensor and (W - 1) / W of a gathered or
    scattered one (Patarasuk and Yuan, 2009). Rings leave a node as often as they enter it, so that the node's links
    together carry what one process sends; the slower of the two kinds of link decides.

    Args:
        shape: the model.
        config: the run.
        nodes: number of nodes.
        gpus_per_node: processes on each.
        link_gbps: Gbit/s that one GPU sends to another of its node.
        node_link_gbps: Gbit/s that one node sends to others over all of its network links.
    """
    world_size = nodes * gpus_per_node
    payloads = collective_payloads(shape, config, world_size)
    ring = (world_size - 1) / world_size
    gradients = 2 * ring * payloads["all_reduce"] + ring * payloads["reduce_scatter"]
    weights = ring * payloads["all_gather"]
    matrices = ring * payloads["all_to_all"]  # of every process's slice, that which another owns
    speeds = ([link_gbps] if gpus_per_node > 1 else []) + ([node_link_gbps] if nodes > 1 else [])
    seconds = 8e-9 * (gradients + weights + matrices) / min(speeds) if speeds else 0.0
    return Communication(gradients=gradients, weights=weights, matrices=matrices, seconds=seconds)
