"""Parts "steps" and "sanitizer": benchmarks/training_check.py under many settings, several processes at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_check.report import Grid, Report
from benchmarks.gpu_check.run import Workplace

STAGES = (1, 2, 3)
TINY = ("--steps=6", "--set=optim.global_batch=16", "--set=engine.micro_batch=8", "--set=model.options.depth=2")


@dataclass(frozen=True)
class Group:
    """Settings that one process trains one after the other.

    Attributes:
        name: of its log and folder.
        variants: settings of training_check.py.
        options: its other options.
        environment: variables of the process.
    """

    name: str
    variants: Sequence[str]
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def short_trainings(place: Workplace, report: Report) -> None:
    """Every stage, precision and mode of the blocks, with counted waits."""
    if place.on_gpu:
        settings = [
            (precision, mode) for precision in ("bf16_parameters", "fp16", "bf16") for mode in ("", "/compiled")
        ]
        groups = [Group(f"steps_zero{s}", [f"zero{s}/{p}{mode}" for p, mode in settings]) for s in STAGES]
    else:
        groups = [Group("steps", ["zero3/bf16_parameters", "zero1/bf16"], TINY)]
        report.summary = "fp16 and compiled blocks need a GPU; "
    found = train_groups(place, report, groups)
    report.commands.append("python benchmarks/training_check.py --data SHARDS --work FOLDER " + groups[0].variants[0])
    columns = [
        "setting",
        "loss, first and last",
        "waits in a micro-batch",
        "waits in a step",
        "resume: loss differs by",
    ]
    report.grid = Grid([*columns, "peak GiB", "seconds"])
    for result in found:
        losses, waits = result["losses"], result["waits"] or {}
        row = [result["variant"], f"{losses[0]:.3f} {losses[-1]:.3f}"]
        row += [_counts(waits.get(phase)) for phase in ("micro_batch", "step")]
        row += [f"{result['resume_difference']:.1g}", "" if result["peak_gib"] is None else f"{result['peak_gib']:.2f}"]
        report.grid.rows.append([*row, f"{result['seconds']:.0f}"])
    right = sum(not result["problems"] for result in found)
    report.summary += (
        f"{right} of {sum(len(group.variants) for group in groups)} settings train, save and resume as they should"
    )


def under_sanitizer(place: Workplace, report: Report) -> None:
    """A few steps with PyTorch's CUDA sanitizer, which ends a process at the first race between streams."""
    common = ["--steps=6", "--no-resume"]
    overlap = ["--set=engine.deepspeed.zero_optimization.overlap_comm=true"]
    environment = {"TORCH_CUDA_SANITIZER": "1"}
    groups = [
        Group("sanitizer_zero3", ["zero3/bf16"], common, environment),
        Group("sanitizer_zero1_overlap", ["zero1/bf16"], [*common, *overlap], environment),
        Group("sanitizer_zero2_overlap", ["zero2/bf16"], [*common, *overlap], environment),
    ]
    found = train_groups(place, report, groups)
    report.commands.append(
        "TORCH_CUDA_SANITIZER=1 python benchmarks/training_check.py --data SHARDS --work FOLDER zero3/bf16"
    )
    report.summary = f"{len(found)} of {len(groups)} trainings without a race"


def train_groups(place: Workplace, report: Report, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What was found, of all settings that came to an end; the groups run side by side. The rest become problems."""
    shards = str(place.demo_shards())
    with ThreadPoolExecutor(len(groups)) as pool:
        outcomes = list(pool.map(lambda group: _train_group(place, group, shards), groups))
    found: list[dict[str, Any]] = []
    for results, problems in outcomes:
        found += results
        for problem in [*problems, *(f"{one['variant']}: {problem}" for one in results for problem in one["problems"])]:
            report.fail(problem)
    report.data = found
    return found


def _train_group(place: Workplace, group: Group, shards: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Results and problems. After a crash the settings that come after the guilty one get a new process."""
    out, work = place.folder / f"{group.name}.jsonl", place.folder / "runs" / group.name
    out.unlink(missing_ok=True)
    pending, problems, attempt = list(group.variants), [], 0
    while pending:
        attempt += 1
        fixed = ["--data", shards, "--work", str(work), "--device", place.device, "--out", str(out)]
        command = ["benchmarks/training_check.py", *fixed, *group.options, *pending]
        done = place.run(f"{group.name}_{attempt}", command, group.environment)
        finished = {result["variant"] for result in _read(out)}
        left = [variant for variant in pending if variant not in finished]
        if not left:
            break
        race = " (a race between streams)" if "possible data race" in done.text() else ""
        problems.append(f"{left[0]}{race}: {done.problem()}")
        pending = left[1:]
        if done.timed_out and pending:
            problems.append(f"not reached in time: {', '.join(pending)}")
            break
    return _read(out), problems


def _read(out: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def _counts(waits: Mapping[str, float] | None) -> str:
    """As "warned 3, device 1"."""
    if waits is None:
        return "needs a GPU"
    return ", ".join(f"{kind} {count:g}" for kind, count in waits.items()) or "0"
