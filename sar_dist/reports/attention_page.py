"""Attention pictures as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1540px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; overflow-wrap: anywhere; }
img { width: 100%; border: 1px solid #ddd; } p { max-width: 60rem; }
table { border-collapse: collapse; margin: .5rem 0; } .wide { overflow-x: auto; }
th, td { padding: .15rem .7rem; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; }
"""

EXPLANATION = (
    "For each head of the last block: the similarity of the [CLS] query with every patch key; the patches above its "
    "mean; their 8-connected components, in the order of their mass; and these over the image. The spatial entropy H "
    "is 0 when all of the mass lies in one component and grows as it is spread over several."
)


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


def _section(section: PictureSection) -> str:
    def row(name: str, cells: Sequence[str]) -> str:
        return f"<tr><th>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

    title = html.escape(section.title)
    mean = sum(section.entropies) / len(section.entropies)
    heads = [str(head) for head in range(len(section.entropies))]
    return "\n".join(
        (
            f"<h2>{title}</h2>",
            f'<img alt="attention of {title}" src="data:image/png;base64,{base64.b64encode(section.png).decode()}">',
            '<div class="wide"><table>',
            row("head", [*heads, "mean"]),
            row("H (nats)", [*(f"{value:.3f}" for value in section.entropies), f"{mean:.3f}"]),
            row("components", [*map(str, section.components), f"{sum(section.components) / len(heads):.1f}"]),
            "</table></div>",
        )
    )


def attention_page(title: str, sections: Sequence[PictureSection]) -> str:
    """The whole page as HTML, with every picture inside it."""
    escaped = html.escape(title)
    return "\n".join(
        (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escaped}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escaped}</h1><p>{html.escape(EXPLANATION)}</p>",
            *map(_section, sections),
            "</body></html>\n",
        )
    )
