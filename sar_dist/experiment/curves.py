"""Curves of an experiment: the mean over the seeds of each arm, with a band of one standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sar_dist.experiment.results import Results
from sar_dist.reports import (
    COLORS,
    COLUMNS,
    DPI,
    Chart,
    ChartBoard,
    ChartLine,
    ChartSeries,
    Picture,
    ReportedRun,
    further_axes,
    summarize,
)

FloatArray = NDArray[np.float64]

Curve = tuple[str, str, str]  # title, prefix and name


def curves_of(results: Results) -> list[Curve]:
    """What has a chart, a curve in some run: title, prefix and name."""
    words = {"train": "training ", "val": "validation "}
    runs = [run for by_seed in results.runs.values() for run in by_seed.values()]
    drawn = [
        quantity
        for quantity in results.quantities
        if quantity.experiment
        and not quantity.by_head
        and any(run.curve(quantity.prefix, quantity.key)[0] for run in runs)
    ]
    validated = {quantity.label for quantity in drawn if quantity.prefix == "val"}
    return [
        ((words[each.prefix] if each.label in validated else "") + each.title, each.prefix, each.key) for each in drawn
    ]


def head_curves_of(results: Results) -> list[tuple[str, str]]:
    """What has a chart by head: title, and how the names of its curves begin."""
    drawn = [quantity for quantity in results.quantities if quantity.experiment and quantity.by_head]
    return [(f"{each.label} of each head" + f", {each.unit}" * bool(each.unit), each.family) for each in drawn]


def curves_figure(results: Results) -> Figure:
    """One chart for each quantity, a colour for each arm, over epochs."""
    curves = curves_of(results)
    rows = max(1, math.ceil(len(curves) / COLUMNS))
    figure = Figure(figsize=(13, 3.1 * rows + 0.6), layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (title, prefix, name) in zip(axes, curves, strict=False):
        _prepare(axis, title)
        for arm, color in _colors(results).items():
            epochs, values = band(list(results.runs[arm].values()), prefix, name)
            _draw_band(axis, epochs, values, color)
    for axis in axes[len(curves) :]:
        axis.remove()
    figure.supxlabel("epoch", fontsize=11)
    handles = [
        Line2D([], [], color=color, linewidth=2, label=name)
        for name, color in zip(_arm_names(results), _colors(results).values(), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


def curves_board(results: Results, picture: Picture) -> ChartBoard:
    """The charts of ``curves_figure`` as those of a page; ``picture`` is that figure."""
    charts = []
    for title, prefix, name in curves_of(results):
        lines = []
        for number, arm in enumerate(results.arms):
            epochs, values = band(list(results.runs[arm.name].values()), prefix, name)
            if epochs.size:
                mean, deviation = mean_and_deviation(values)
                edges = ((mean - deviation).tolist(), (mean + deviation).tolist()) if len(values) > 1 else ([], [])
                lines.append(ChartLine(number, epochs.tolist(), mean.tolist(), "", *edges))
        charts.append(Chart(title, lines))
    series = [
        ChartSeries(name, color) for name, color in zip(_arm_names(results), _colors(results).values(), strict=True)
    ]
    axes = further_axes([list(results.runs[arm.name].values()) for arm in results.arms])
    return ChartBoard(picture.title, series, charts, "epoch", picture, kind="Arms", further_axes=axes)


def _arm_names(results: Results) -> list[str]:
    return [f"{arm.name}: {arm.what} ({len(results.runs[arm.name])} seeds)" for arm in results.arms]


def mean_and_deviation(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over the runs, each (n,), of values (runs, n); no deviation for one run is 0."""
    found = [summarize(column) for column in values.T.tolist()]
    return np.asarray([each.mean for each in found]), np.asarray([each.deviation or 0.0 for each in found])


def points_figure(results: Results) -> Figure | None:
    """A chart for each primary measure: a point for each seed, grey lines between those of one seed, a bar for the mean.

    None without a declared analysis or without values.
    """
    measures = dict.fromkeys(measure.metric for each in results.experiment.analysis for measure in each.primary)
    drawn = [metric for metric in measures if metric in results.values]
    if not drawn:
        return None
    rows = math.ceil(len(drawn) / COLUMNS)
    width = max(4.0, 0.75 * len(results.arms)) * min(COLUMNS, len(drawn))
    figure = Figure(figsize=(width, 3.6 * rows), layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, min(COLUMNS, len(drawn)), squeeze=False).ravel()
    for axis, metric in zip(axes, drawn, strict=False):
        _prepare(axis, metric)
        _draw_points(axis, results, metric)
    for axis in axes[len(drawn) :]:
        axis.remove()
    return figure


