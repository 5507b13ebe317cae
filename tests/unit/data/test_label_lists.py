"""Labels that are lists of labels, and what is said where they may be."""

from __future__ import annotations

import re

import pytest

from sar_dist.data.layout import lists_remark, refuse_lists
from sar_dist.errors import UserError


@pytest.mark.parametrize(
    "words",
    [
        {"16 0", "7 1 2 0", "5"},
        {"1/2"},
        {"cat dog", "cat", "dog"},
        {"cat & dog", "cat", "dog"},
        {"cat+dog", "cat", "dog"},
        {"cat/dog", "cat", "dog"},
    ],
)
def test_joined_labels_are_refused(words: set[str]) -> None:
    with pytest.raises(UserError, match="is a list of labels"):
        refuse_lists(words, "here")


@pytest.mark.parametrize(
    "words",
    [
        {"sea lion", "lion", "polar bear"},
        {"M4 2010", "M4"},
        {"red car", "red", "blue car"},
        {"and/or", "or"},
        {"+", "a+", "a"},
        {"A & B", "A"},
    ],
)
def test_names_of_several_words_are_none(words: set[str]) -> None:
    refuse_lists(words, "here")
    assert lists_remark(words) is None


SYNONYMS = {"maillot", "maillot, tank suit", "tench, Tinca tinca", "goldfish, Carassius auratus", "crane, bird"}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ({"a|b", "a"}, "a|b"),
        ({"a|b", "b|c", "d"}, "a|b"),
        ({"x", "x; y", "z"}, "x; y"),
        ({"dog, cat", "dog", "owl"}, "dog, cat"),
        ({"dog, cat", "cat, owl", "ape, yak"}, "cat, owl"),
    ],
)
def test_what_may_be_a_list_is_refused_unless_classes_are_named(words: set[str], shown: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"label {shown!r} may be a list of labels") + ".* in x/classes.json"):
        refuse_lists(words, "here", "x/classes.json")
    refuse_lists(words, "here")


@pytest.mark.parametrize("words", [SYNONYMS, {"a|b", "c|d", "e"}, {"a|", "a"}, {"Doe, J", "Roe, R"}])
def test_synonyms_are_no_lists(words: set[str]) -> None:
    refuse_lists(words, "here", "x/classes.json")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            {"haze primary", "agriculture clear primary water", "clear", "haze", "water"},
            "agriculture clear primary water",
        ),
        ({"a b", "b c", "a c", "a b c"}, "a b"),
    ],
)
def test_labels_made_of_few_words_are_said(words: set[str], shown: str) -> None:
    assert f"such as {shown!r}" in (lists_remark(words) or "")
