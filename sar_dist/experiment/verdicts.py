"""What the declared analysis says of the runs that are there: two tests for each primary measure, corrected, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sar_dist.experiment.results import Comparison, Results
from sar_dist.experiment.specification import Analysis, Measure
from sar_dist.paired_statistics import Difference, holm, paired_difference, permutation_p, student_p


@dataclass(frozen=True)
class Verdict:
    """One primary measure.

    Attributes:
        measure: what was measured.
        difference: of the two arms with the seeds of the specification; None without a pair.
        without_explored: the same without the seeds that suggested the comparison; None without a pair.
        student: p of Student's t after Holm's correction; None where it cannot be told.
        permutation: p of the permutation of signs after Holm's correction; None where it cannot be told.
        planned: number of seeds at which the analysis decides.
        level: family-wise error rate.
    """

    measure: Measure
    difference: Difference | None
    without_explored: Difference | None
    student: float | None
    permutation: float | None
    planned: int
    level: float

    @property
    def is_final(self) -> bool:
        """Whether all seeds are there."""
        return self.difference is not None and self.difference.count >= self.planned

    @property
    def is_established(self) -> bool:
        """Whether both tests reject, with all seeds."""
        tests = (self.student, self.permutation)
        return self.is_final and all(p is not None and p <= self.level for p in tests)

    @property
    def words(self) -> str:
        """The verdict, no more than the interval bears."""
        if self.difference is None or not self.is_final:
            count = 0 if self.difference is None else self.difference.count
            return f"interim, {count} of {self.planned} seeds: no verdict"
        low, high = self.difference.student or (-math.inf, math.inf)
        least, most = max(low, -high, 0.0), max(abs(low), abs(high))  # sizes that the interval holds
        matters = self.measure.matters
        if self.is_established:
            way = "higher" if self.difference.mean > 0 else "lower"
            if most < matters:
                return f"established: {way}, but by less than would matter"
            if least >= matters:
                return f"established: {way}, by as much as would matter"
            return f"established: {way}; whether by as much as would matter is open"
        if most < matters:
            return "no change shown; the interval holds none that would matter"
        return "no change shown; one that would matter is not ruled out"


def verdicts(results: Results, analysis: Analysis) -> list[Verdict]:
    """The verdict on every primary measure of a declared analysis.

    Only the seeds of the specification count: a seed that was added later, when results were known, is no part of it.
    """
    comparison = Comparison(analysis.arm, analysis.reference)
    arm = next(arm for arm in results.experiment.arms if arm.name == analysis.arm)
    planned = arm.seeds or results.experiment.seeds
    found = [_difference(results, measure, comparison, planned) for measure in analysis.primary]
    later = set(planned) - set(analysis.explored)
    return [
        Verdict(
            measure,
            difference,
            _difference(results, measure, comparison, later),
            student,
            permutation,
            len(planned),
            analysis.level,
        )
        for measure, difference, student, permutation in zip(
            analysis.primary,
            found,
            _corrected([student_p(each.values) if each else None for each in found]),
            _corrected([permutation_p(each.values) if each else None for each in found]),
            strict=True,
        )
    ]


def _difference(results: Results, measure: Measure, comparison: Comparison, seeds: Iterable[int]) -> Difference | None:
    by_arm, wanted = results.values.get(measure.metric, {}), set(seeds)
    first, second = (
        {seed: value for seed, value in by_arm.get(name, {}).items() if seed in wanted}
        for name in (comparison.arm, comparison.reference)
    )
    return paired_difference(first, second)


def _corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the whole family: a test that says nothing counts as one that does not reject."""
    return [
        corrected if given is not None else None
        for corrected, given in zip(holm([1.0 if p is None else p for p in p_values]), p_values, strict=True)
    ]
