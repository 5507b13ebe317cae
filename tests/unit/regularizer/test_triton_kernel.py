"""The Triton kernels: exact through the interpreter, and on a GPU if there is one; tests/counting compiles them for GPUs."""

from types import SimpleNamespace

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
    random_maps,
    spiral,
    value_and_gradient,
)
from entropy_oracle import assert_equals_oracle
from triton_interpreted import query_key_cases

from sar_dist.regularizer import (
    backends,
    class_similarity,
    find_backend_problem,
    spatial_entropy,
    spatial_entropy_from_query_key,
)
from sar_dist.regularizer.kernel_probe import kernel_problem


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden(interpreted, case):
    similarity, entropy, _, gradient = golden(case)
    result = interpreted[f"golden {case}"]
    torch.testing.assert_close(result["entropy"], entropy, atol=1e-5, rtol=0)
    ours = result["gradient"] / entropy.numel()  # of the mean
    torch.testing.assert_close(ours, gradient, atol=1e-5 * gradient.abs().max().item() + 1e-9, rtol=1e-4)
    assert torch.equal(result["counts"], spatial_entropy(similarity, "cpu", return_components=True)[1])


@pytest.mark.parametrize("name", monsters())
def test_monsters(interpreted, name):
    assert_equals_oracle(monsters()[name][None, None], **interpreted[f"monster {name}"])
    if name.startswith("constant"):
        assert not interpreted[f"monster {name}"]["gradient"].any()


@pytest.mark.parametrize("grid", GRIDS)
def test_grids(interpreted, grid):
    assert_equals_oracle(random_maps(*grid), **interpreted[f"grid {grid}"])


def test_largest_grid_with_its_longest_spiral(interpreted):
    result = interpreted["grid (64, 64)"]
    assert_equals_oracle(torch.from_numpy(spiral(64))[None, None], **result)
    assert result["entropy"].item() == 0
    assert not result["gradient"].any()


def test_non_finite_maps_are_reported_and_do_not_touch_their_neighbours(interpreted):
    result = interpreted["broken"]
    assert result["entropy"][BROKEN].isnan().all()
    assert result["gradient"][BROKEN].isnan().all()
    assert result["counts"][BROKEN].eq(0).all()
    sound = [0, 6]
    assert_equals_oracle(broken_maps()[sound], **{name: tensor[sound] for name, tensor in result.items()})


def test_sums_beyond_the_range_of_the_type_are_reported(interpreted):
    assert interpreted["overflow"]["entropy"].isnan().all()
    assert interpreted["overflow"]["gradient"].isnan().all()


def test_a_vanishing_component_is_treated_as_on_the_cpu(interpreted):
    leaf = map_with_a_vanishing_component().requires_grad_()
    entropy, gradient = value_and_gradient(spatial_entropy(leaf, "cpu"), leaf)
    torch.testing.assert_close(interpreted["vanishing"]["entropy"], entropy, atol=1e-12, rtol=0)
    torch.testing.assert_close(interpreted["vanishing"]["gradient"], gradient)


def test_second_run_gives_identical_bits(interpreted):
    for name, tensor in interpreted["broken"].items():
        assert torch.equal(tensor.view(torch.int32), interpreted["broken again"][name].view(torch.int32))


def test_the_probe_finds_nothing_where_the_kernels_run(interpreted):
    assert interpreted["probe"] is None


def test_without_a_compiler_the_torch_backend_takes_over(monkeypatch):
    triton_kernel = pytest.importorskip("sar_dist.regularizer.triton_kernel")

    def launch(_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr(triton_kernel, "launch_spatial_entropy", launch)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), is_cuda=True, dtype=torch.float32)
    for backend in ("auto", "triton"):
        kernel_problem.cache_clear()
        # The probe's map is made on the CPU here; the launch that fails is the same.
        monkeypatch.setattr(backends, "kernel_problem", lambda _: kernel_problem(torch.device("cpu")))
        expected = "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."
        assert find_backend_problem(backend, on_gpu.device) == expected
    assert backends.resolve_backend("auto", on_gpu, 9) == "torch"
    assert find_backend_problem("torch", on_gpu.device) is None
    kernel_problem.cache_clear()


