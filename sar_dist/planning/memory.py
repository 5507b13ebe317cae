"""Memory of one process by part: weights, gradients, optimizer, moving average, buckets, activations.

What is held between steps follows from ZeRO (Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054, section 3).
The peak is reached at one of three moments of a step, and what DeepSpeed 0.19 holds then was read in its source and
measured: docs/planning.md derives every term, tests/unit/planning compares them with real engines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sar_dist.config import RunConfig
from sar_dist.engine import batch_arithmetic, deepspeed_config, optimizer_of
from sar_dist.planning.activations import Activations, plan_activations
from sar_dist.planning.precision import MASTER_BYTES, Precision
from sar_dist.planning.shape import ModelShape

PARTS = ("weights", "gradients", "optimizer", "average", "buckets", "activations", "temporary")

# DeepSpeed's own defaults of keys that the generated configuration leaves alone.
_PERSISTENCE_THRESHOLD = 100_000
_PREFETCH_BUCKET = 50_000_000
_FLAT_COPY = 500_000_000  # elements of gradients that BF16_Optimizer reduces at a time
MAX_LIVE_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one process.

    Attributes:
        moments: for "rest" (between steps), "backward begins", "backward ends" and "update": bytes by part on the
            device. Parts are those of ``PARTS``.
        host: bytes by part that offloading keeps in host memory.
        activations: the micro-batch's share in detail.
    """

    moments: dict[str, dict[str, float]]
    host: dict[str, float]
    activations: Activations

    def total(self, moment: str) -> float:
        """Bytes on the device at a moment."""
        return sum(self.moments[moment].values())

    @property
    def peak_moment(self) -> str:
        """The moment with the most bytes on the device."""
        return max(self.moments, key=self.total)

    @property
    def peak(self) -> float:
        """Most bytes on the device during a step."""
        return self.total(self.peak_moment)

    @property
    def host_total(self) -> float:
        """Bytes in host memory."""
        return sum(self.host.values())


def plan_memory(shape: ModelShape, config: RunConfig, world_size: int) -> MemoryPlan:
    """Memory of one of ``world_size`` processes.

    Args:
        shape: the model.
        config: the run; stage, precision, offload, checkpointing and batch are taken from it.
        world_size: processes of the run.

    Raises:
        UserError: impossible batch arithmetic or ``engine.deepspeed``.
    """
    held = _Held(shape, config, world_size)
    rest = _sum(held.rest())
    return MemoryPlan(
        moments={
            "rest": rest,
            "backward begins": _sum(rest, held.backward_begins()),
            "backward ends": _sum(rest, held.backward_ends()),
            "update": _sum(rest, held.update()),
        },
        host=held.host(),
        activations=held.activations,
    )


