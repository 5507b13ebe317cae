"""What an experiment is: one configuration, arms that change it, seeds, and evaluations of every run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from sar_dist.config import RunConfig, Settings
from sar_dist.errors import UserError, described
from sar_dist.validation import describe_problem

MOST_SEED = 2**63 - 1  # PyTorch's generators take no more
_OWN_KEYS = ("run.name", "run.dir", "run.seed")  # set for each run

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Arm(Settings):
    """One of the things that are compared: the base configuration with some keys changed."""

    name: str = Field(pattern=NAME, description="short name, a column of the tables")
    what: str = Field(description="what it is, in words")
    changes: dict[str, Any] = Field(default_factory=dict, description="dotted configuration keys and their values")
    optional: bool = Field(False, description="run only when it is asked for by name")
    against: tuple[str, ...] = Field((), description="arms that it is compared with, beside the baseline")
    seeds: tuple[Seed, ...] = Field((), description="its own seeds in the place of the experiment's")


class Evaluation(Settings):
    """One call of tools/transfer_eval.py for every run."""

    name: str = Field(pattern=NAME, description="short name, a folder of each run's results")
    task: str = Field(description="the task's name, as in tools/transfer_eval.py --list")
    data: str = Field(description="its data: as given, below $SAR_DIST_DATA or below data/")
    settings: dict[str, Any] = Field(default_factory=dict, description="key=value settings of the task")
    metrics: tuple[str, ...] = Field((), description="those that the tables show; none: the task's primary one")


class Measure(Settings):
    """A metric that the analysis was declared for before the runs."""

    metric: str = Field(description='its row in the tables, such as "knn: top1"')
    why: str = Field(description="what it stands for, and which way it would have to go")
    matters: float = Field(gt=0, description="smallest difference of means that would matter to a user")


class Analysis(Settings):
    """What decides, written down before the runs so that it cannot be chosen by their results.

    ``arm`` minus ``reference``, paired by seed, in every measure of ``primary``. A difference is established when both
    tests, Student's t and the exact permutation of signs, have p of at most ``level``, two-sided and after Holm's
    correction over the primary measures, with all the experiment's seeds. Everything else is secondary: intervals
    without a verdict.
    """

    arm: str
    reference: str
    primary: tuple[Measure, ...] = Field(min_length=1)
    level: float = Field(0.05, gt=0, lt=1, description="family-wise error rate of the primary measures")
    explored: tuple[int, ...] = Field((), description="seeds that suggested the comparison: also told without them")

    def least_p(self, pairs: int) -> float:
        """The smallest p that the permutation test of so many pairs can have after Holm's correction: all signs equal."""
        return min(1.0, len(self.primary) * 2.0 ** (1 - pairs))


def term_arm(base: RunConfig, onto: Arm, term: str, weight: float) -> Arm:
    """The arm ``onto`` with one more term of the loss, which rises over the epochs that the entropy's weight does.

    Args:
        base: of the experiment.
        onto: arm to which the term is added, and with which it is compared.
        term: registered name or import path.
        weight: of the term.
    """
    entry = {
        "name": term,
        "weight": weight,
        "ramp_epochs": base.regularizer.ramp_epochs,
        "unit": base.regularizer.unit,
    }
    return Arm(
        name=f"{onto.name}-{term.rpartition(':')[2]}-{weight:g}",
        what=f"{onto.what}, {term.rpartition(':')[2]} at weight {weight:g}",
        changes={**onto.changes, "terms": [*onto.changes.get("terms", base.terms), entry]},
        against=(onto.name,),
    )


