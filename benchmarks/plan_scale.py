"""Cost of the sample plan on manifests of ImageNet's and of web size: a cold seek, a step, and memory of one worker.

    python benchmarks/plan_scale.py [--out FILE.json]

The manifests are synthetic: the plan needs the number of samples of each shard and nothing else. "seek" makes a new plan
and finds the samples of one rank's part of a random global batch, as a resumed worker does; "epoch change" is the first
batch of the next epoch; "memory" is what the plan holds after a thousand batches (tracemalloc), and the same per sample of
the data set. Then: what it takes for a mixture of several such sets to say which set a position is of, far into a run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import timeit
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sar_dist.data.order import BatchPlan, Mixture, PlanSettings, default_streams, window_samples
from sar_dist.data.shards import RECORD


@dataclass(frozen=True)
class Case:
    """A data set, and the ranks that share a global batch of 4096."""

    name: str
    samples: int
    shards: int
    world_size: int
    global_batch: int = 4096


CASES = (
    Case("ImageNet-1k", 1_281_167, 1024, 1),
    Case("ImageNet-1k", 1_281_167, 1024, 8),
    Case("100 M", 100_000_000, 80_000, 8),
    Case("100 M", 100_000_000, 80_000, 64),
    Case("100 M", 100_000_000, 80_000, 256),
)


@dataclass(frozen=True)
class Result:
    """Medians, milliseconds; memory in MiB, and in bytes per sample of the data set."""

    case: Case
    seek_ms: float
    step_ms: float
    epoch_change_ms: float
    memory_mib: float
    bytes_per_sample: float
    index_gib: float


def measure(case: Case, rounds: int) -> Result:
    """Measure one case, with rank 0's part of the global batch."""
    sizes = np.full(case.shards, case.samples // case.shards)
    sizes[: case.samples % case.shards] += 1
    streams = default_streams(case.global_batch)
    settings = PlanSettings(0, case.global_batch, streams, window_samples(sizes, 4.0))
    share = slice(0, streams // case.world_size)
    generator = random.Random(0)

    def new_plan() -> BatchPlan:
        return BatchPlan(sizes, settings, cached_windows=share.stop)

    def find(plan: BatchPlan, batch: int) -> None:
        epoch, step = plan.at(batch)
        epoch.samples(step, share)

    last = 300 * (case.samples // case.global_batch)
    seek = timed(rounds, lambda: find(new_plan(), generator.randrange(last)))
    plan = new_plan()
    first = generator.randrange(last)
    find(plan, first)
    numbers = iter(range(first + 1, last))
    step = timed(200, lambda: find(plan, next(numbers)))
    change = timed(rounds, lambda: find(plan, (generator.randrange(300)) * plan.steps_per_epoch))

    tracemalloc.start()
    plan = new_plan()
    for batch in range(plan.steps_per_epoch - 500, plan.steps_per_epoch + 500):
        find(plan, batch)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return Result(
        case,
        seek * 1e3,
        step * 1e3,
        change * 1e3,
        memory / 2**20,
        memory / case.samples,
        case.samples * RECORD.itemsize / 2**30,
    )


def mixture_microseconds(sets: int, positions: int = 4096, begin: int = 10**10) -> float:
    """Median time to tell the set of one position, of sets with the weights 1, 2, 3, ..."""
    mixture = Mixture(range(1, sets + 1))

    def turns() -> None:
        for position in range(begin, begin + positions):
            mixture.at(position)

    return 1e6 * timed(15, turns) / positions


def timed(rounds: int, action: Callable[[], None]) -> float:
    """Median seconds of ``action``."""
    return statistics.median(timeit.repeat(action, number=1, repeat=rounds))


def print_results(results: list[Result]) -> None:
    table = Table(title="Sample plan, one worker, global batch 4096, 256 streams, window 4 shards")
    for name in (
        "data set",
        "shards",
        "ranks",
        "seek ms",
        "step ms",
        "epoch change ms",
        "memory MiB",
        "B/sample",
        "index GiB",
    ):
        table.add_column(name, justify="left" if name == "data set" else "right")
    for r in results:
        figures = (r.seek_ms, r.step_ms, r.epoch_change_ms, r.memory_mib, r.bytes_per_sample, r.index_gib)
        row = (r.case.name, f"{r.case.shards:,}", str(r.case.world_size), *(f"{value:.2f}" for value in figures))
        table.add_row(*row)
    Console(width=110).print(table)
    print(
        "The index is mapped, not loaded: 36 bytes a sample on disk, shared by the workers of a node, resident where read."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="repetitions of a seek")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    results = [measure(case, arguments.rounds) for case in CASES]
    print_results(results)
    mixtures = {sets: mixture_microseconds(sets) for sets in (1, 2, 4, 16)}
    costs = ", ".join(f"{sets}: {microseconds:.2f}" for sets, microseconds in mixtures.items())
    print(f"Microseconds a sample to tell its set, by number of sets: {costs}.")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([*map(asdict, results), {"mixtures": mixtures}], indent=1))


if __name__ == "__main__":
    main()
