"""The table of everything that a run logs, from which charts, panels, final figures, experiments and docs are derived.

A new quantity is one entry here and the place that computes it; a term of the loss brings its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sar_dist.observe.step_timer import MEASURED
from sar_dist.quantities import Quantity, with_unknown_terms
from sar_dist.terms import registered_quantities

_LOSS, _TOP1, _IMAGES, _SHARES = (
    ("Learning", "loss"),
    ("Learning", "top-1 (%)"),
    ("Speed", "images per second"),
    ("Speed", "shares of the time"),
)

_LEARNING = (
    Quantity("epoch", "train", "passes over the training set so far", summed_up={"epochs": "last"}),
    Quantity(
        "loss",
        "train",
        "what is backpropagated: `loss_cls` + the sum over the terms of `NAME_weight` x `loss_NAME`",
        chart=_LOSS,
        progress=("loss", ""),
    ),
    Quantity(
        "loss_cls",
        "train",
        "loss of the classification (`optim.loss`), nats",
        label="cross-entropy",
        unit="nats",
        chart=_LOSS,
        panel=True,
        summed_up={"training loss": "last"},
        experiment=True,
    ),
    Quantity(
        "loss_cls",
        "val",
        "cross-entropy of the decodable images, nats",
        label="cross-entropy",
        unit="nats",
        chart=_LOSS,
        panel=True,
        higher_is_better=False,
        summed_up={"validation loss": "last"},
        experiment=True,
    ),
    Quantity(
        "top1",
        "val",
        "images whose most probable class is right, percent of all",
        label="top-1",
        unit="%",
        chart=_TOP1,
        panel=True,
        higher_is_better=True,
        summed_up={"validation top-1 %": "last", "best validation top-1 %": "best"},
        experiment=True,
    ),
    Quantity(
        "top1",
        "val_ema",
        "",
        label="top-1",
        unit="%",
        chart=_TOP1,
        panel=True,
        higher_is_better=True,
        summed_up={"validation top-1 %, averaged weights": "last"},
    ),
    Quantity(
        "top5",
        "val",
        "the same for the five most probable classes",
        label="top-5",
        unit="%",
        higher_is_better=True,
        summed_up={"validation top-5 %": "last"},
    ),
    Quantity("images", "val", "images that were scored: all of the set"),
    Quantity("bad_images", "val", "those that could not be decoded, counted as wrong"),
)

_OPTIMIZATION = (
    Quantity(
        "learning_rate",
        "train",
        "largest of the parameter groups, at this step",
        label="learning rate",
        chart=("Optimization", "learning rate"),
        panel=True,
    ),
    Quantity(
        "image_size",
        "train",
        "side of the images of the last step, pixels; of runs with `model.train_sizes`",
        chart=("Optimization", "size of the training images"),
    ),
    Quantity(
        "gradient_norm",
        "train",
        "global norm before clipping, of the last step",
        label="gradient norm before clipping",
        chart=("Optimization", "gradient norm"),
        panel=True,
        scale="wide",
    ),
    Quantity(
        "skipped_steps",
        "train",
        "steps skipped because a gradient was not finite, so far",
        chart=("Optimization", "skipped steps"),
        summed_up={"skipped steps": "last"},
    ),
    Quantity(
        "bad_images",
        "train",
        "images that could not be decoded and were replaced, so far",
        summed_up={"replaced images": "last"},
    ),
)

_SPEED = (
    Quantity(
        "images_per_second",
        "train",
        "over all processes; validation, checkpoints and figures are left out",
        label="images per second",
        chart=_IMAGES,
        panel=True,
        scale="from_zero",
        higher_is_better=True,
        summed_up={"images per second, median": "median"},
        progress=("img/s", ""),
    ),
    Quantity("images_per_second_per_process", "train", "the same, divided by the number of processes", chart=_IMAGES),
    Quantity(
        "data_wait_share",
        "train",
        "share of the time in which rank 0 waited for data, 0 to 1",
        label="share of time waiting for data",
        chart=_SHARES,
        panel=True,
        scale="share",
        summed_up={"waiting for data %, median": "median"},
        progress=("data wait", ".0%"),
    ),
    Quantity(
        "mfu",
        "train",
        "model FLOPs utilisation, see below; absent where the peak of the device is not known",
        label="model FLOPs utilisation",
        chart=_SHARES,
        panel=True,
        scale="share",
        summed_up={"MFU %, median": "median"},
        progress=("MFU", ".1%"),
    ),
    Quantity(
        "mfu_of_matmul",
        "train",
        "the same on a CPU, where the peak is the speed of a matrix product",
        chart=_SHARES,
        progress=("MFU (of matmul)", ".1%"),
    ),
    Quantity(
        "step_seconds",
        "train",
        "mean time of an optimizer step, with all its micro-batches",
        chart=("Speed", "seconds per step"),
    ),
    *(Quantity(part, "step_seconds", "", chart=("Speed", "where the seconds of a step go")) for part in MEASURED),
    Quantity(
        "peak_memory_gib",
        "train",
        "most memory so far on rank 0: allocated on its CUDA device, or resident in its process on a CPU",
        chart=("Speed", "peak memory (GiB)"),
        summed_up={"peak memory GiB": "last"},
    ),
)

_IMAGES_OF = "images_of_"

QUANTITIES: tuple[Quantity, ...] = (*_LEARNING, *registered_quantities(), *_OPTIMIZATION, *_SPEED)


def set_quantities(names: Sequence[str]) -> tuple[Quantity, ...]:
    """What is logged of several training sets, by their names; nothing of one."""
    chart = ("Learning", "training images of each data set")
    return tuple(
        Quantity(f"{_IMAGES_OF}{name}", "data", "", chart=chart, summed_up={f"training images of {name}": "last"})
        for name in (names if len(names) > 1 else ())
    )


def set_values(images: Mapping[str, int]) -> dict[str, float]:
    """The numbers of training images by name of their set, as they are logged."""
    return {f"{_IMAGES_OF}{name}": float(count) for name, count in images.items()}


def known_quantities(declared: Iterable[Quantity]) -> tuple[Quantity, ...]:
    """The table and what the terms of a run declare, such as those of a user's own file."""
    return (*QUANTITIES, *(quantity for quantity in declared if quantity not in QUANTITIES))


def quantities_in(records: Iterable[Mapping[str, Any]]) -> tuple[Quantity, ...]:
    """The table, and the terms and training sets that only these records of metrics.jsonl know."""
    names: dict[str, dict[str, None]] = {}
    for record in records:
        names.setdefault(record["prefix"], {}).update(dict.fromkeys(record))
    sets = [name.removeprefix(_IMAGES_OF) for name in names.get("data", ()) if name.startswith(_IMAGES_OF)]
    return (*with_unknown_terms(QUANTITIES, names.get("train", ())), *set_quantities(sets))


def quantity_rows(prefix: str) -> list[str]:
    """The lines of a table of docs/observability.md: every quantity of a prefix and its meaning."""
    rows = [f"| `{quantity.key}` | {quantity.meaning} |" for quantity in QUANTITIES if quantity.prefix == prefix]
    return ["| name | meaning |", "|---|---|", *rows]


def panel_title(curves: Sequence[Quantity]) -> str:
    """What is drawn together: the title, with "validation" where training does not measure it."""
    validated = all(curve.prefix.startswith("val") for curve in curves)
    return f"{'validation ' if validated else ''}{curves[0].title}"
