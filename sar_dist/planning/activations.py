"""Memory of a micro-batch: what the forward pass keeps for the backward pass of a ViT.

Per image, with T tokens of width D, MLP width M, H heads, ``c`` bytes of a compute value and ``r`` of a residual one, a
pre-norm block keeps::

    2 r T D        inputs of the two LayerNorms
    (6 c) T D      their outputs, query, key and value (one tensor), the attention's output
    2 c T M        input and output of the GELU
    4 T H + 16 T   log-sum-exp of the fused attention, means and deviations of the norms

A gated MLP keeps 4 c T M: the gate and what it multiplies, the gate after its function, and the product. Where queries and
keys are rotated, the attention keeps them as they are afterwards beside the values, with which they no longer share a tensor,
and its output twice, in the two orders of heads and tokens. A rotation that is learned keeps them from before too, and for
each block, whatever the batch, its own sines and cosines.

Fused attention keeps no T x T matrix. docs/planning.md has the derivation and the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

from sar_dist.planning.precision import Precision
from sar_dist.planning.shape import ModelShape

_WEIGHT_CAST_BYTES = 2


@dataclass(frozen=True)
class Activations:
    """Bytes on one process while it works on a micro-batch.

    Attributes:
        saved: kept from forward to backward.
        recomputed: with activation checkpointing, one block's activations while its backward runs.
        weight_casts: bfloat16 copies of matrices that autocast keeps for the backward pass.
        working: gradients of activations inside the block whose backward runs.
    """

    saved: float
    recomputed: float
    weight_casts: float
    working: float

    @property
    def total(self) -> float:
        """Bytes at the beginning of the backward pass, its high-water mark."""
        return self.saved + self.recomputed + self.weight_casts + self.working


def plan_activations(shape: ModelShape, precision: Precision, micro_batch: int, *, checkpointing: bool) -> Activations:
    """Bytes for a micro-batch of ``micro_batch`` images on one process."""
    block = _block_bytes(shape, precision, skip=True)
    last = _block_bytes(shape, precision, skip=shape.skip_last)
    token = shape.tokens * shape.width
    outside = _outside_bytes(shape, precision)
    saved, recomputed, cast_matrices = (shape.computed_blocks - 1) * block + last, 0.0, shape.matrix_parameters
    if checkpointing:
        # Views of the whole query-key-value tensor and the heads' outputs, or rotated queries and keys.
        taps = (2 if shape.rotation else 4) * precision.compute * token * shape.tapped
        saved, recomputed = shape.depth * precision.residual * token + taps, block
        cast_matrices = shape.matrix_parameters_per_block
    working = 2 * precision.compute * shape.tokens * shape.block.hidden + 2 * precision.residual * token
    turns = 4 * 2.5 * token * shape.depth if shape.rotation == "learned" else 0.0  # sines, cosines, what makes them
    return Activations(
        saved=micro_batch * (saved + outside) + turns,
        recomputed=micro_batch * recomputed,
        weight_casts=_WEIGHT_CAST_BYTES * cast_matrices if precision.autocast else 0.0,
        working=micro_batch * working,
    )


def _block_bytes(shape: ModelShape, precision: Precision, *, skip: bool) -> float:
    """One block's activations for one image."""
    token, compute, residual = shape.tokens * shape.width, precision.compute, precision.residual
    sizes = shape.block
    # Without its skip a block has one norm less, and its MLP's input is the attention's projection.
    norms = 2 * (residual + compute) * token if skip else (residual + 2 * compute) * token
    attention = compute * _attention_values(shape) + 4 * shape.tokens * sizes.heads
    mlp = (4 if sizes.gated else 2) * compute * shape.tokens * sizes.hidden
    if sizes.normalized_hidden:
        mlp += residual * shape.tokens * sizes.hidden
    if sizes.normalized_attention:
        attention += residual * shape.tokens * (sizes.attention_width or shape.width)
    scales = (2 if skip else 1) * compute * token if sizes.layer_scale else 0
    normalized = 2 * compute * token if sizes.normalized_keys else 0
    return norms + attention + mlp + scales + normalized + 16 * shape.tokens


def _attention_values(shape: ModelShape) -> int:
    """Numbers that one block's attention keeps for one image: query, key, value and output."""
    sizes = shape.block
    queries = shape.tokens * (sizes.attention_width or shape.width)
    if shape.rotation is None:
        return (3 + 1) * queries
    before = queries if sizes.separate_projections else 3 * queries  # the values, or the tensor they are a part of
    learned = 2 * queries if shape.rotation == "learned" else 0
    return before + 2 * queries + 2 * queries + learned


def _outside_bytes(shape: ModelShape, precision: Precision) -> float:
    """The input of the embedding, and the final norm with its output, for one image."""
    final = (precision.residual if shape.skip_last else precision.compute) + precision.compute
    return precision.compute * shape.image_values + final * shape.tokens * shape.width
