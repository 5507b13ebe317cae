"""Lines of square pictures with titles, laid out in inches so that nothing overlaps whatever the number of pictures."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from sar_dist.observe.drawable import drawable

FloatArray = npt.NDArray[np.float64]

FIGURE_INCHES = 15.0
FIGURE_DPI = 100
GAP_INCHES = 0.08
TITLE_LINE_INCHES = 0.16
TITLE_PAD_INCHES = 0.1
LEGEND_INCHES = 0.42
SWATCH_INCHES = 0.16
TEXT_POINTS = 9
NARROW_TEXT_POINTS = 8
NARROW_COLUMNS = 8  # with that many, "head 12: H 1.70, 12 comp." fits its panel in the smaller type only


def shorten_text(text: str, points: float, inches: float) -> str:
    """Cut one line of ``text``, set in ``points``, to a width in inches, with an ellipsis where something is lost."""
    text = drawable(text)
    font = FontProperties(size=points)

    def fits(candidate: str) -> bool:
        return text_to_path.get_text_width_height_descent(candidate, font, ismath=False)[0] <= inches * 72

    if fits(text):
        return text
    kept = bisect_left(range(len(text)), True, key=lambda length: not fits(f"{text[:length]}…"))
    return f"{text[: max(0, kept - 1)].rstrip()}…"


class PanelGrid:
    """A figure 1500 pixels wide, filled with square panels by line and column from the top left.

    Args:
        columns: panels in a line.
        title_lines: for each line of panels, how many lines of text fit above it.
        label_inches: width of a strip for line labels between the first and the second column.
    """

    def __init__(self, columns: int, title_lines: Sequence[int], *, label_inches: float = 0.0) -> None:
        self._panel = (FIGURE_INCHES - label_inches - GAP_INCHES) / columns - GAP_INCHES
        self._label = label_inches
        self._points = TEXT_POINTS if columns < NARROW_COLUMNS else NARROW_TEXT_POINTS
        titles = [lines * TITLE_LINE_INCHES + TITLE_PAD_INCHES for lines in title_lines]
        ends = np.cumsum([title + self._panel for title in titles])  # distance of each line's lower edge from the top
        self._height = float(ends[-1]) + LEGEND_INCHES
        self._bottoms = [self._height - float(end) for end in ends]
        self.figure = Figure(figsize=(FIGURE_INCHES, self._height), dpi=FIGURE_DPI, facecolor="white")

    def shorten(self, text: str) -> str:
        """Cut each line of ``text`` to what fits above a panel, with an ellipsis where something is lost."""
        return "\n".join(shorten_text(line, self._points, self._panel) for line in text.split("\n"))

    def _left(self, column: int) -> float:
        return GAP_INCHES + column * (self._panel + GAP_INCHES) + (self._label if column else 0.0)

    def panel(self, line: int, column: int, pixels: FloatArray, title: str = "") -> None:
        """Show ``pixels``, (height, width, 3) in [0, 1], stretched to the panel, under ``title``."""
        axes = self.figure.add_axes(
            (
                self._left(column) / FIGURE_INCHES,
                self._bottoms[line] / self._height,
                self._panel / FIGURE_INCHES,
                self._panel / self._height,
            )
        )
        axes.imshow(pixels, interpolation="nearest")
        axes.set_axis_off()
        # Class names and file names are not mathematics, whatever dollar signs they hold.
        axes.set_title(title, fontsize=self._points, pad=3, parse_math=False)

    def label(self, line: int, text: str) -> None:
        """Write ``text`` upwards in the strip beside the panels of a line."""
        self.figure.text(
            (self._left(1) - self._label / 2) / FIGURE_INCHES,
            (self._bottoms[line] + self._panel / 2) / self._height,
            text,
            fontsize=TEXT_POINTS,
            rotation=90,
            horizontalalignment="center",
            verticalalignment="center",
            parse_math=False,
        )

    def legend(self, text: str, colors: Sequence[str] = ()) -> None:
        """A line at the bottom: a swatch of each colour, then ``text``."""
        bottom = (LEGEND_INCHES - SWATCH_INCHES) / 2
        left = 2 * GAP_INCHES
        for color in colors:
            corner = (left / FIGURE_INCHES, bottom / self._height)
            size = (SWATCH_INCHES / FIGURE_INCHES, SWATCH_INCHES / self._height)
            self.figure.add_artist(Rectangle(corner, *size, facecolor=color, edgecolor="none"))
            left += SWATCH_INCHES + 0.03
        self.figure.text(
            (left + GAP_INCHES) / FIGURE_INCHES,
            LEGEND_INCHES / 2 / self._height,
            text,
            fontsize=TEXT_POINTS,
            verticalalignment="center",
            parse_math=False,
        )
