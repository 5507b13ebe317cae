"""Names in pictures: what matplotlib's font has no letter for is drawn as an escape, instead of a box and a warning."""

from __future__ import annotations

import functools

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from sar_dist.legible import escaped, legible


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


@functools.cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())