def _draw_points(axis: Axes, results: Results, metric: str) -> None:
    by_arm = results.values[metric]
    names = [arm.name for arm in results.arms if arm.name in by_arm]
    for seed in sorted({seed for name in names for seed in by_arm[name]}):
        places = [place for place, name in enumerate(names) if seed in by_arm[name]]
        axis.plot(places, [by_arm[names[place]][seed] for place in places], color="0.75", linewidth=0.8, zorder=1)
    colors = _colors(results)
    for place, name in enumerate(names):
        values = list(by_arm[name].values())
        axis.scatter([place] * len(values), values, color=colors[name], s=18, zorder=2)
        axis.hlines(summarize(values).mean, place - 0.25, place + 0.25, color=colors[name], linewidth=2.5, zorder=3)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=9)
    axis.set_xlim(-0.6, len(names) - 0.4)


def heads_figure(results: Results) -> Figure | None:
    """A row of charts for entropy and one for components, a chart for each arm, a line for each head; None without data.

    Heads have no identity across seeds: in each run they are put in order of their value at the end.
    """
    curves = head_curves_of(results)
    drawn = [entry for entry in curves if any(_head_names(runs, entry[1]) for runs in results.runs.values())]
    if not drawn:
        return None
    arms = _colors(results)
    figure = Figure(figsize=(3.3 * len(arms) + 0.5, 2.9 * len(drawn)), layout="constrained", dpi=DPI)
    axes = figure.subplots(len(drawn), len(arms), squeeze=False, sharey="row", sharex=True)
    for row, (title, start) in zip(axes, drawn, strict=True):
        for axis, (arm, color) in zip(row, arms.items(), strict=True):
            _prepare(axis, f"{arm}:\n{title}")
            for head in ordered_heads(results.runs[arm], start):
                _draw_band(axis, *head, color)
    figure.supxlabel("epoch; heads in order of their last value", fontsize=11)
    return figure


def band(runs: Sequence[ReportedRun], prefix: str, name: str) -> tuple[FloatArray, FloatArray]:
    """Epochs (n,) that all runs have a value at, and the values (runs, n); runs without the metric are left out."""
    curves = [run.curve(prefix, name) for run in runs]
    return _aligned([(np.asarray(x), np.asarray(y)) for x, y in curves if x])


def ordered_heads(runs: Mapping[int, ReportedRun], start: str) -> list[tuple[FloatArray, FloatArray]]:
    """For the lowest head of each run, the next one, ...: epochs (n,) and values (runs, n)."""
    by_run = []
    for run in runs.values():
        heads = [run.curve("val", name) for name in _head_names({0: run}, start)]
        by_run.append(sorted(heads, key=lambda curve: curve[1][-1]))
    return [
        _aligned([(np.asarray(x), np.asarray(y)) for x, y in places])
        for places in zip(*filter(None, by_run), strict=True)
    ]


def _head_names(runs: Mapping[int, ReportedRun], start: str) -> list[str]:
    return sorted({name for run in runs.values() for name in run.last("val") if name.startswith(start)})


def _aligned(curves: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    if not curves:
        return np.empty(0), np.empty((0, 0))
    common = sorted(set.intersection(*(set(x.round(6).tolist()) for x, _ in curves)))
    rows = [dict(zip(x.round(6).tolist(), y.tolist(), strict=True)) for x, y in curves]
    return np.asarray(common), np.asarray([[row[x] for x in common] for row in rows])


def _colors(results: Results) -> dict[str, str]:
    """The colour of an arm depends on its place in the specification: the same on every page."""
    places = {arm.name: number for number, arm in enumerate(results.experiment.arms)}
    return {arm.name: COLORS[places[arm.name] % len(COLORS)] for arm in results.arms}


def _prepare(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=10)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_band(axis: Axes, epochs: FloatArray, values: FloatArray, color: str) -> None:
    if not epochs.size:
        return
    mean, deviation = mean_and_deviation(values)
    axis.plot(epochs, mean, color=color, linewidth=1.8, marker="o" if len(epochs) < 25 else None, markersize=3)
    if len(values) > 1:
        axis.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.18, linewidth=0)
