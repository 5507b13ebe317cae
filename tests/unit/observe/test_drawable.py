"""Names that no font has letters for, or that are no text, in figures, class words and manifests."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from sar_dist.data.layout import class_word
from sar_dist.data.shards.manifest import parse_manifest
from sar_dist.legible import legible
from sar_dist.observe import RunLogger, confusion_figure, make_drawable, samples_figure

NAMES = {
    "caf\udc82": r"caf\x82",  # a folder of an old zip archive
    "\ud800": r"\ud800",
    "\x1b[31m": r"\x1b[31m",
    "猫": r"\u732b",
    "a\U000e0001": r"a\U000e0001",
    "\ufffe": r"\ufffe",
    "café $x_{": "café $x_{",
}


@pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=map(ascii, NAMES))
def test_every_class_name_is_drawn_without_a_warning(name: str, shown: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            confusion_figure(torch.tensor([[3, 1], [2, 4]]), (name, "dog")),
            samples_figure(torch.rand(1, 3, 8, 8), [name]),
        ):
            make_drawable(figure)
            figure.savefig(io.BytesIO())
            assert any(text.get_text() == shown for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_names_of_ticks_and_legends_are_replaced_too() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], label="猫")
    axes.legend()
    axes.set_yticks([0, 1], ["犬", "cat"])
    make_drawable(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO())
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"\u72ac", "cat"]


def test_a_name_is_the_same_word_in_a_folder_and_in_a_manifest() -> None:
    name = "caf\udc82 猫"
    content = {"format": "sar_dist-shards-1", "shards": [], "total": 0, "classes": [name]}
    (read,) = parse_manifest(content, "D", "train").classes or ()
    assert read == class_word(name) == class_word(read) == legible(read) == "caf\\x82 猫"


def test_an_exception_in_drawing_costs_the_picture_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def draw() -> Figure:
        raise TypeError("of a\nlibrary")

    logger = RunLogger(tmp_path, enabled=True, total_steps=10, description="run", to=())
    for step in (1, 2):
        logger.figure("confusion", draw, step)
    logger.figure("attention", Figure(figsize=(2, 1), dpi=50), 2)
    logger.close()
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["attention_step_00000002.png"]
    assert capsys.readouterr().err.splitlines() == [
        "warning: logging failed in drawing figures, training goes on (further failures are only counted): "
        "TypeError: of a library",
        "warning: log entries that were lost: 2 of drawing figures",
    ]
