"""Attention pictures as one HTML page that needs no other file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sar_dist.reports.rendering import Headline, Picture, TextTable, render_page


@dataclass(frozen=True)
class PictureSection:
    """One image of the page.

    Attributes:
        title: heading, such as the file name.
        png: the picture, as the bytes of a PNG file.
        entropies: spatial entropy of each head, nats.
        components: number of components of each head.
    """

    title: str
    png: bytes
    entropies: Sequence[float]
    components: Sequence[int]


def attention_page(title: str, sections: Sequence[PictureSection]) -> str:
    """The whole page as HTML, with every picture inside it."""
    entropies = [statistics.fmean(section.entropies) for section in sections]
    components = [statistics.fmean(section.components) for section in sections]
    headlines = [
        Headline("images", str(len(sections))),
        Headline("spatial entropy H", f"{statistics.fmean(entropies):.3f}", "nats, mean of images and heads"),
        Headline("components", f"{statistics.fmean(components):.1f}", "mean of images and heads"),
    ]
    shown = [(_picture(section), _table(section)) for section in sections]
    return render_page("attention.html.j2", title=title, headlines=headlines, sections=shown)


def _picture(section: PictureSection) -> Picture:
    alt = f"attention of the {len(section.entropies)} heads on {section.title}"
    return Picture(section.title, alt, section.png)


def _table(section: PictureSection) -> TextTable:
    heads = [str(head) for head in range(len(section.entropies))]
    entropies = [f"{value:.3f}" for value in (*section.entropies, statistics.fmean(section.entropies))]
    components = [*map(str, section.components), f"{statistics.fmean(section.components):.1f}"]
    rows = [["H (nats)", *entropies], ["components", *components]]
    return TextTable(section.title, ["head", *heads, "mean"], rows)
