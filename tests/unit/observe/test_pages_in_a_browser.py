"""The report in headless Chromium: values under the pointer, switches, smoothing, keys, and what does not overlap."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from report_runs import keep_details, write_run

from sar_dist.reports import figure_png, load_runs, report_figure, report_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("SAR_DIST_REQUIRE_BROWSER") != "1",
    reason="needs Chromium: no chromium or google-chrome is on the PATH",
)

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
    folders = [write_run(folder, "regularized_run_with_a_long_name", 0.01, 62.0), write_run(folder, "base", 0.0)]
    keep_details(folders[0], [10, 20, 30])
    keep_details(folders[1], [20, 40], samples=(7, 8))
    runs = load_runs(folders)
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
    browser.problems.clear()
    browser.requests.clear()
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


def test_the_charts_go_over_steps_or_images_too(page: Browser) -> None:
    page.run("document.querySelector('.axis').focus()")
    page.press("ArrowDown")
    assert values(page, "validation top-1, %")[1] == "base: 60, step 40"
    page.point(".chart:nth-of-type(1) .u-over", 0.0)
    assert values(page, "cross-entropy, nats")[0].endswith("training: 2, step 5")
    assert values(page, "validation top-1, %")[1] == "base: 15, step 10"
    page.run("document.querySelector('.axis').focus()")
    page.press("ArrowDown")
    assert values(page, "validation top-1, %")[1] == "base: 60, training image 2,560"
    page.press("Home")
    assert values(page, "validation top-1, %")[1] == "base: 60, epoch 4"


def attention(page: Browser) -> list[tuple[str, str, int]]:
    """Of each run's attention: what is said, the caption of its second head, and the marked patch of that head."""
    script = """[...document.querySelectorAll(".attended-run")].map((run) => {
        const canvas = run.querySelectorAll("canvas")[1];
        const copy = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        copy.drawImage(canvas, 0, 0);
        const {data} = copy.getImageData(0, 0, 3, 2);
        const marked = [0, 1, 2, 3, 4, 5].filter((patch) => data[4 * patch + 3] > 0);
        return [run.querySelector(".verdict").textContent, canvas.closest("figure").innerText.trim(), marked.join(" ")];
    })"""
    return [tuple(each) for each in page.run(script)]


def test_the_slider_goes_through_the_steps_with_the_keyboard(page: Browser) -> None:
    last = "cat, predicted dog at step 30; mean of the heads: H 0.150, 1.5 components"
    assert attention(page)[0] == (last, "head 1: H 0.00, 2 comp.", "2")
    assert attention(page)[1][0] == "does not have this image"  # it has other ones
    shown = "[...document.querySelectorAll('.heads')].map((heads) => heads.getClientRects().length)"
    assert page.run(shown) == [1, 0]
    page.run("document.querySelector('[name=step]').focus()")
    page.press("Home")
    assert attention(page)[0][2] == "0"
    assert page.run("document.querySelector('.shown-step').textContent") == "step 10"
    page.press("ArrowRight")
    assert attention(page)[0][0].startswith("cat, predicted dog at step 20; mean of the heads: H 0.100")
    page.run("document.querySelector('[name=image]').focus()")
    page.run("document.querySelector('[name=image]').value = 1")
    page.run("document.querySelector('[name=image]').dispatchEvent(new Event('input'))")
    assert [each[0].split(";")[0] for each in attention(page)] == [
        "dog, predicted dog at step 20",
        "cat, predicted dog at step 20",
    ]
    page.point(".play", click=True)
    assert page.run("document.querySelector('.play').textContent") == "Stop"
    page.point(".play", click=True)
    assert page.run("document.querySelector('.play').textContent") == "Play"


def test_the_similarity_is_shown_too(page: Browser) -> None:
    page.run("document.querySelector('[name=view]').value = 'similarity'")
    page.run("document.querySelector('[name=view]').dispatchEvent(new Event('input'))")
    assert attention(page)[0][2] == "0 1 2 3 4 5"  # every patch has a colour


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
    page.look(794, media="print")  # A4
    assert page.run(seen) == [True, False]
    assert page.run("document.documentElement.scrollWidth") <= 794
    page.look(1200)
    page.open(report, scripts=False)
    page.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert page.run(seen) == [True, False]


def test_a_screen_reader_finds_names(page: Browser) -> None:
    found = page.names()
    assert ("heading", "cross-entropy, nats") in found
    assert ("checkbox", "base") in found
    assert [name for role, name in found if role == "slider"] == ["Step", "Smoothing"]
    assert ("group", "cross-entropy, nats: chart, arrow keys move over it") in found
    unnamed = [
        role for role, name in found if role in ("checkbox", "slider", "button", "image", "combobox") and not name
    ]
    assert unnamed == []
