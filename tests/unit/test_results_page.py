"""The tables of the pages in docs are those of the records in docs/results."""

from __future__ import annotations

import json

from make_results import DOCS, SECTION, pages, with_tables


def test_tables_follow_from_the_records() -> None:
    shown = set()
    for page in pages():
        text = page.read_text()
        assert with_tables(text) == text, f"{page}: run `python docs/make_results.py`"
        shown |= {found[2] for found in SECTION.finditer(text)}
    assert shown == {folder.name for folder in (DOCS / "results").iterdir() if folder.is_dir()}


def test_tables_of_named_arms_and_of_one_seed() -> None:
    page = with_tables("<!-- records confirm_tiny secondary of no_skip method_10 by seed 3 -->\n<!-- end -->")
    header, *rows = [line for line in page.splitlines() if line.startswith("|")]
    assert header.startswith("|  | no_skip | method_10 |")
    assert "baseline" not in page
    record = json.loads((DOCS / "results" / "confirm_tiny" / "no_skip-seed3.json").read_text())
    (row,) = [row for row in rows if row.startswith("| knn: top1 |")]
    assert row.startswith(f"| knn: top1 | {record['evaluations']['knn']['metrics']['top1']:.2f} (1) |")


def test_records_name_no_place_of_a_machine() -> None:
    for file in (DOCS / "results").glob("*/*.json"):
        content = json.loads(file.read_text())
        assert content["made_with"]["git_changes"] is False, f"{file} was made with uncommitted changes"
        assert '": "/' not in file.read_text(), file
