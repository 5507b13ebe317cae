"""Bytes per number of everything that training holds or sends, by ``engine.precision``."""

from __future__ import annotations

from dataclasses import dataclass

from sar_dist.config import RunConfig
from sar_dist.planning.shape import ModelShape

MASTER_BYTES = 4
"""The optimizer's copy of a weight, and each of its two moments, are float32 in every precision."""


@dataclass(frozen=True)
class Precision:
    """Bytes per element.

    Attributes:
        weight: of a parameter.
        gradient: of a gradient, as the backward pass makes it.
        accumulated: of a gradient, as micro-batches are added up and the optimizer gets it.
        reduced: of a gradient on its way to other processes.
        compute: of the inputs and outputs of matrix products.
        residual: of the tokens between blocks; autocast adds to them in float32.
        autocast: float32 parameters are cast for every matrix product.
    """

    weight: int
    gradient: int
    accumulated: int
    reduced: int
    compute: int
    residual: int
    autocast: bool

    @classmethod
    def of(cls, config: RunConfig) -> Precision:
        """The bytes of a run's ``engine.precision`` and ``engine.reduce_dtype``."""
        name = config.engine.precision
        reduced = 2 if config.engine.reduce_dtype == "bf16" else 4
        if name == "fp32":
            return cls(weight=4, gradient=4, accumulated=4, reduced=4, compute=4, residual=4, autocast=False)
        if name == "bf16":
            return cls(weight=4, gradient=4, accumulated=4, reduced=reduced, compute=2, residual=4, autocast=True)
        accumulated = 4 if name == "bf16_parameters" else 2
        return cls(
            weight=2, gradient=2, accumulated=accumulated, reduced=reduced, compute=2, residual=2, autocast=False
        )

    @property
    def tags_matrices(self) -> bool:
        """Whether DeepSpeed sends the matrices, and their gradients, in bfloat16, the other parameters in float32."""
        return self.autocast and self.reduced == 2

    def sent_gradients(self, shape: ModelShape) -> float:
        """Bytes of one gradient of the whole model as DeepSpeed sends it."""
        return self._matrices_in_bfloat16(shape) if self.tags_matrices else float(self.reduced * shape.parameters)

    def sent_weights(self, shape: ModelShape) -> float:
        """Bytes of all weights as ZeRO-3 gathers them for a forward or backward pass."""
        return self._matrices_in_bfloat16(shape) if self.tags_matrices else float(self.weight * shape.parameters)

    @staticmethod
    def _matrices_in_bfloat16(shape: ModelShape) -> float:
        return 2.0 * shape.matrix_parameters + 4.0 * (shape.parameters - shape.matrix_parameters)
