"""Spatial entropy straight from a query and the patch keys of an attention block.

On a GPU one kernel reads the query and the keys, and the backward pass only writes: the map's gradient and the query's
are formed in the forward pass, while the keys are at hand. Nothing of the size of the attention matrix exists.
"""

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backends import check_backend, resolve_backend, working_dtype
from .entropy import FLOPS_PER_PIXEL, entropy_and_gradient


@overload
def spatial_entropy_from_query_key(
    query: Tensor, key: Tensor, grid: tuple[int, int], backend: str = ..., return_components: Literal[False] = ...
) -> Tensor: ...
@overload
def spatial_entropy_from_query_key(
    query: Tensor, key: Tensor, grid: tuple[int, int], backend: str, return_components: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@overload
def spatial_entropy_from_query_key(
    query: Tensor, key: Tensor, grid: tuple[int, int], backend: str = ..., *, return_components: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def spatial_entropy_from_query_key(
    query: Tensor, key: Tensor, grid: tuple[int, int], backend: str = "auto", return_components: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Spatial entropy of the similarity maps of one query, differentiable with respect to the query and the keys.

    Equal to ``spatial_entropy(class_similarity(query, key, grid), ...)``, in one custom operator.

    Args:
        query: (B, H, d): the query of [CLS], or the mean of the patch queries for models without it. Any strides.
        key: (B, H, N, d): the keys of the N = gh * gw patches in raster order, without prefix tokens. Any strides.
        grid: (gh, gw).
        backend: as in spatial_entropy.
        return_components: also return the number of components of each map.

    Returns:
        Entropies (B, H) in nats; with ``return_components`` the pair (entropies, counts (B, H) int32).

    Raises:
        ValueError: shapes that do not fit together, unknown backend, or one that cannot run on these tensors.
    """
    check_query_key(query, key, grid)
    check_backend(backend)
    entropy, _, _, counts = torch.ops.sar_dist.spatial_entropy_from_query_key(query, key, *grid, backend)
    return (entropy, counts) if return_components else entropy


def class_similarity(query: Tensor, key: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scaled similarity of one query with every patch key, in float32 whatever the autocast.

    Args:
        query: (B, H, d): the query of [CLS], or the mean of the patch queries for models without it.
        key: (B, H, N, d): the keys of the N = gh * gw patches in raster order, without prefix tokens.
        grid: (gh, gw).

    Returns:
        (B, H, gh, gw): query . key / sqrt(d), float32 (float64 for float64 keys).

    Raises:
        ValueError: shapes that do not fit together.
    """
    check_query_key(query, key, grid)
    with torch.autocast(key.device.type, enabled=False):
        query, key = query.to(working_dtype(key)), key.to(working_dtype(key))
        similarity = (key @ query.unsqueeze(-1)).squeeze(-1)  # B H N
        return (similarity * key.shape[-1] ** -0.5).unflatten(2, grid)  # B H gh gw


def check_query_key(query: Tensor, key: Tensor, grid: tuple[int, int]) -> None:
    """Raise ValueError unless query (B, H, d), key (B, H, gh * gw, d) and grid (gh, gw) fit together."""
    if key.ndim != 4 or tuple(query.shape) != (*key.shape[:2], key.shape[3]):
        raise ValueError(f"need query (B, H, d) and key (B, H, N, d), got {tuple(query.shape)} and {tuple(key.shape)}")
    if min(grid) < 1 or grid[0] * grid[1] != key.shape[2]:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} does not hold {key.shape[2]} patch keys")
    if not (query.is_floating_point() and key.is_floating_point()):
        raise ValueError(f"query and key must be floating point, got {query.dtype} and {key.dtype}")


@torch.library.custom_op("sar_dist::spatial_entropy_from_query_key", mutates_args=())
def _from_query_key(
    query: Tensor, key: Tensor, height: int, width: int, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(entropy (B, H), d entropy / d similarity (B, H, N), d entropy / d query (B, H, d), counts (B, H) int32)."""
    backend = resolve_backend(backend, key, height * width)
    if backend == "triton":
        from .triton_kernel import launch_query_key_forward  # imported here: triton is an optional dependency

        return launch_query_key_forward(query, key, height, width)
    entropy, gradient, counts = entropy_and_gradient(class_similarity(query, key, (height, width)), backend)
    gradient = gradient.flatten(2)  # B H N
    query_gradient = (gradient.unsqueeze(2) @ key.to(gradient.dtype)).squeeze(2) * key.shape[-1] ** -0.5  # B H d
    return entropy, gradient, query_gradient, counts


@_from_query_key.register_fake
def _(query: Tensor, key: Tensor, height: int, width: int, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entropy = key.new_empty(key.shape[:2], dtype=working_dtype(key))
    gradient = key.new_empty(key.shape[:3], dtype=working_dtype(key))
    query_gradient = query.new_empty(query.shape, dtype=working_dtype(key))
    return entropy, gradient, query_gradient, torch.empty_like(entropy, dtype=torch.int32)


@torch.library.custom_op("sar_dist::spatial_entropy_key_gradient", mutates_args=())
def _key_gradient(grad_entropy: Tensor, gradient: Tensor, query: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    """Gradient (B, H, N, d) of the keys from those of the entropy (B, H) and, saved, of the similarity (B, H, N)."""
    if resolve_backend(backend, gradient, gradient.shape[2]) == "triton":
        from .triton_kernel import launch_key_backward

        return launch_key_backward(grad_entropy, gradient, query, dtype)
    scaled = gradient * (grad_entropy * query.shape[-1] ** -0.5).unsqueeze(-1)  # B H N
    return (scaled.unsqueeze(-1) * query.unsqueeze(2)).to(dtype)


@_key_gradient.register_fake
def _(grad_entropy: Tensor, gradient: Tensor, query: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    return gradient.new_empty((*gradient.shape, query.shape[-1]), dtype=dtype)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, _, _, ctx.backend = inputs
    ctx.key_dtype = key.dtype
    _, gradient, query_gradient, counts = output
    ctx.mark_non_differentiable(gradient, query_gradient, counts)
    ctx.save_for_backward(query, gradient, query_gradient)


def _scale_gradients(ctx: Any, grad_entropy: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
    query, gradient, query_gradient = ctx.saved_tensors
    grad_query = grad_key = None
    if ctx.needs_input_grad[0]:
        grad_query = (grad_entropy.unsqueeze(-1) * query_gradient).to(query.dtype)
    if ctx.needs_input_grad[1]:
        grad_key = torch.ops.sar_dist.spatial_entropy_key_gradient(
            grad_entropy, gradient, query, ctx.key_dtype, ctx.backend
        )
    return grad_query, grad_key, None, None, None


_from_query_key.register_autograd(_scale_gradients, setup_context=_save_gradients)


# For torch.utils.checkpoint.create_selective_checkpoint_contexts: with these operators saved, activation checkpointing
# around them does not compute the entropy a second time.
SPATIAL_ENTROPY_OPERATORS = (
    torch.ops.sar_dist.spatial_entropy.default,
    torch.ops.sar_dist.spatial_entropy_from_query_key.default,
)


@register_flop_formula(torch.ops.sar_dist.spatial_entropy_from_query_key)
def _forward_flops(query_shape: tuple[int, ...], key_shape: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    similarity_and_query_gradient = 4 * math.prod(key_shape)
    return similarity_and_query_gradient + FLOPS_PER_PIXEL * math.prod(key_shape[:3])


@register_flop_formula(torch.ops.sar_dist.spatial_entropy_key_gradient)
def _backward_flops(
    grad_shape: tuple[int, ...],
    gradient_shape: tuple[int, ...],
    query_shape: tuple[int, ...],
    *args: Any,
    **kwargs: Any,
) -> int:
    return math.prod(gradient_shape) * query_shape[-1]
