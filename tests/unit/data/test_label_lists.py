"""Labels that are lists of labels, and what is said where they may be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sar_dist.data.layout import lists_remark, refuse_lists
from sar_dist.errors import UserError

NO_FILE = Path("nowhere/classes.json")


@pytest.mark.parametrize(
    "words",
    [
        {"16 0", "7 1 2 0", "5"},
        {"1/2"},
        {"cat dog", "cat", "dog"},
        {"cat & dog", "cat", "dog"},
        {"cat+dog", "cat", "dog"},
        {"cat/dog", "cat", "dog"},
        {"cat dog", "cat", "dog", "polar bear"},
        {"7 7", "polar bear", "sea lion"},
    ],
)
def test_joined_labels_are_refused(words: set[str]) -> None:
    with pytest.raises(UserError, match="is a list of labels"):
        refuse_lists(words, "here", NO_FILE)


def test_words_that_classes_json_has_are_classes(tmp_path: Path) -> None:
    file, words = tmp_path / "classes.json", {"apple", "pie", "apple pie"}
    with pytest.raises(UserError, match=r"list all classes in a classes\.json beside the table"):
        refuse_lists(words, "here", file)
    file.write_text('["pie", "apple", "apple pie"]')
    refuse_lists(words, "here", file)
    with pytest.raises(UserError, match="'pie apple' is a list of labels"):
        refuse_lists(words | {"pie apple"}, "here", file)


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
    refuse_lists(words, "here", NO_FILE)
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
def test_what_may_be_a_list_is_refused_unless_classes_are_named(words: set[str], shown: str, tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    with pytest.raises(UserError, match=re.escape(f"label {shown!r} may be a list of labels") + f".* in {file}"):
        refuse_lists(words, "here", file)
    file.write_text(json.dumps(sorted(words)))
    refuse_lists(words, "here", file)


GENERA = {"warbler, palm", "warbler, pine", "oriole, Baltimore"}


@pytest.mark.parametrize(
    "words", [SYNONYMS, GENERA, {"a|b", "c|d", "e"}, {"a|b", "a|c"}, {"a|", "a"}, {"Doe, J", "Roe, R"}]
)
def test_synonyms_and_genera_are_no_lists(words: set[str]) -> None:
    refuse_lists(words, "here", NO_FILE)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"ski", "mask", "ski mask", "sea lion", "polar bear"}, "ski mask"),
        ({"arm", "sleeve", "sleeve, arm", "tench, Tinca tinca", "crane, bird"}, "sleeve, arm"),
        ({"Doe, Jane", "Doe, John", "Roe, John"}, "Doe, Jane"),
        ({"animal|cat", "animal|dog"}, "animal|cat"),
        ({"Oak St, Ulm", "3, Elm St, Ulm"}, "3, Elm St, Ulm"),
    ],
)
def test_names_that_share_words_are_classes_and_said(names: set[str], shown: str) -> None:
    refuse_lists(names, "here", NO_FILE)
    assert f"such as {shown!r}" in (lists_remark(names) or "")


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