class Experiment(Settings):
    """A grid of arms x seeds, trained and evaluated alike.

    ``arms`` beginning with the baseline, to which the others are compared seed by seed.
    """

    name: str = Field(pattern=NAME)
    title: str
    base: RunConfig
    arms: tuple[Arm, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    evaluations: tuple[Evaluation, ...] = ()
    analysis: tuple[Analysis, ...] = Field((), description="one comparison that counts each, a family of tests each")

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        for kind, names in (("arm", self.arms), ("evaluation", self.evaluations)):
            taken = [entry.name for entry in names]  # type: ignore[attr-defined]
            if len(set(taken)) < len(taken):
                raise ValueError(f"two {kind}s have the same name: {', '.join(taken)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is named twice: {self.seeds}")
        if self.arms[0].optional:
            raise ValueError(f"the first arm, {self.arms[0].name}, is the baseline and cannot be optional")
        for arm in self.arms:
            self._check_arm(arm)
            if unknown := set(arm.against) - {other.name for other in self.arms}:
                raise ValueError(f"arm {arm.name} is compared with {min(unknown)!r}, which is no arm")
        for analysis in self.analysis:
            if unknown := {analysis.arm, analysis.reference} - {arm.name for arm in self.arms}:
                raise ValueError(f"the analysis names {min(unknown)!r}, which is no arm")
        return self

    def _check_arm(self, arm: Arm) -> None:
        if own := [key for key in (*_OWN_KEYS, "run") if key in arm.changes]:
            raise ValueError(f"arm {arm.name} changes {own[0]}, which the experiment sets for each run; take it out")
        try:
            self.base.vary(arm.changes)
        except KeyError as error:
            raise ValueError(f"arm {arm.name}: unknown key {error.args[0]!r}") from error
        except ValidationError as error:
            raise ValueError(f"arm {arm.name}: {describe_problem(error, RunConfig)}") from error

    @property
    def baseline(self) -> Arm:
        """The arm to which the others are compared."""
        return self.arms[0]

    def select(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> tuple[list[Arm], list[int]]:
        """The arms and seeds with these names; none named: all but the optional arms, all seeds.

        Raises:
            UserError: there is no such arm. A seed may be any number: one more repetition of the experiment.
        """
        by_name = {arm.name: arm for arm in self.arms}
        unknown = [name for name in arms if name not in by_name]
        if unknown:
            raise UserError(f"experiment {self.name} has no arm {unknown[0]!r}; its arms are {', '.join(by_name)}")
        if wrong := [seed for seed in seeds if not 0 <= seed <= MOST_SEED]:
            raise UserError(f"a seed is 0 or more and at most {MOST_SEED}, not {wrong[0]}")
        chosen = [by_name[name] for name in dict.fromkeys(arms)] or [arm for arm in self.arms if not arm.optional]
        return chosen, list(dict.fromkeys(seeds)) or list(self.seeds)

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """The seeds that an arm is run with when none are named; none for an optional arm."""
        return () if arm.optional else arm.seeds or self.seeds

    def runs(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[tuple[Arm, int]]:
        """The runs of these arms and seeds, seed by seed, so that comparisons are complete early; see ``select``."""
        chosen, named = self.select(arms, seeds)
        own = {arm.name: tuple(named) if seeds else arm.seeds or self.seeds for arm in chosen}
        order = dict.fromkeys(seed for seed in (*named, *(seed for each in own.values() for seed in each)))
        return [(arm, seed) for seed in order for arm in chosen if seed in own[arm.name]]

    def with_term(self, onto: str, term: str, weight: float) -> Experiment:
        """This experiment with one more arm: the arm ``onto`` and a term of the loss, run without being asked for.

        Raises:
            UserError: there is no such arm or term, or the weight does not fit.
        """
        (arm,), _ = self.select([onto])
        try:
            return Experiment(**{**dict(self), "arms": (*self.arms, term_arm(self.base, arm, term, weight))})
        except ValidationError as error:
            raise UserError(f"{term}={weight:g} on {onto}: {describe_problem(error)}") from error

    def run_name(self, arm: Arm, seed: int) -> str:
        """Name of a run's directory."""
        return f"{arm.name}_seed{seed}"

    def run_config(self, arm: Arm, seed: int, folder: Path) -> RunConfig:
        """The full configuration of one run, which goes into ``folder``."""
        own = {"run.name": self.run_name(arm, seed), "run.dir": str(folder), "run.seed": seed}
        return self.base.vary({**arm.changes, **own})


def load_experiment(path: Path) -> Experiment:
    """Load a specification: a Python file that defines ``experiment() -> Experiment``.

    Raises:
        UserError: the file is missing, defines no experiment, or something in it does not fit.
    """
    if not path.is_file():
        raise UserError(f"no experiment file {path}; give one of configs/experiments/*.py")
    spec = importlib.util.spec_from_file_location(f"sar_dist_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; it has to define `def experiment() -> Experiment`")
    module = importlib.util.module_from_spec(spec)
    root = str(Path(__file__).parents[2])  # so that a specification can say `from configs import vit_b_in1k`
    sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "experiment"):
            raise UserError(f"{path} defines no experiment(); give one of configs/experiments/*.py")
        experiment = module.experiment()
    except ValidationError as error:
        raise UserError(f"{path}: {describe_problem(error)}") from error
    except UserError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the file is the user's own program, which can raise anything
        raise UserError(f"{path} cannot be loaded: {described(error)}") from error
    finally:
        if root in sys.path:  # which the file may have changed
            sys.path.remove(root)
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path}: experiment() must return an Experiment, not {type(experiment).__name__}")
    return experiment
