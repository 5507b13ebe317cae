"""Runs the Triton backend on all shared cases and saves what comes out. Started by conftest.py with TRITON_INTERPRET=1."""

import os
import sys

import torch
from entropy_cases import (
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
from torch import Tensor

from sar_dist.regularizer import spatial_entropy, spatial_entropy_from_query_key
from sar_dist.regularizer.kernel_probe import kernel_problem


def run_map(similarity: Tensor) -> dict[str, Tensor]:
    leaf = similarity.clone().requires_grad_()
    entropy, counts = spatial_entropy(leaf, "triton", return_components=True)
    value, gradient = value_and_gradient(entropy, leaf)
    return {"entropy": value, "gradient": gradient, "counts": counts}


def run_query_key(query: Tensor, key: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    query, key = query.clone().requires_grad_(), key.clone().requires_grad_()
    entropy, counts = spatial_entropy_from_query_key(query, key, grid, "triton", return_components=True)
    weight = torch.arange(1.0, 1 + entropy.numel()).view_as(entropy)
    grad_query, grad_key = torch.autograd.grad((entropy * weight).sum(), (query, key))
    return {"entropy": entropy.detach(), "counts": counts, "grad_query": grad_query, "grad_key": grad_key}


def main(target: str) -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    for case in GOLDEN_CASES:
        results[f"golden {case}"] = run_map(golden(case)[0])
    for name, values in monsters().items():
        results[f"monster {name}"] = run_map(values[None, None])
    for grid in GRIDS:
        results[f"grid {grid}"] = run_map(random_maps(*grid))
    results["grid (64, 64)"] = run_map(torch.from_numpy(spiral(64))[None, None])
    results["broken"] = run_map(broken_maps())
    results["broken again"] = run_map(broken_maps())
    results["overflow"] = run_map(overflowing_maps())
    results["vanishing"] = run_map(map_with_a_vanishing_component())
    results["empty"] = run_map(torch.zeros(0, 3, 4, 4))
    base = random_maps(6, 5, seed=11)
    for dtype in (torch.float16, torch.bfloat16):
        results[f"type {dtype}"] = run_map(base.to(dtype))
    results["probe"] = kernel_problem(torch.device("cpu"))
    results["strides"] = run_map(base.transpose(2, 3))
    for name, (query, key, grid) in query_key_cases().items():
        results[f"query key {name}"] = run_query_key(query, key, grid)
    torch.save(results, target)


def query_key_cases() -> dict[str, tuple[Tensor, Tensor, tuple[int, int]]]:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(2, 1 + 20, 3, 3, 24, generator=generator).permute(2, 0, 3, 1, 4)  # 3 B H tokens d, a strided view
    plain = torch.randn(1, 2, 1 + 9, 16, generator=generator)
    return {
        "strided": (qkv[0][:, :, 0], qkv[1][:, :, 1:], (4, 5)),
        "bfloat16": (qkv[0][:, :, 0].bfloat16(), qkv[1][:, :, 1:].bfloat16(), (5, 4)),
        "square": (plain[:, :, 0], plain[:, :, 1:], (3, 3)),
    }


if __name__ == "__main__":
    main(sys.argv[1])
