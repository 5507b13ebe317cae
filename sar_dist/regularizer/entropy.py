"""Spatial entropy of attention maps: definition, analytic gradient, backends and autograd.

A map S of similarities between one query and a grid of patches is thresholded at its mean m. The excess
A = relu(S - m) is split among the 8-connected components C of the mask S > m::

    P_C = sum of A over C / sum of A over the map          H = - sum over C of P_C log P_C

H is 0 when all the excess lies in one blob and grows as it scatters. Minimising it asks each head to attend to few
compact regions. The components are constants of the differentiation; the mean is not. ``docs/regularizer.md`` has
the method on one page, a picture and the derivation of the gradient.

Source: Peruzzo et al., "Spatial entropy as an inductive bias for vision transformers", Machine Learning 2024.
"""

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backends import check_backend, resolve_backend, working_dtype
from .components import connected_components
from .cpu_backend import solve_by_opencv
from .torch_backend import solve_by_torch

FLOPS_PER_PIXEL = 12  # two means, excess, sum, share, logarithm, entropy, gradient and its mean


@overload
def spatial_entropy(similarity: Tensor, backend: str = ..., return_components: Literal[False] = ...) -> Tensor: ...
@overload
def spatial_entropy(similarity: Tensor, backend: str, return_components: Literal[True]) -> tuple[Tensor, Tensor]: ...
@overload
def spatial_entropy(
    similarity: Tensor, backend: str = ..., *, return_components: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def spatial_entropy(
    similarity: Tensor, backend: str = "auto", return_components: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Spatial entropy of every map, differentiable with respect to the similarity.

    Computed in float32 (float64 for float64 input) whatever the autocast. A constant map has no component: its
    entropy and its gradient are 0. A map that holds any NaN or infinity, or whose sum leaves the range of the type,
    has entropy NaN, gradient NaN and 0 components; the other maps of the batch are not affected. The gradient is
    finite as long as 1 / (sum of the excess) is, which covers magnitudes from 1e-34 to 1e34. Runs repeat bit by bit.

    Args:
        similarity: (B, H, gh, gw) floating point: query . key / sqrt(head dimension), before the softmax, over the
            grid of patches, without prefix tokens.
        backend: ``"auto"``, or one of ``"cpu"`` (one batched labelling call; CPU tensors only), ``"torch"`` (tensor
            operations, any device) and ``"triton"`` (one fused kernel without host synchronisation; CUDA tensors
            up to 64 x 64 and not float64; a larger map goes to ``"torch"`` with one warning). ``"auto"`` takes
            ``triton`` on CUDA where it can, ``cpu`` on the CPU, else ``torch``.
        return_components: also return the number of components of each map, which costs nothing.

    Returns:
        Entropies (B, H) in nats; with ``return_components`` the pair (entropies, counts (B, H) int32). The loss of
        the paper is the mean of the entropies.

    Raises:
        ValueError: wrong shape or type, unknown backend, or a backend that cannot run on this tensor.
    """
    check_similarity(similarity)
    check_backend(backend)
    entropy, _, counts = torch.ops.sar_dist.spatial_entropy(similarity, backend)
    return (entropy, counts) if return_components else entropy


class SpatialEntropyLoss(torch.nn.Module):
    """Mean spatial entropy over images and heads, the loss term of the paper. ``backend`` as in spatial_entropy."""

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        check_backend(backend)
        self.backend = backend

    def forward(self, similarity: Tensor) -> Tensor:
        """Similarity (B, H, gh, gw) to a scalar."""
        return spatial_entropy(similarity, self.backend).mean()


def spatial_entropy_definition(similarity: Tensor) -> Tensor:
    """The definition, written with plain differentiable operations: slow, and what all backends are tested against.

    Args:
        similarity: (B, H, gh, gw) float32 or float64, finite.

    Returns:
        Entropies (B, H) in nats.
    """
    labels = component_labels(similarity).flatten(2).long()  # B H N, 0 = background
    mean = similarity.mean((-2, -1), keepdim=True)
    excess = torch.relu(similarity - mean).flatten(2)  # B H N
    mass = torch.zeros_like(excess).scatter_add(2, (labels - 1).clamp(min=0), excess * (labels > 0))  # B H component
    total = mass.sum(2, keepdim=True)
    share = mass / torch.where(total > 0, total, 1)
    # An absent component contributes 0 log 0 = 0; without the inner where its gradient would be NaN.
    return -(share * torch.where(share > 0, share, 1).log()).sum(2)


def component_labels(similarity: Tensor) -> Tensor:
    """Components of the mask S > mean(S) of each map, for figures.

    Args:
        similarity: (B, H, gh, gw) floating point.

    Returns:
        (B, H, gh, gw) int32: 0 on the background, 1..n in the raster order of the components' first pixels.

    Raises:
        ValueError: wrong shape or type.
    """
    check_similarity(similarity)
    excess, _ = _excess_over_mean(_maps_in_working_precision(similarity.detach()))
    return connected_components((excess > 0).view(similarity.shape))[0]


def check_similarity(similarity: Tensor) -> None:
    """Raise ValueError unless the tensor is floating point of shape (B, H, gh, gw) with a non-empty grid."""
    if similarity.ndim != 4 or 0 in similarity.shape[2:]:
        raise ValueError(f"similarity must have shape (B, H, gh, gw), got {tuple(similarity.shape)}")
    if not similarity.is_floating_point():
        raise ValueError(f"similarity must be floating point, got {similarity.dtype}")


def _maps_in_working_precision(similarity: Tensor) -> Tensor:
    return similarity.to(working_dtype(similarity)).reshape(-1, similarity.shape[2:].numel())  # M N, M = B * H


def _excess_over_mean(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Excess relu(S - m) (M, N), all 0 on a map that holds NaN or infinity, and its sum (M, 1), not finite on those.

    The mean is taken off twice. The second time removes what rounding left: pixels just above the mean keep their
    relative precision under any common offset, and a constant map becomes exactly 0 instead of a spurious component.
    """
    centred = maps - maps.mean(1, keepdim=True)  # M N
    excess = centred.sub_(centred.mean(1, keepdim=True)).relu_()
    total = excess.sum(1, keepdim=True)  # M 1
    return excess.nan_to_num_(nan=0.0, posinf=0.0), total


def entropy_and_gradient(similarity: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (B, H), its gradient (B, H, gh, gw) and component counts (B, H), on the backends cpu and torch.

    With components held constant, dH/dA_u = -(log P_C(u) + H) / sum(A) on masked pixels u; through the mean, each
    pixel also receives minus the average of that over the map. All but the last step is done once per component.
    """
    maps = _maps_in_working_precision(similarity)  # M N
    excess, total = _excess_over_mean(maps)
    solve = solve_by_opencv if backend == "cpu" and len(maps) else solve_by_torch
    entropy, gradient, counts = solve(excess.view(-1, *similarity.shape[2:]), total)
    return entropy.view(similarity.shape[:2]), gradient.view(similarity.shape), counts.view(similarity.shape[:2])


torch.library.define("sar_dist::spatial_entropy", "(Tensor similarity, str backend) -> (Tensor, Tensor, Tensor)")


@torch.library.impl("sar_dist::spatial_entropy", "CompositeExplicitAutograd")
def _spatial_entropy(similarity: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """(entropy (B, H), d entropy / d similarity (B, H, gh, gw), component counts (B, H) int32) of (B, H, gh, gw)."""
    backend = resolve_backend(backend, similarity, similarity.shape[2] * similarity.shape[3])
    if backend == "triton":
        from .triton_kernel import launch_spatial_entropy  # imported here: triton is an optional dependency

        return launch_spatial_entropy(similarity)
    return entropy_and_gradient(similarity, backend)


@torch.library.register_fake("sar_dist::spatial_entropy")
def _(similarity: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    entropy = similarity.new_empty(similarity.shape[:2], dtype=working_dtype(similarity))
    gradient = similarity.new_empty(similarity.shape, dtype=working_dtype(similarity))
    return entropy, gradient, torch.empty_like(entropy, dtype=torch.int32)


class _SpatialEntropyFunction(torch.autograd.Function):
    """The derivative, registered by hand: register_autograd costs 0.1 ms more, a tenth of the whole on a CPU."""

    @staticmethod
    def forward(ctx: Any, similarity: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            entropy, gradient, counts = torch.ops.sar_dist.spatial_entropy.default(similarity, backend)
        ctx.input_dtype = similarity.dtype
        ctx.mark_non_differentiable(gradient, counts)
        ctx.save_for_backward(gradient)
        return entropy, gradient, counts

    @staticmethod
    def backward(ctx: Any, grad_entropy: Tensor, *unused: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (grad_entropy[..., None, None] * gradient).to(ctx.input_dtype), None


torch.library.impl("sar_dist::spatial_entropy", "Autograd")(_SpatialEntropyFunction.apply)


@register_flop_formula(torch.ops.sar_dist.spatial_entropy)
def _flops(similarity_shape: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    return FLOPS_PER_PIXEL * math.prod(similarity_shape)
