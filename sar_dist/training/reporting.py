"""What a run says about itself: the progress line, the line after a validation, the last words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sar_dist.quantities import Quantity
from sar_dist.training.loader_stages import StageCosts
from sar_dist.training.profiling import time_shares
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.state import TrainState

_WAITING_SHARE = 0.05


class DataAdvice:
    """Says once in a run that training waits for data, and what would help most.

    Args:
        measure: measures on the run's own images where the loader's time goes.
    """

    def __init__(self, measure: Callable[[], StageCosts]) -> None:
        self._said = False
        self._measure = measure

    def after_interval(self, metrics: Mapping[str, float]) -> str | None:
        """The line for the log, or None. ``metrics`` are a logging interval's."""
        share = metrics.get("data_wait_share", 0.0)
        if self._said or share <= _WAITING_SHARE:
            return None
        self._said = True
        costs = self._measure()
        cores = "give each process more cores, which raises data.workers by itself"
        best = f"a core's time goes into (ms an image): {costs}; {cores}"
        if costs.remedies:
            remedy = costs.remedies[0]
            best = f"{remedy.what}: {1 - remedy.milliseconds / costs.total:.0%} less work for the cores by measurement; or {cores}"
        return (
            f"warning: training waited {share:.0%} of the time for data: {best}; "
            "tools/benchmark_loader.py says how many are needed"
        )


def progress_values(
    metrics: Mapping[str, float], step_seconds: Mapping[str, float], quantities: Iterable[Quantity]
) -> dict[str, str | float]:
    """The few of an interval's metrics, and of the parts of a step's time, that belong into the progress line."""
    shown: dict[str, str | float] = {}
    for quantity in quantities:
        if quantity.progress is not None and quantity.prefix == "train" and quantity.key in metrics:
            name, form = quantity.progress
            shown[name] = format(metrics[quantity.key], form) if form else metrics[quantity.key]
    if step_seconds:
        shown["time:"] = time_shares(step_seconds)
    return shown


def validation_line(
    step: int, live: Mapping[str, float], average: Mapping[str, float] | None, terms: Sequence[str]
) -> str:
    """One line for a validation of the live weights and, where there is one, of their moving average.

    Args:
        step: optimizer steps done.
        live, average: metrics of both.
        terms: names of the terms, whose values are said.
    """
    averaged = "" if average is None else f" (average {average['top1']:.2f} %)"
    measured = "".join(f", {name.replace('_', ' ')} {live[name]:.4f}" for name in terms if name in live)
    bad = f", {live['bad_images']:.0f} of them unreadable and counted as wrong" if live["bad_images"] else ""
    return f"step {step}: validation top-1 {live['top1']:.2f} %{averaged}{measured}, {live['images']:.0f} images{bad}"


def closing_lines(
    state: TrainState, skipped_steps: int, directory: RunDirectory, unrecorded_images: int = 0
) -> list[str]:
    """The end of a finished run: its result, what was skipped, and where everything is."""
    but = f", without {unrecorded_images} that could not be written" if unrecorded_images else ""
    bad_list = f" (listed in {directory.bad_images}{but})" if state.bad_images else ""
    return [
        f"finished {state.step} steps, {state.images} images; best top-1 {state.best_top1:.2f} % after step {state.best_step}",
        *([f"  images by set     {_listed(state.images_by_set)}"] if state.images_by_set else []),
        f"  replaced images   {state.bad_images}{bad_list}",
        f"  skipped steps     {skipped_steps}",
        f"  metrics           {directory.metrics}",
        *(
            [f"  TensorBoard       tensorboard --logdir {directory.tensorboard}"]
            if directory.tensorboard.exists()
            else []
        ),
        f"  checkpoints       {directory.checkpoints}",
        *([f"  attention figures {directory.figures}"] if directory.figures.exists() else []),
    ]


def _listed(images: Mapping[str, int]) -> str:
    total = sum(images.values())
    return ", ".join(f"{name} {count} ({count / total:.2%})" for name, count in images.items())
