"""The charts of TensorBoard's "Custom Scalars" tab: the story of a run on one page, from what it learns to how fast.

Each chart is a title and the tags that it draws together, as regular expressions.
"""

from __future__ import annotations

from collections.abc import Iterable

from sar_dist.observe.quantities import QUANTITIES
from sar_dist.quantities import Quantity

Charts = dict[str, dict[str, list[str]]]


def charts_of(quantities: Iterable[Quantity]) -> Charts:
    """Category -> title -> tags, each in the order in which it first appears among the quantities."""
    charts: Charts = {}
    for quantity in quantities:
        if quantity.chart is not None:
            category, title = quantity.chart
            charts.setdefault(category, {}).setdefault(title, []).append(quantity.pattern)
    return charts


CHARTS = charts_of(QUANTITIES)


def custom_scalars_layout(quantities: Iterable[Quantity] = QUANTITIES) -> dict[str, dict[str, list[object]]]:
    """The charts as ``SummaryWriter.add_custom_scalars`` wants them."""
    return {
        category: {title: ["Multiline", tags] for title, tags in charts.items()}
        for category, charts in charts_of(quantities).items()
    }
