"""Values, gradients and invariances of the spatial entropy on the backends that run in this process."""

import math

import numpy as np
import pytest
import torch
from entropy_cases import (
    BROKEN,
    GOLDEN_CASES,
    GRIDS,
    broken_maps,
    golden,
    map_with_a_vanishing_component,
    monsters,
    overflowing_maps,
    random_maps,
    spiral,
    value_and_gradient,
)
from entropy_oracle import assert_equals_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sar_dist.regularizer import SpatialEntropyLoss, spatial_entropy, spatial_entropy_definition

BACKENDS = ("cpu", "torch")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def run(similarity, backend):
    leaf = similarity.clone().requires_grad_()
    return value_and_gradient(spatial_entropy(leaf, backend), leaf)


@each_backend
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(backend, case):
    similarity, entropy, loss, gradient = golden(case)
    leaf = similarity.clone().requires_grad_()
    ours = SpatialEntropyLoss(backend)(leaf)
    ours.backward()
    torch.testing.assert_close(spatial_entropy(similarity, backend), entropy, atol=1e-5, rtol=0)
    assert ours.item() == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(leaf.grad, gradient, atol=1e-5 * gradient.abs().max().item() + 1e-9, rtol=1e-4)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_definition_reproduces_golden(case):
    similarity, entropy, _, gradient = golden(case)
    leaf = similarity.clone().requires_grad_()
    value = spatial_entropy_definition(leaf)
    value.mean().backward()
    torch.testing.assert_close(value.detach(), entropy, atol=1e-5, rtol=0)
    torch.testing.assert_close(leaf.grad, gradient, atol=1e-8, rtol=1e-4)


@each_backend
@pytest.mark.parametrize("grid", [*GRIDS, (64, 64), (70, 66)])
def test_grids_against_oracle(backend, grid):
    similarity = random_maps(*grid)
    entropy, counts = spatial_entropy(similarity, backend, return_components=True)
    assert counts.dtype == torch.int32
    assert_equals_oracle(similarity, entropy, run(similarity, backend)[1], counts)


@each_backend
@pytest.mark.parametrize("name", monsters())
def test_monsters(backend, name):
    similarity = monsters()[name][None, None]
    entropy, counts = spatial_entropy(similarity, backend, return_components=True)
    assert_equals_oracle(similarity, entropy, run(similarity, backend)[1], counts)
    if name.startswith("constant"):
        assert counts.item() == 0
        assert run(similarity, backend)[1].abs().max() == 0


@each_backend
def test_a_single_component_has_exactly_no_entropy_and_no_gradient(backend):
    similarity = torch.from_numpy(spiral(15))[None, None] * torch.rand(3, 1, 15, 15).add_(9)
    entropy, gradient = run(similarity, backend)
    assert torch.equal(entropy, torch.zeros(3, 1))
    assert not gradient.any()


@each_backend
def test_non_finite_maps_are_reported_and_do_not_touch_their_neighbours(backend):
    similarity = broken_maps()
    entropy, counts = spatial_entropy(similarity, backend, return_components=True)
    gradient = run(similarity, backend)[1]
    assert entropy[BROKEN].isnan().all()
    assert gradient[BROKEN].isnan().all()
    assert counts[BROKEN].eq(0).all()
    sound = [0, 6]
    assert_equals_oracle(similarity[sound], entropy[sound], gradient[sound], counts[sound])


@each_backend
def test_a_sum_beyond_the_range_of_the_type_is_reported(backend):
    similarity = torch.cat([random_maps(14, 14)[:1], overflowing_maps()])
    entropy, gradient = run(similarity, backend)
    assert entropy[1].isnan().all()
    assert gradient[1].isnan().all()
    assert torch.equal(entropy[:1], run(similarity[:1], backend)[0])


@each_backend
def test_a_vanishing_component_stays_finite(backend):
    similarity = map_with_a_vanishing_component()
    entropy, counts = spatial_entropy(similarity, backend, return_components=True)
    gradient = run(similarity, backend)[1]
    assert counts.item() == 2
    assert entropy.item() == pytest.approx(0, abs=1e-12)
    assert gradient[0, 0, 1, 6].item() == pytest.approx(57 * math.log(2) * 20 / 21, rel=1e-5)


@each_backend
def test_empty_batch(backend):
    entropy, counts = spatial_entropy(torch.zeros(0, 3, 4, 4), backend, return_components=True)
    assert entropy.shape == counts.shape == (0, 3)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_float32(backend, dtype):
    similarity = random_maps(9, 8).to(dtype)
    entropy, gradient = run(similarity, backend)
    assert entropy.dtype == torch.float32
    assert gradient.dtype == dtype
    expected, slope = run(similarity.float(), backend)
    assert torch.equal(entropy, expected)
    assert torch.equal(gradient, slope.to(dtype))


@each_backend
def test_gradcheck_in_float64(backend):
    similarity = random_maps(4, 5, seed=2)[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: spatial_entropy(s, backend), similarity, eps=1e-7)


