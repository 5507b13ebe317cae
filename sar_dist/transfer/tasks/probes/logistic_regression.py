"""Logistic regression on frozen features (``logreg``), as the small sets of the transfer literature are scored.

Oquab et al. 2023 (DINOv2), eval/log_regression.py: L2-regularised, C among 45 values by accuracy on a random 10 % of the
training split, then fitted again on all of it.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, make_folder, parse_json
from sar_dist.progress import Progress
from sar_dist.transfer import (
    TOP,
    Backbone,
    ClassificationScores,
    Outcome,
    TransferSettings,
    TransferTask,
    described,
)
from sar_dist.transfer.tasks import describe_eval_transform, top_classes
from sar_dist.transfer.tasks.probes.data import ProbeData, frozen_tokens, hold_out, open_probe_data, say_unseen
from sar_dist.transfer.tasks.probes.figures import sweep_figure
from sar_dist.transfer.tasks.probes.logistic_solvers import LogisticRegressionFit, Solver, fit_logistic_regression

INVERSE_STRENGTHS = tuple(float(value) for value in 10 ** np.linspace(-6, 5, 45))  # C
_SCORED_BY_CLASS = re.compile(r"(^|[^a-z])(flowers|pets?)([^a-z]|$)")

Metric = Literal["top1", "mean_per_class"]


class LogisticRegressionSettings(TransferSettings):
    """Settings of ``logreg``."""

    solver: Literal["auto", "sklearn", "torch"] = Field(
        "auto", description="sklearn on the CPU, torch's L-BFGS on a GPU; auto: torch where there is a GPU"
    )
    held_out: float = Field(0.1, gt=0, lt=1, description="share of the training split on which C is chosen")
    max_iterations: int = Field(1000, ge=1, description="of L-BFGS, at most")
    tolerance: float = Field(1e-12, gt=0, description="L-BFGS stops when no element of the gradient is larger")
    metric: Literal["auto", "top1", "mean_per_class"] = Field(
        "auto", description="what chooses C and is quoted; auto: mean_per_class for Pets and Flowers, top1 otherwise"
    )
    random_baseline: bool = Field(True, description="also score the same architecture with random weights")


@dataclass(frozen=True)
class _Scored:
    """What one backbone gave: metrics, the scores on the validation split, the sweep, the final fit and its C."""

    metrics: dict[str, float]
    scores: ClassificationScores
    sweep: list[dict[str, Any]]
    chosen: int
    fit: LogisticRegressionFit


class LogisticRegressionProbe(TransferTask[LogisticRegressionSettings, ProbeData]):
    """L2-regularised logistic regression on frozen [CLS] features."""

    name = "logreg"
    summary, data_help = described("logreg")
    data_folder = "cifar10"
    settings_type = LogisticRegressionSettings

    @functools.cached_property
    def solver(self) -> Solver:
        """What fits."""
        settings = self.job.settings
        return settings.solver if settings.solver != "auto" else default_solver(self.job.device.type)

    @functools.cached_property
    def metric(self) -> Metric:
        """What chooses C and is quoted."""
        settings = self.job.settings
        return settings.metric if settings.metric != "auto" else usual_metric(self.job.data)

    def prepare(self) -> ProbeData:
        settings = self.job.settings
        return open_probe_data(self.job.data, settings.limit, self.data_help, settings.label, self.job.say)

    def run(self, prepared: ProbeData) -> Outcome:
        job, settings = self.job, self.job.settings
        scored = self._score(prepared, job.backbone, "trained")
        scores = scored.scores
        baselines = {"chance": scores.chance}
        if settings.random_baseline:
            job.say("baseline: the same architecture with random weights")
            random = self._score(prepared, job.backbone.randomly_initialised(settings.seed), "random")
            baselines["random backbone"] = random.metrics
        names = prepared.class_names(scores.classes)
        points = [(entry["C"], entry[self.metric]) for entry in scored.sweep]
        title = f"logistic regression, {self.metric} on {100 * settings.held_out:g} % of the training split"
        return Outcome(
            metrics=scored.metrics,
            primary=self.metric,
            samples=scores.samples,
            skipped=scores.skipped,
            protocol=self._protocol(scored),
            baselines=baselines,
            figures={
                "sweep": lambda: sweep_figure(
                    {"held out": points}, points[scored.chosen], title, "C, inverse regularization"
                ),
                **scores.figures(names, "logistic regression"),
            },
            tables={"classes": scores.table(names), "sweep": scored.sweep},
        )

    def _score(self, data: ProbeData, backbone: Backbone, name: str) -> _Scored:
        train = frozen_tokens(self.job, backbone, data.train, "train").good()
        val = frozen_tokens(self.job, backbone, data.val, "val")
        classes = data.count_classes(np.concatenate([train.labels, val.labels]))
        if backbone is self.job.backbone:
            say_unseen(self.job, train.labels, val.labels)
        features = train.values["tokens"][:, -1]
        sweep = self._sweep(features, train.labels, classes, self.job.out / "sweep" / name)
        chosen = choose([entry[self.metric] for entry in sweep])
        fit = self._fit(features, train.labels, chosen)
        self.job.say(
            f"C = {INVERSE_STRENGTHS[chosen]:.3g}: {self.metric} {sweep[chosen][self.metric]:.2f} % on held-out samples"
        )
        scores = ClassificationScores.of(ranked_classes(fit, val.values["tokens"][:, -1]), val, classes)
        metrics = {**scores.metrics, f"held_out_{self.metric}": sweep[chosen][self.metric]}
        return _Scored(metrics, scores, sweep, chosen, fit)

    def _sweep(
        self, features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, folder: Path
    ) -> list[dict[str, Any]]:
        """Scores on held-out samples for each C, shared among the processes; what is stored in ``folder`` is read."""
        fitted, held = hold_out(len(labels), self.job.settings.held_out, self.job.settings.seed)
        if distributed.is_main():
            make_folder(folder)
        distributed.barrier()
        mine = range(distributed.rank(), len(INVERSE_STRENGTHS), distributed.world_size())
        entries: dict[int, dict[str, Any]] = {}
        progress = Progress("logistic regression", len(mine), "values of C", self.job.say)
        for number in mine:
            entry = _read_entry(folder / f"{number:02d}.json")
            if entry is None:
                fit = self._fit(features[fitted], labels[fitted], number)
                order, unread = ranked_classes(fit, features[held]), np.zeros(len(held), dtype=bool)
                found = ClassificationScores(order, labels[held], unread, classes).metrics
                entry = {"C": INVERSE_STRENGTHS[number], "converged": fit.converged, **found}
                with atomic_write(folder / f"{number:02d}.json") as file:
                    file.write(json.dumps(entry).encode())
            entries[number] = entry
            progress.show(len(entries), functools.partial(_describe, entry))
        merged = {number: entry for part in distributed.gather_objects(entries) for number, entry in part.items()}
        return [merged[number] for number in range(len(INVERSE_STRENGTHS))]

    def _fit(self, features: NDArray[np.float32], labels: NDArray[np.int64], number: int) -> LogisticRegressionFit:
        return fit_logistic_regression(
            features,
            labels,
            INVERSE_STRENGTHS[number],
            solver=self.solver,
            tolerance=self.job.settings.tolerance,
            max_iterations=self.job.settings.max_iterations,
            device=self.job.device,
        )

    def _protocol(self, scored: _Scored) -> dict[str, Any]:
        backbone, settings = self.job.backbone, self.job.settings
        return {
            "source": "logistic regression of DINOv2 (Oquab et al. 2023, eval/log_regression.py)",
            "features": f"{'[CLS]' if backbone.has_class_token else 'mean patch token'} of the last block after the final norm",
            "transform": describe_eval_transform(backbone.image_size, backbone.augment),
            "solver": self.solver,
            "arithmetic": "float64",
            "C": INVERSE_STRENGTHS[scored.chosen],
            "C_grid": "45 values, 10 ** linspace(-6, 5)",
            "C_at_the_end_of_the_grid": scored.chosen in (0, len(INVERSE_STRENGTHS) - 1),
            "C_chosen_by": f"{self.metric} on a random {100 * settings.held_out:g} % of the training split, then refit on all",
            "fits_that_reached_max_iterations": sum(not entry["converged"] for entry in scored.sweep),
            "final_fit_iterations": scored.fit.iterations,
            "final_fit_converged": scored.fit.converged,
        }


def _describe(entry: dict[str, Any]) -> str:
    return f"C = {entry['C']:.3g}: top-1 {entry['top1']:.2f} % on held-out samples"


def default_solver(device_type: str) -> Solver:
    """torch's on a GPU, scikit-learn's elsewhere."""
    return "torch" if device_type == "cuda" else "sklearn"


def usual_metric(data: Path) -> Metric:
    """What the literature quotes for the set at ``data``, going by the names of its folders."""
    names = [data.resolve().name, *(entry.name for entry in data.iterdir() if entry.is_dir())]
    by_class = any(_SCORED_BY_CLASS.search(name.lower()) for name in names)
    return "mean_per_class" if by_class else "top1"


def choose(scores: list[float]) -> int:
    """Place of the highest score; of equal ones the first, which is the strongest regularization."""
    return int(np.argmax(scores))


def ranked_classes(fit: LogisticRegressionFit, features: NDArray[np.float32]) -> NDArray[np.int64]:
    """(n, up to 5) classes, best first."""
    logits = fit.decide(features)
    ranked: NDArray[np.int64] = fit.labels[top_classes(logits, min(TOP, logits.shape[1]))]
    return ranked


def _read_entry(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        entry: dict[str, Any] = parse_json(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); remove it and start again") from error
    return entry