def test_a_kernel_that_computes_something_else_is_found(monkeypatch):
    triton_kernel = pytest.importorskip("sar_dist.regularizer.triton_kernel")
    monkeypatch.setattr(triton_kernel, "launch_spatial_entropy", lambda maps: (maps.new_tensor([[0.5]]), maps, maps))
    monkeypatch.setattr(triton_kernel, "launch_query_key_forward", lambda *_: (torch.zeros(1, 1),) * 4)
    monkeypatch.setattr(triton_kernel, "launch_key_backward", lambda *_: None)
    kernel_problem.cache_clear()
    assert kernel_problem(torch.device("cpu")) == "the kernel computes 0.5 where 0.636514 is right"
    kernel_problem.cache_clear()


def test_empty_batch(interpreted):
    assert interpreted["empty"]["entropy"].shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(interpreted, dtype):
    similarity = random_maps(6, 5, seed=11).to(dtype)
    result = interpreted[f"type {dtype}"]
    leaf = similarity.float().requires_grad_()
    entropy, gradient = value_and_gradient(spatial_entropy(leaf, "cpu"), leaf)
    torch.testing.assert_close(result["entropy"], entropy, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(result["gradient"], gradient.to(dtype))


def test_strided_input(interpreted):
    assert_equals_oracle(random_maps(6, 5, seed=11).transpose(2, 3), **interpreted["strides"])


@pytest.mark.parametrize("name", query_key_cases())
def test_query_key(interpreted, name):
    query, key, grid = query_key_cases()[name]
    wide = [tensor.float().detach().requires_grad_() for tensor in (query, key)]
    entropy, counts = spatial_entropy(class_similarity(*wide, grid), return_components=True)
    weight = torch.arange(1.0, 1 + entropy.numel()).view_as(entropy)
    grad_query, grad_key = torch.autograd.grad((entropy * weight).sum(), wide)
    result = interpreted[f"query key {name}"]
    torch.testing.assert_close(result["entropy"], entropy.detach(), atol=1e-5, rtol=0)
    assert torch.equal(result["counts"], counts)
    tolerance = {"atol": 1e-5, "rtol": 1e-4 if query.dtype == torch.float32 else 1e-2}
    torch.testing.assert_close(result["grad_query"], grad_query.to(query.dtype), **tolerance)
    torch.testing.assert_close(result["grad_key"], grad_key.to(key.dtype), **tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("grid", [*GRIDS, (32, 32), (64, 64)])
def test_gpu_equals_cpu(backend, grid):
    similarity = random_maps(*grid)
    leaf = similarity.cuda().requires_grad_()
    entropy, counts = spatial_entropy(leaf, backend, return_components=True)
    value, gradient = value_and_gradient(entropy, leaf)
    assert_equals_oracle(similarity, value.cpu(), gradient.cpu(), counts.cpu())
    assert torch.equal(gradient, value_and_gradient(spatial_entropy(leaf, backend), leaf)[1])


@pytest.mark.gpu
@pytest.mark.parametrize("name", monsters())
def test_gpu_monsters(name):
    leaf = monsters()[name][None, None].cuda().requires_grad_()
    entropy, counts = spatial_entropy(leaf, "triton", return_components=True)
    value, gradient = value_and_gradient(entropy, leaf)
    assert_equals_oracle(leaf.detach().cpu(), value.cpu(), gradient.cpu(), counts.cpu())


@pytest.mark.gpu
def test_gpu_query_key_equals_cpu():
    for query, key, grid in query_key_cases().values():
        results = []
        for device in ("cpu", "cuda"):
            leaves = [tensor.to(device).detach().requires_grad_() for tensor in (query, key)]
            entropy = spatial_entropy_from_query_key(*leaves, grid)
            results.append([t.cpu() for t in (entropy.detach(), *torch.autograd.grad(entropy.sum(), leaves))])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-2 if query.dtype != torch.float32 else 1e-4)


@pytest.mark.gpu
def test_gpu_step_copies_nothing_to_the_host():
    query = torch.randn(64, 6, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    key = torch.randn(64, 6, 196, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    def step():
        spatial_entropy_from_query_key(query, key, (14, 14)).mean().backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.profiler.profile() as profile:
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [event.key for event in profile.key_averages() if "DtoH" in event.key]
