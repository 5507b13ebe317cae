"""What a logged number is: one entry says where it is shown and how, and everything that shows numbers reads it there.

The table itself is ``sar_dist.observe.QUANTITIES``: the trainer's own quantities, and those that every registered term
of the loss brings with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Scale = Literal["plain", "wide", "from_zero", "share"]
SummingUp = Literal["last", "best", "median"]
BY_HEAD = "_block{block}_head{head}"


@dataclass(frozen=True)
class Quantity:
    """A number that a run logs under ``prefix/key``.

    Attributes:
        key: its name in the log; with ``{block}`` and ``{head}`` in it, a number for each head of each tapped block.
        prefix: part of the program: "train", "val" (live weights), "val_ema" (averaged weights), "step_seconds".
        meaning: its row of docs/observability.md.
        label: what people call it, without the word training or validation. Quantities with the same label share a
            panel of a report.
        unit: of the label; empty for a plain number.
        chart: category and title of its chart on TensorBoard's first page.
        panel: whether reports draw it.
        scale: how it is drawn: "wide", logarithmic where values span orders of magnitude; "from_zero"; "share", of 1 and
            shown in percent.
        higher_is_better: which way is up; None where a difference between runs says nothing about the method.
        summed_up: rows of the final figures by their label, each with how it follows from the curve.
        progress: name and format of the number in the progress line.
        experiment: whether experiments draw it.
    """

    key: str
    prefix: str
    meaning: str
    label: str = ""
    unit: str = ""
    chart: tuple[str, str] | None = None
    panel: bool = False
    scale: Scale = "plain"
    higher_is_better: bool | None = None
    summed_up: Mapping[str, SummingUp] = field(default_factory=dict)
    progress: tuple[str, str] | None = None
    experiment: bool = False

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def by_head(self) -> bool:
        """A number for each head."""
        return self.key.endswith(BY_HEAD)

    @property
    def pattern(self) -> str:
        """The regular expression of its tags."""
        if self.by_head:
            return rf"^{self.prefix}/{self.family}\d+_head\d+$"
        return f"^{self.prefix}/{self.key}$"

    @property
    def family(self) -> str:
        """How the names of the heads' numbers begin, such as ``entropy_block``."""
        return self.key.partition("{")[0]


def term_quantities(name: str, *, label: str = "", unit: str = "") -> tuple[Quantity, ...]:
    """What every term of the loss logs: its loss, its value on the validation set, over all and by head, its weight.

    Args:
        name: of the term, as in ``loss_NAME`` and ``NAME_weight``.
        label: what people call it; by default the name with spaces.
        unit: of its values.
    """
    short = name.replace("_", " ")
    label = label or short
    return (
        Quantity(
            f"loss_{name}",
            "train",
            f"mean {label} over images, heads and tapped blocks" + (f", {unit}" if unit else ""),
            label=label,
            unit=unit,
            chart=(term_category(label, unit), "mean"),
            panel=True,
            progress=(short, ""),
        ),
        *validation_quantities(
            name,
            f"mean {label}, as above",
            label=label,
            unit=unit,
            charts=(term_category(label, unit), "mean", "validation, by head"),
            summed_up={f"validation {short}" + (f", {unit}" if unit else ""): "last"},
        ),
        Quantity(
            f"{name}_weight",
            "train",
            f"weight of the {short} at this step",
            label=f"weight of the {short} in the loss",
            chart=("Optimization", f"weight of the {short}"),
            panel=True,
            experiment=True,
        ),
    )


def validation_quantities(
    key: str,
    meaning: str,
    *,
    label: str,
    unit: str = "",
    charts: tuple[str, str, str],
    summed_up: Mapping[str, SummingUp],
    higher_is_better: bool = False,
) -> tuple[Quantity, ...]:
    """The mean over the validation set of what a term measures in each image, also of the averaged weights and by head.

    Args:
        key, meaning, label, unit, summed_up, higher_is_better: as in ``Quantity``.
        charts: category, title of the mean's chart, title of the heads' chart.
    """
    category, title, title_by_head = charts
    return (
        Quantity(
            key,
            "val",
            meaning,
            label=label,
            unit=unit,
            chart=(category, title),
            panel=True,
            higher_is_better=higher_is_better,
            summed_up=summed_up,
            experiment=True,
        ),
        Quantity(key, "val_ema", meaning, label=label, unit=unit, chart=(category, title)),
        Quantity(
            f"{key}{BY_HEAD}",
            "val",
            f"`{key}` of one head, such as `{key}{BY_HEAD.format(block=11, head=3)}`",
            label=label,
            unit=unit,
            chart=(category, title_by_head),
            experiment=True,
        ),
    )


def term_category(label: str, unit: str = "") -> str:
    """The category of a term's charts, such as "Spatial entropy (nats)"."""
    return label[:1].upper() + label[1:] + (f" ({unit})" if unit else "")


def with_unknown_terms(quantities: Iterable[Quantity], names: Iterable[str]) -> tuple[Quantity, ...]:
    """The quantities, and those of terms that only the log knows: of a user's own file, which need not be at hand here.

    Args:
        quantities: what is known.
        names: the names that a run logged in training; a ``loss_NAME`` that is not known is a term's.
    """
    known = tuple(quantities)
    losses = {quantity.key for quantity in known if quantity.prefix == "train"}
    unknown = dict.fromkeys(name for name in names if name.startswith("loss_") and name not in losses)
    return (*known, *(quantity for name in unknown for quantity in term_quantities(name.removeprefix("loss_"))))
