"""The custom operator in PyTorch's machinery: compile, autocast, checkpointing, determinism, FLOP counting."""

import functools
import importlib

import pytest
import torch
from entropy_cases import random_maps
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from sar_dist.regularizer import SPATIAL_ENTROPY_OPERATORS, spatial_entropy, spatial_entropy_from_query_key

# The package's attribute of this name is the function.
entropy_module = importlib.import_module("sar_dist.regularizer.entropy")
each_backend = pytest.mark.parametrize("backend", ["cpu", "torch"])


def loss_of_map(similarity, backend):
    return spatial_entropy(similarity * 2, backend).mean()


def loss_of_query_key(query, key, backend):
    return spatial_entropy_from_query_key(query * 2, key, (3, 4), backend).mean()


def query_and_key():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 3, 8, generator=generator, requires_grad=True),
        torch.randn(2, 3, 12, 8, generator=generator, requires_grad=True),
    )


@each_backend
def test_operators_pass_the_registration_checks(backend):
    similarity = random_maps(4, 5).requires_grad_()
    torch.library.opcheck(torch.ops.sar_dist.spatial_entropy.default, (similarity, backend))
    arguments = (*query_and_key(), 3, 4, backend)
    torch.library.opcheck(torch.ops.sar_dist.spatial_entropy_from_query_key.default, arguments)
    arguments = (torch.rand(2, 3), torch.rand(2, 3, 12), torch.rand(2, 3, 8), torch.bfloat16, backend)
    torch.library.opcheck(torch.ops.sar_dist.spatial_entropy_key_gradient.default, arguments)


@each_backend
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_breaks(backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(loss_of_map, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (5, 6):
        similarity = random_maps(size, size).requires_grad_()
        expected = torch.autograd.grad(loss_of_map(similarity, backend), similarity)[0]
        assert torch.equal(torch.autograd.grad(compiled(similarity, backend), similarity)[0], expected)


@each_backend
def test_query_key_compiles_without_graph_breaks(backend):
    torch._dynamo.reset()
    compiled = torch.compile(loss_of_query_key, fullgraph=True, backend="aot_eager")
    leaves = query_and_key()
    expected = torch.autograd.grad(loss_of_query_key(*leaves, backend), leaves)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves, backend), leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@each_backend
def test_autocast_changes_no_bit(backend):
    similarity, (query, key) = random_maps(6, 7), query_and_key()
    plain = spatial_entropy(similarity, backend), spatial_entropy_from_query_key(query, key, (3, 4), backend)
    with torch.autocast("cpu", torch.bfloat16):
        cast = spatial_entropy(similarity, backend), spatial_entropy_from_query_key(query, key, (3, 4), backend)
    for before, after in zip(plain, cast, strict=True):
        assert after.dtype == torch.float32
        assert torch.equal(before, after)


@each_backend
def test_deterministic_algorithms_and_repeated_runs(backend):
    similarity = random_maps(14, 14).requires_grad_()

    def run():
        return torch.autograd.grad(loss_of_map(similarity, backend), similarity)[0]

    first = run()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(run(), first)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(run(), first)


@pytest.mark.parametrize(("saved", "calls"), [(SPATIAL_ENTROPY_OPERATORS, 1), ((), 2)])
def test_activation_checkpointing_computes_it_once_when_saved(monkeypatch, saved, calls):
    seen = []
    original = entropy_module.entropy_and_gradient
    monkeypatch.setattr(entropy_module, "entropy_and_gradient", lambda *a: (seen.append(1), original(*a))[1])
    similarity = random_maps(6, 6).requires_grad_()
    contexts = functools.partial(create_selective_checkpoint_contexts, list(saved))
    loss = checkpoint(loss_of_map, similarity, "cpu", use_reentrant=False, context_fn=contexts)
    gradient = torch.autograd.grad(loss, similarity)[0]
    assert len(seen) == calls
    assert torch.equal(gradient, torch.autograd.grad(loss_of_map(similarity, "cpu"), similarity)[0])


def test_no_gradient_is_asked_for():
    assert not spatial_entropy(random_maps(4, 4)).requires_grad
    query, key = query_and_key()
    spatial_entropy_from_query_key(query, key.detach(), (3, 4)).sum().backward()
    assert key.grad is None
    assert query.grad is not None


def test_counts_are_not_differentiable():
    _, counts = spatial_entropy(random_maps(4, 4).requires_grad_(), return_components=True)
    assert not counts.requires_grad


def test_flop_counters_see_it():
    query, key = query_and_key()
    with FlopCounterMode(display=False) as counter:
        loss_of_query_key(query, key, "cpu").backward()
        loss_of_map(random_maps(5, 5).requires_grad_(), "torch").backward()
    counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    assert counts["sar_dist.spatial_entropy"] == 12 * 4 * 25
    assert counts["sar_dist.spatial_entropy_from_query_key"] == 6 * 12 * (4 * 8 + 12)
    assert counts["sar_dist.spatial_entropy_key_gradient"] == 6 * 12 * 8
