"""The report in headless Chromium: values under the pointer, switches, smoothing, keys, and what does not overlap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from report_runs import write_run

from sar_dist.reports import figure_png, load_runs, report_figure, report_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no chromium or google-chrome is on the PATH")

# Boxes of what is read that lie over one another, and what leaves the page to the right.
OVERLAPS = """
(() => {
  const shown = [...document.querySelectorAll("h1, h2, h3, p, dl > div, table, figure, .plot, .values li, .controls label, legend, nav a, .tile")]
    .map((part) => [part, part.getBoundingClientRect()])
    .filter(([part, box]) => box.width && box.height && !part.closest("[hidden]"));
  const found = [];
  shown.forEach(([part, box], index) => {
    if (box.right > innerWidth + 1 && !part.closest(".wide")) found.push(`too wide: ${part.outerHTML.slice(0, 90)}`);
    for (const [other, its] of shown.slice(index + 1)) {
      if (part.contains(other) || other.contains(part)) continue;
      const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
      const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
      if (across > 1 && down > 1) found.push(`${part.outerHTML.slice(0, 90)} over ${other.outerHTML.slice(0, 90)}`);
    }
  });
  return found;
})()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    runs = load_runs(
        [write_run(folder, "regularized_run_with_a_long_name", 0.01, 62.0), write_run(folder, "base", 0.0)]
    )
    file = folder / "report.html"
    file.write_text(report_page(runs, figure_png(report_figure(runs))))
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Browser]:
    """The report, 1200 pixels wide; whatever a test does, nothing fails in it and nothing is fetched."""
    browser.look(1200)
    browser.open(report)
    yield browser
    assert browser.problems == []
    assert {each for each in browser.requests if not each.startswith("data:")} == {report.as_uri()}


def values(page: Browser, title: str) -> list[str]:
    """The lines below a chart that are seen."""
    script = f"""[...[...document.querySelectorAll(".chart")].find((chart) => chart.querySelector("h3").textContent
        === {json.dumps(title)}).querySelectorAll(".values li")].filter((line) => !line.hidden).map((line) => line.innerText)"""
    return page.run(script)


def test_values_under_the_pointer_and_at_the_keys(page: Browser) -> None:
    last = "regularized_run_with_a_long_name: 62, epoch 4"
    assert values(page, "validation top-1, %") == [last, "base: 60, epoch 4"]
    page.point(".chart:nth-of-type(1) .u-over", 0.0)
    first = values(page, "cross-entropy, nats")
    assert first[0] == "regularized_run_with_a_long_name, training: 2, epoch 0.5"
    assert values(page, "validation top-1, %")[1] == "base: 15, epoch 1"  # all charts show the same place
    page.point("h1")
    assert values(page, "validation top-1, %")[0] == last
    page.run("document.querySelector('.plot').focus()")
    page.press("Home")
    assert values(page, "cross-entropy, nats") == first
    page.press("ArrowRight", 2)
    assert values(page, "cross-entropy, nats")[0].endswith("training: 0.66667, epoch 1.5")


def test_runs_are_switched_off(page: Browser) -> None:
    page.point(".switch[value='0']", click=True)
    assert values(page, "cross-entropy, nats") == ["base, training: 0.25, epoch 4", "base, validation: 0.225, epoch 4"]
    page.point(".switch[value='0']", click=True)
    assert len(values(page, "cross-entropy, nats")) == 4


def test_smoothing_of_training_and_not_of_validation(page: Browser) -> None:
    page.run("document.querySelector('.smoothing').focus()")
    page.press("End")
    training, validation = values(page, "cross-entropy, nats")[:2]
    assert validation.endswith("validation: 0.225, epoch 4")
    mean = float(training.split(": ")[1].split(",")[0])
    assert 0.25 < mean < 10 / 5
    assert training.endswith(", logged 0.25, epoch 4")
    assert page.run("document.querySelector('.smoothing').nextElementSibling.textContent") == "0.98"


@pytest.mark.parametrize("width", [400, 1200, 2000])
def test_nothing_overlaps_or_leaves_the_page(page: Browser, width: int) -> None:
    page.look(width, scheme="dark" if width == 1200 else "light")
    assert page.run(OVERLAPS) == []
    assert page.run("document.documentElement.scrollWidth") <= width
    chart = page.run("document.querySelector('.plot canvas').clientWidth")
    assert 300 < chart <= page.run("document.querySelector('.plot').clientWidth")


def test_paper_and_a_browser_without_scripts_have_the_picture(page: Browser, report: Path) -> None:
    seen = "['.still', '.drawn'].map((part) => document.querySelector(part).getClientRects().length > 0)"
    assert page.run(seen) == [False, True]
    page.look(1200, media="print")
    assert page.run(seen) == [True, False]
    page.look(1200)
    page.open(report, scripts=False)
    page.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert page.run(seen) == [True, False]


def test_a_screen_reader_finds_names(page: Browser) -> None:
    found = page.names()
    assert ("heading", "cross-entropy, nats") in found
    assert ("checkbox", "base") in found
    assert [name for role, name in found if role == "slider"] == ["Smoothing"]
    assert ("group", "cross-entropy, nats: chart, arrow keys move over it") in found
    unnamed = [
        role for role, name in found if role in ("checkbox", "slider", "button", "image", "combobox") and not name
    ]
    assert unnamed == []
