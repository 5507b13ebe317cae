"""The pages' one look: what is given is escaped, nothing is fetched, and every template can be had and is used."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from support import ROOT

from sar_dist.errors import UserError
from sar_dist.reports import (
    Chart,
    ChartBoard,
    ChartLine,
    ChartSeries,
    Headline,
    Picture,
    TextTable,
    check_place,
    render_page,
)
from sar_dist.reports.attention_steps import AttendedRun, AttentionSteps

EVIL = "<script>alert('x')</script>&"
ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;"


def page(text: str = "x") -> str:
    table = TextTable(text, [text, text], [[text, text]], text)
    picture = Picture(text, text, b"png", caption=text)
    lines = [ChartLine(0, [0.0, 1.0], [1.0, 2.0], text)]
    board = ChartBoard(text, [ChartSeries(text, "#000000")], [Chart(text, lines)], text, picture, kind=text)
    return render_page(
        "experiment.html.j2",
        title=text,
        headlines=[Headline(text, text, text)],
        arms=table,
        tables=[table],
        unfinished=[text],
        curves=board,
        attended=AttentionSteps([AttendedRun(text, 1, [], [0])], [picture], 1),
        pictures=[picture],
    )


def test_whatever_is_given_is_escaped_everywhere() -> None:
    shown, plain = page(EVIL), page("x")
    assert shown.count("<script") == plain.count("<script") == 5
    escaped = page("&").count("&amp;") - plain.count("&amp;")
    assert shown.count(ESCAPED) == escaped >= 25
    assert r"\u003cscript" in shown  # as the label of an axis, among the data of the charts
    assert re.search(r'[^\\]" onerror', page('" onerror="x')) is None


def test_a_name_that_is_not_utf_8_is_shown_escaped() -> None:
    shown = page("caf\udce9.jpg")
    assert "caf\\udce9.jpg" in shown
    shown.encode()


def test_a_page_fetches_nothing_and_fits_screen_phone_and_paper() -> None:
    shown = page()
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:;" in shown
    assert not re.search(
        r'(src|href)="(?!data:|#)|url\(|@import|<link|http(?!-equiv)', shown.split("<script>\n/*! ")[0]
    )
    for needed in ("initial-scale=1", "prefers-color-scheme: dark", "@media print", "max-width: 46rem", 'lang="en"'):
        assert needed in shown


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="arms"):
        render_page("experiment.html.j2", title="x")


def test_html_is_in_templates_only() -> None:
    written = re.compile(r"<(/?)(t[dhr]|table|title|div|p|h[1-6]|img|html|style|section|figure)\b[^>\n]*>")
    assert written.search("</table>")
    offenders = [path for path in (ROOT / "sar_dist").rglob("*.py") if written.search(path.read_text())]
    assert offenders == []


def test_every_template_is_used() -> None:
    folder = files("sar_dist.reports") / "templates"
    names = {entry.name for entry in folder.iterdir()}
    text = "".join(entry.read_text() for entry in folder.iterdir())
    text += "".join(path.read_text() for path in (ROOT / "sar_dist").rglob("*.py"))
    assert {name for name in names if f'"{name}"' not in text and f'/{name}"' not in text} == set()
    assert {"base.html.j2", "style.css"} <= names


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    place, picture = tmp_path / "index.html", tmp_path / "curves.png"
    check_place(place, ["curves.png"])
    picture.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"curves\.png would be overwritten and is no page of this program's or beside"):
        check_place(place, ["curves.png"])
    place.write_text(page())
    check_place(place, ["curves.png"])
    place.write_text("<!DOCTYPE html><title>mine</title>")
    with pytest.raises(UserError, match=r"index\.html would be overwritten"):
        check_place(place)
    place.unlink()
    place.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*index\.html|index\.html: it is a pipe, a device or a folder"):
        check_place(place)