def _sum(*terms: dict[str, float]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for term in terms:
        total.update(term)  # type: ignore[arg-type]
    return {part: float(total[part]) for part in PARTS}


class _Held:
    """The terms of the formulas, in the notation of docs/planning.md."""

    def __init__(self, shape: ModelShape, config: RunConfig, world_size: int) -> None:
        self.zero: dict[str, Any] = deepspeed_config(config, world_size)["zero_optimization"]
        self.stage = self.zero["stage"]
        self.precision = Precision.of(config)
        self.parameters = shape.parameters
        self.of_terms = float(shape.terms.held_bytes)  # a teacher's weights, whole on every process
        self.share = shape.parameters / world_size
        self.small = shape.small_parameters(self.zero.get("stage3_param_persistence_threshold", _PERSISTENCE_THRESHOLD))
        self.largest = max(shape.parameter_sizes)
        self.bucket = self.zero["reduce_bucket_size"]
        self.accumulates = batch_arithmetic(config, world_size).accumulation > 1
        self.offload = config.engine.offload
        # DeepSpeed's BF16_Optimizer: every process adds up all gradients in float32 and reduces them once a step.
        self.adds_up_whole = (
            self.stage == 1 and self.precision.accumulated > self.precision.weight and self.offload == "none"
        )
        self.average = config.optim.ema is not None
        optimizer = optimizer_of(config.optim)
        matrices, scattered = shape.block_matrices / world_size, self.stage == 3 and world_size > 1
        self.optimizer_bytes = optimizer.held_bytes(self.share, matrices)
        self.update_bytes = optimizer.update_bytes(self.share, matrices, scattered=scattered)
        self.activations = plan_activations(
            shape, self.precision, config.engine.micro_batch, checkpointing=config.engine.activation_checkpointing
        )

    def rest(self) -> dict[str, float]:
        """On the device between steps."""
        weight, accumulated = self.precision.weight, self.precision.accumulated
        parts = {"weights": weight * float(self.parameters) + self.of_terms}
        if self.stage == 3:
            sharded = 0.0 if self.offload == "all" else self.share
            parts["weights"] = weight * (sharded + self.small) + self.of_terms
            parts["buckets"] = self._buffers()
            if self.offload == "none":
                parts["gradients"] = accumulated * self.share
        elif self.adds_up_whole:
            parts["gradients"] = accumulated * float(self.parameters)
        if self.offload == "none":
            parts["optimizer"] = self.optimizer_bytes
            parts["average"] = MASTER_BYTES * self.share if self.average else 0.0
        elif self.stage < 3:
            parts["temporary"] = (
                2 * weight * float(self.largest)
            )  # gradients pass through these on their way to the host
        return parts

    def host(self) -> dict[str, float]:
        """In host memory."""
        if self.offload == "none":
            return {}
        weight, accumulated = self.precision.weight, self.precision.accumulated
        parts = {
            "optimizer": self.optimizer_bytes,
            "average": MASTER_BYTES * self.share if self.average else 0.0,
            "gradients": MASTER_BYTES * self.share + (accumulated * self.share if self.stage == 3 else 0.0),
        }
        if self.stage < 3:
            parts["weights"] = weight * self.share  # the updated slice, on its way back to the device
        elif self.offload == "all":
            parts["weights"] = weight * self.share
        return parts

    def backward_begins(self) -> dict[str, float]:
        """Beyond ``rest`` when the last micro-batch's backward begins: all of its activations are there."""
        parts = {"activations": self.activations.total}
        if self.stage == 3:  # small models stay gathered from the forward pass to their backward
            live = min(self.parameters, self.zero.get("stage3_max_live_parameters", MAX_LIVE_PARAMETERS))
            parts["weights"] = self.precision.weight * float(max(0, live - self.small))
            gathered = min(self.parameters, self.zero.get("stage3_prefetch_bucket_size", _PREFETCH_BUCKET))
            parts["buckets"] = gathered * (2 if self.precision.tags_matrices else self.precision.weight)
            return parts
        parts["buckets"] = self._buffers()
        if self.adds_up_whole:
            return parts
        if self.stage == 1:
            parts["gradients"] = self.precision.gradient * float(self.parameters) if self.accumulates else 0.0
        elif self.offload == "none":
            parts["gradients"] = self.precision.accumulated * self.share * (2 if self.accumulates else 1)
        return parts

    def backward_ends(self) -> dict[str, float]:
        """Beyond ``rest`` when all gradients have been computed and the last ones are being reduced."""
        gradient, accumulated = self.precision.gradient, self.precision.accumulated
        if self.adds_up_whole:  # sent as a flat copy, which is cast once more where it is sent in another type
            sent = accumulated + (self.precision.reduced if self.precision.reduced != accumulated else 0)
            flat = float(min(self.parameters, _FLAT_COPY))
            return {"gradients": gradient * float(self.parameters), "buckets": sent * flat}
        slices = accumulated * self.share if self.offload == "none" else 0.0
        in_bucket = gradient * float(min(self.parameters, self.bucket))
        # Overlapped, a gradient that no other micro-batch adds to is dropped as soon as it is in the bucket.
        drops_at_once = self.stage == 2 or (self.zero.get("overlap_comm") and not self.accumulates)
        if self.stage == 1 and not drops_at_once:
            return {"gradients": gradient * self.parameters + slices, "buckets": self._buffers()}
        if self.stage < 3:
            return {"gradients": slices * (2 if self.accumulates else 1) + in_bucket, "buckets": self._buffers()}
        return {"gradients": in_bucket}

    def update(self) -> dict[str, float]:
        """Beyond ``rest`` inside the optimizer: gradient slices, a flat copy of them, and that in float32."""
        if self.offload != "none":
            return {}
        if self.adds_up_whole:
            return {"temporary": self.update_bytes}
        gradient = self.precision.accumulated
        copies = 2.0 * gradient + (MASTER_BYTES if gradient < MASTER_BYTES else 0)
        return {
            "gradients": (MASTER_BYTES if self.stage == 3 else copies) * self.share,
            "temporary": self.update_bytes,
        }

    def _buffers(self) -> float:
        """Reduction buffers, allocated whole whatever the model's size; one for each type in which gradients are sent."""
        if self.adds_up_whole:
            return 0.0
        if self.stage == 3:
            return self.bucket * (2 + 4 if self.precision.tags_matrices else self.precision.reduced)
        copies = 2 if self.zero.get("overlap_comm") else 1
        return (
            copies
            * self.bucket
            * (2 * self.precision.gradient if self.precision.tags_matrices else self.precision.reduced)
        )
