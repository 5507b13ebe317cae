"""Names in pictures: what matplotlib's font has no letter for is drawn as an escape, instead of a box and a warning; and pictures that fail."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from sar_dist.errors import described
from sar_dist.legible import escaped, legible
from sar_dist.output import warn

T = TypeVar("T")


def drawable(text: str) -> str:
    r"""``text`` in letters that there are: ``caf\x82``, ``\u732b``. Lines stay lines."""
    letters = _letters()
    lines = map(legible, text.split("\n"))
    return "\n".join("".join(c if ord(c) in letters else escaped(c) for c in line) for line in lines)


def make_drawable(figure: Figure) -> None:
    """Replace the texts of a figure that cannot be drawn as they are."""
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            names = [label.get_text() for label in axis.get_ticklabels()]
            if any(drawable(name) != name for name in names):
                axis.set_ticklabels([*map(drawable, names)])
    for text in figure.findobj(Text):
        shown = drawable(text.get_text())
        if shown != text.get_text():
            text.set_text(shown)


def drawn_or_said(picture: str, draw: Callable[[], T]) -> T | None:
    """What ``draw`` gives; where it fails, which may be for any reason, None and a line that says so of the ``picture``.

    A picture is no reason to lose the numbers that it shows, nor to end with an error where those are there.
    """
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 -- libraries and a task's own code raise what they like
        warn(f"{picture} could not be drawn ({described(error)}); it is left out, and the numbers are complete")
        return None


@functools.cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())
