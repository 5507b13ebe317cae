"""Nested settings as trees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from sar_dist.config import RunConfig, RunSettings, load_config
from sar_dist.setting_trees import ABSENT, differences, is_below, leaves, merged, set_leaf

NAMES = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(TREES)
def test_setting_every_leaf_builds_the_tree_again(tree: dict[str, object]) -> None:
    built: dict[str, object] = {}
    for key, value in leaves(tree):
        set_leaf(built, key, value)
    assert built == tree


@given(TREES, TREES)
def test_differences_are_what_distinguishes_two_trees(one: dict[str, object], other: dict[str, object]) -> None:
    found = differences(one, other)
    assert (not found) == (one == other)
    before, after = dict(leaves(one)), dict(leaves(other))
    for key, (old, new) in found.items():
        assert old is ABSENT or before[key] == old
        assert new is ABSENT or after[key] == new


@given(TREES, TREES)
def test_a_merged_tree_has_all_of_the_second_and_leaves_the_first_alone(
    one: dict[str, object], other: dict[str, object]
) -> None:
    kept = dict(leaves(one))
    result = dict(leaves(merged(one, other)))
    assert all(result[key] == value for key, value in leaves(other))
    assert dict(leaves(one)) == kept


def test_what_is_no_mapping_holds_nothing() -> None:
    with pytest.raises(TypeError, match=r"^a\.b$"):
        set_leaf({"a": {"b": 1}}, "a.b.c", 2)


def test_a_key_is_below_itself_and_its_groups() -> None:
    assert is_below("optim.lr", ("optim",))
    assert is_below("optim", ("optim",))
    assert not is_below("optimizer.lr", ("optim",))


def test_vary_takes_what_the_command_line_takes() -> None:
    config = RunConfig(run=RunSettings(name="a"))
    varied = config.vary({"model.options.reg_tokens": 4, "optim.lr": 1e-3})
    typed = load_config(ROOT / "configs" / "demo.py", ["model.options.reg_tokens=4"])
    assert varied.model.options["reg_tokens"] == typed.model.options["reg_tokens"] == 4
    assert varied.optim.lr == 1e-3
    for key in ("optim.lrr", "optimm.lr", "optim", "model.optionss.reg_tokens"):
        with pytest.raises(KeyError):
            config.vary({key: 1})
