"""Attention maps to masks, against a map-by-map reimplementation of the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sar_dist.transfer.tasks.attention.mass import patch_attention, top_mass_mask, top_mass_masks


def reference_mask(attention: torch.Tensor, mass: float) -> torch.Tensor:
    """One head at a time, with Python numbers: sort, add up from the smallest, keep what exceeds 1 - mass."""
    kept = torch.zeros(attention.shape, dtype=torch.bool)
    for head, values in enumerate(attention.flatten(1).tolist()):
        total, running = sum(values), 0.0
        for place in sorted(range(len(values)), key=lambda index: values[index]):
            running += values[place] / total
            kept[head].view(-1)[place] = running > 1 - mass
    return kept


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 7), st.integers(1, 9), st.sampled_from([0.05, 0.6, 0.83])
)
def test_masks_are_those_of_the_reference(seed: int, heads: int, rows: int, columns: int, mass: float) -> None:
    attention = np.random.default_rng(seed).gamma(0.5, size=(heads, rows, columns)) + 1e-6
    expected = reference_mask(torch.from_numpy(attention), mass)
    np.testing.assert_array_equal(top_mass_mask(attention, mass), expected.numpy())


def test_the_kept_patches_are_the_fewest_that_hold_the_mass() -> None:
    attention = np.random.default_rng(1).random((5, 6, 6))
    attention /= attention.sum((1, 2), keepdims=True)
    for values, kept in zip(attention, top_mass_mask(attention, 0.6), strict=True):
        assert values[kept].sum() >= 0.6
        assert values[kept].sum() - values[kept].min() < 0.6
        assert values[kept].min() > values[~kept].max()


def test_several_masses_are_nested_and_equal_one_at_a_time() -> None:
    attention = np.random.default_rng(2).random((2, 3, 5, 4))
    masses = (0.1, 0.6, 0.95, 1.0)
    masks = top_mass_masks(attention, masses)
    assert masks.shape == (4, 2, 3, 5, 4)
    for mask, mass in zip(masks, masses, strict=True):
        np.testing.assert_array_equal(mask, top_mass_mask(attention, mass))
    assert all((smaller <= larger).all() for smaller, larger in itertools.pairwise(masks))
    assert masks[-1].all()


def test_equal_patches_are_kept_from_the_end_of_the_raster() -> None:
    mask = top_mass_mask(np.ones((1, 2, 5)), 0.55)
    np.testing.assert_array_equal(mask[0], [[False] * 4 + [True], [True] * 5])


@pytest.mark.parametrize("others", [1, 5])
def test_attention_is_the_softmax_over_all_tokens_made_to_sum_to_one_over_the_patches(others: int) -> None:
    products = torch.randn(3, others + 12, dtype=torch.float64) * 4
    expected = products.softmax(dim=1)[:, others:]
    expected = expected / expected.sum(dim=1, keepdim=True)
    found = patch_attention(products[:, others:].reshape(3, 3, 4).numpy())
    np.testing.assert_allclose(found, expected.reshape(3, 3, 4).numpy(), rtol=1e-12)


def test_large_similarities_do_not_overflow() -> None:
    found = patch_attention(np.array([[[1e4, 0.0], [1e4, -1e4]]], dtype=np.float32))
    np.testing.assert_allclose(found, [[[0.5, 0], [0.5, 0]]])