@each_backend
def test_gradient_equals_autograd_of_the_definition(backend):
    similarity = random_maps(14, 14, seed=4).double()
    leaf = similarity.clone().requires_grad_()
    value, gradient = value_and_gradient(spatial_entropy_definition(leaf), leaf)
    ours, ours_gradient = run(similarity, backend)
    torch.testing.assert_close(ours, value, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ours_gradient, gradient, atol=1e-12, rtol=1e-9)


# Integers make every sum exact, so that no transformation can move a pixel over the threshold by rounding.
integer_maps = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.int8, (2, *shape), elements=st.integers(-8, 8))
)


@each_backend
@settings(max_examples=40, deadline=None)
@given(values=integer_maps, constant=st.integers(-1000, 1000), factor=st.sampled_from([1, 3, 2.0**-40, 2.0**40]))
def test_constants_and_positive_factors_leave_it_unchanged(backend, values, constant, factor):
    similarity = torch.tensor(values, dtype=torch.float32)
    entropy, gradient = run(similarity, backend)
    moved, moved_gradient = run((similarity + constant) * factor, backend)
    torch.testing.assert_close(moved, entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved_gradient * factor, gradient, atol=1e-5, rtol=1e-5)


@each_backend
@settings(max_examples=40, deadline=None)
@given(values=integer_maps, turns=st.integers(0, 3), flip=st.booleans())
def test_rotations_and_flips_leave_it_unchanged(backend, values, turns, flip):
    similarity = torch.tensor(values, dtype=torch.float32)

    def moved(tensor):
        return torch.rot90(tensor.flip(3) if flip else tensor, turns, (2, 3))

    entropy, gradient = run(similarity, backend)
    other, other_gradient = run(moved(similarity), backend)
    torch.testing.assert_close(other, entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other_gradient, moved(gradient), atol=1e-5, rtol=1e-5)


@each_backend
@settings(max_examples=40, deadline=None)
@given(values=integer_maps, seed=st.integers(0, 99))
def test_permuting_maps_permutes_entropies_bit_by_bit(backend, values, seed):
    similarity = torch.tensor(values, dtype=torch.float32)
    order = torch.randperm(2, generator=torch.Generator().manual_seed(seed))
    entropy, gradient = run(similarity, backend)
    other, other_gradient = run(similarity[order], backend)
    assert torch.equal(other, entropy[order])
    assert torch.equal(other_gradient, gradient[order])


@each_backend
@settings(max_examples=40, deadline=None)
@given(values=integer_maps)
def test_bounds_and_identities(backend, values):
    similarity = torch.tensor(values, dtype=torch.float64)
    entropy, counts = spatial_entropy(similarity, backend, return_components=True)
    gradient = run(similarity, backend)[1]
    assert (entropy >= 0).all()
    assert (entropy <= counts.clamp(min=1).log() + 1e-12).all()
    # Adding a constant and scaling change nothing: the gradient has no component along either.
    assert gradient.sum((2, 3)).abs().max() < 1e-12
    assert (gradient * similarity).sum((2, 3)).abs().max() < 1e-12


def test_two_equal_blobs_have_one_bit():
    similarity = torch.zeros(1, 1, 5, 9)
    similarity[0, 0, 1:3, 1:3] = similarity[0, 0, 2:4, 6:8] = 1
    assert spatial_entropy(similarity).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("similarity", "backend", "message"),
    [
        (torch.zeros(2, 196), "auto", r"shape \(B, H, gh, gw\), got \(2, 196\)"),
        (torch.zeros(2, 3, 0, 4), "auto", "shape"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), "auto", "floating point, got torch.int64"),
        (torch.zeros(1, 1, 4, 4), "cuda", "must be one of auto, cpu, torch, triton, got 'cuda'"),
        (torch.zeros(1, 1, 4, 4), "triton", "needs"),
        (torch.zeros(1, 1, 4, 4, device="meta"), "cpu", "needs a CPU tensor"),
    ],
)
def test_bad_arguments_are_one_line(similarity, backend, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if similarity.is_meta:
        from sar_dist.regularizer.backends import resolve_backend

        with pytest.raises(ValueError, match=message):
            resolve_backend(backend, similarity, 16)
        return
    with pytest.raises(ValueError, match=message) as error:
        spatial_entropy(similarity, backend)
    assert "\n" not in str(error.value)


def test_large_maps_leave_triton_with_one_warning(monkeypatch):
    backends = pytest.importorskip("sar_dist.regularizer.backends")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(backends, "TRITON_IS_INSTALLED", True)
    backends._warn_of_large_maps.cache_clear()
    with pytest.warns(UserWarning, match="maps of more than 4096 pixels take the torch backend") as warned:
        assert [backends.resolve_backend("triton", torch.zeros(1), 65 * 65) for _ in range(3)] == ["torch"] * 3
    assert len(warned) == 1
    assert backends.resolve_backend("triton", torch.zeros(1), 64 * 64) == "triton"
    with pytest.raises(ValueError, match="float64"):
        backends.resolve_backend("triton", torch.zeros(1, dtype=torch.float64), 9)
    assert backends.resolve_backend("auto", torch.zeros(1, device="meta"), 9) == "torch"
