"""Train the demo's model for a few steps under each of several settings, and say whether training did what it should.

    python benchmarks/training_check.py --data DEMO_SHARDS --work FOLDER zero1/bf16 zero3/bf16_parameters/compiled
    python benchmarks/training_check.py ... --device cpu --set model.options.depth=2 zero1/fp32

A setting is zero1, zero2 or zero3, a precision, and "compiled" where the blocks are compiled. Each is a run of the real
trainer from its first step to its end: steps, validation, checkpoints. Then the last checkpoint is removed and the run
resumed from the one in the middle, which must give the same losses. On a GPU every wait of the host for the device is
counted: those that ``torch.cuda.set_sync_debug_mode`` warns of (``.item()``, copies from or to pageable memory) and the
explicit ones (``synchronize`` of the device, a stream or an event).

One JSON line for each setting goes to stdout, or to the end of ``--out``, as soon as it is measured: what came before a
crash is kept. ``problems`` of a line is empty where all is well. Exit status 1 if there was a problem.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("bf16", "bf16_parameters", "fp16", "fp32")
WARM_UP = 3  # steps in which constants are copied and kernels compiled; their waits are not counted

# The most waits of the host in a micro-batch and in an optimizer step, by kind: the table of docs/gpu.md, counted without a
# GPU on two processes. Warned: .item() and scalars to the device; the others are explicit.
EXPECTED_WAITS: dict[tuple[int, str], dict[str, dict[str, int]]] = {
    (1, "bf16_parameters"): {"micro_batch": {}, "step": {"warned": 3}},
    (2, "bf16_parameters"): {"micro_batch": {"device": 1}, "step": {"warned": 6, "device": 1}},
    (3, "bf16_parameters"): {"micro_batch": {"stream": 1}, "step": {"warned": 3, "device": 1}},
    (1, "bf16"): {"micro_batch": {}, "step": {"warned": 5, "device": 1}},
    (2, "bf16"): {"micro_batch": {"device": 1}, "step": {"warned": 5, "device": 1}},
    (3, "bf16"): {"micro_batch": {"stream": 1}, "step": {"warned": 3, "device": 1}},
}

# Relative difference of a loss after a resume. The sums of a GPU's kernels may come in another order; a CPU's do not.
RESUME_TOLERANCE = {"cuda": 1e-2, "cpu": 0.0}


@dataclass(frozen=True)
class Variant:
    """A setting: ZeRO stage, precision, whether the blocks are compiled."""

    stage: int
    precision: str
    compiled: bool

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Raises ValueError unless ``text`` is such as "zero2/bf16" or "zero2/bf16/compiled"."""
        stage, _, rest = text.partition("/")
        precision, *compiled = rest.split("/")
        if (
            stage not in ("zero1", "zero2", "zero3")
            or precision not in PRECISIONS
            or compiled not in ([], ["compiled"])
        ):
            raise ValueError(f"{text!r} is no setting; write zero1, zero2 or zero3, then one of {PRECISIONS}")
        return cls(int(stage[-1]), precision, bool(compiled))

    def __str__(self) -> str:
        return f"zero{self.stage}/{self.precision}" + ("/compiled" if self.compiled else "")


class WaitCounter:
    """Counts waits of the host for the device, by phase ("micro_batch" or "step") and kind."""

    def __init__(self) -> None:
        self.phase: str | None = None  # None: not counted
        self.counts: Counter[tuple[str, str]] = Counter()
        self.places: Counter[str] = Counter()

    def saw(self, kind: str, place: str) -> None:
        """Count a wait of this ``kind`` at a ``place`` of the source."""
        if self.phase is not None:
            self.counts[self.phase, kind] += 1
            self.places[f"{self.phase}: {kind} in {place}"] += 1

    @contextmanager
    def installed(self, device_type: str) -> Iterator[None]:
        """Let PyTorch tell of the waits inside; of those on a CPU there are none."""
        import torch

        targets = [(torch.cuda, "device"), (torch.cuda.Stream, "stream"), (torch.cuda.Event, "event")]
        originals = [target.synchronize for target, _ in targets]  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=".*synchronizing CUDA operation")
            shown = warnings.showwarning
            warnings.showwarning = lambda *what, **options: self._on_warning(shown, *what, **options)
            if device_type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            for (target, kind), original in zip(targets, originals, strict=True):
                target.synchronize = self._counted(original, kind)  # type: ignore[attr-defined]
            try:
                yield
            finally:
                for (target, _), original in zip(targets, originals, strict=True):
                    target.synchronize = original  # type: ignore[attr-defined]
                if device_type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")

    def _on_warning(self, shown: Any, message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            self.saw("warned", f"{_short(filename)}:{lineno}")
        else:
            shown(message, category, filename, lineno, *rest)

    def _counted(self, original: Any, kind: str) -> Any:
        def synchronize(*arguments: Any, **options: Any) -> Any:
            caller = sys._getframe(1)
            self.saw(kind, f"{_short(caller.f_code.co_filename)}:{caller.f_lineno}")
            return original(*arguments, **options)

        return synchronize

    def per_phase(self, micro_batches: int, steps: int) -> dict[str, dict[str, float]]:
        """The mean number of waits in a micro-batch and in an optimizer step, by kind."""
        divisors = {"micro_batch": micro_batches, "step": steps}
        means: dict[str, dict[str, float]] = {phase: {} for phase in divisors}
        for (phase, kind), count in sorted(self.counts.items()):
            means[phase][kind] = round(count / divisors[phase], 2)
        return means


def _short(filename: str) -> str:
    """A file's path below its package's folder, which is the same on every machine."""
    return "/".join(Path(filename).parts[-3:])


def run_config(variant: Variant, arguments: argparse.Namespace) -> Any:
    """The demo's configuration with this setting, on the given shards, with a checkpoint in the middle."""
    from sar_dist.config import load_config

    overrides = {
        "run.name": str(variant).replace("/", "-"),
        "run.dir": str(arguments.work),
        "run.max_steps": arguments.steps,
        "data.train": str(arguments.data / "train"),
        "data.val": str(arguments.data / "val"),
        "engine.zero_stage": variant.stage,
        "engine.precision": variant.precision,
        "engine.compile": str(variant.compiled).lower(),
        "checkpoint.every": arguments.steps // 2,
        "validation.every": arguments.steps,
        "log.every": 1,
        "log.figure_images": 0,
        "profile.sample_every": "none",
    }
    return load_config(
        str(ROOT / "configs" / "demo.py"), [f"{key}={value}" for key, value in overrides.items()] + arguments.set
    )


def train(config: Any, counter: WaitCounter) -> Any:
    """A run from where it is to its end, with its waits counted after the first steps; returns the trainer."""
    from sar_dist.training import build_trainer

    trainer = build_trainer(config)
    engine, train_step, engine_step = trainer.engine, trainer.train_step, trainer.engine.step
    done = 0

    def counted_engine_step() -> Any:
        counter.phase = counter.phase and "step" if engine.is_gradient_accumulation_boundary() else counter.phase
        try:
            return engine_step()
        finally:
            counter.phase = counter.phase and "micro_batch"

    def counted_step() -> None:
        nonlocal done
        counter.phase = "micro_batch" if done >= WARM_UP else None
        train_step()
        counter.phase = None
        done += 1

    engine.step, trainer.train_step = counted_engine_step, counted_step
    with counter.installed(engine.device.type):
        trainer.train()
    trainer.checkpointing.store.wait()
    engine.destroy()
    return trainer


def read_losses(run: Path) -> dict[int, float]:
    """The logged loss of each step."""
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {entry["step"]: entry["loss"] for entry in entries if entry["prefix"] == "train"}


def check(variant: Variant, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, validate, save, resume; what was found."""
    import torch

    from sar_dist.checkpoint import step_name

    config = run_config(variant, arguments)
    shutil.rmtree(arguments.work / config.run.name, ignore_errors=True)
    start, counter = time.perf_counter(), WaitCounter()
    trainer = train(config, counter)
    counted = arguments.steps - WARM_UP
    device, accumulation = trainer.engine.device, trainer.accumulation
    result: dict[str, Any] = {
        "variant": str(variant),
        "device": device.type,
        "steps": trainer.state.step,
        "skipped_steps": trainer.engine.skipped_steps,
        "top1": trainer.validation["top1"],
        "validation_loss": trainer.validation["loss_cls"],
        "waits": counter.per_phase(counted * accumulation, counted) if device.type == "cuda" else None,
        "places": dict(counter.places.most_common(12)),
    }
    result["first_run_seconds"] = round(time.perf_counter() - start, 1)
    unbroken = read_losses(trainer.directory.path)
    result["losses"] = [unbroken[step] for step in sorted(unbroken)]
    if not arguments.no_resume:
        middle = arguments.steps // 2
        shutil.rmtree(trainer.checkpointing.store.root / step_name(arguments.steps))
        del trainer
        gc.collect()
        resumed = train(config, WaitCounter())
        again = read_losses(resumed.directory.path)
        result["resumed_from"] = middle
        result["resume_difference"] = max(
            abs(again[step] - unbroken[step]) / abs(unbroken[step]) for step in range(middle + 1, arguments.steps + 1)
        )
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    result["problems"] = problems_of(result, variant)
    return result


def problems_of(result: dict[str, Any], variant: Variant) -> list[str]:
    """What is not as it should be."""
    found = []
    if not all(map(math.isfinite, [*result["losses"], result["validation_loss"]])):
        found.append("a loss is not finite")
    if result["skipped_steps"] and variant.precision != "fp16":  # whose loss scale is found by trying
        found.append(f"{result['skipped_steps']} steps were skipped")
    difference, tolerance = result.get("resume_difference", 0.0), RESUME_TOLERANCE[result["device"]]
    if not difference <= tolerance:
        found.append(f"after a resume a loss differs by {difference:.2g}; at most {tolerance:g} is expected")
    expected = EXPECTED_WAITS.get((variant.stage, variant.precision))
    if result["waits"] is not None and expected is not None:
        for phase, kinds in result["waits"].items():
            for kind, count in kinds.items():
                most = expected[phase].get(kind, 0)
                if count > most:
                    found.append(f"{count:g} waits ({kind}) in a {phase.replace('_', '-')}, {most} expected")
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=_variant, metavar="SETTING")
    parser.add_argument("--data", type=Path, required=True, help="what `make_shards.py demo` made")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of the run")
    parser.add_argument("--no-resume", action="store_true", help="leave the resume out")
    parser.add_argument("--out", type=Path, help="file to which the JSON lines are appended")
    arguments = parser.parse_args()
    if arguments.steps < 2 * WARM_UP:
        parser.error(f"--steps must be {2 * WARM_UP} or more")
    return arguments


def _variant(text: str) -> Variant:
    try:
        return Variant.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> int:
    arguments = parse_arguments()
    if arguments.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    from sar_dist import distributed
    from sar_dist.devices import uses_cuda
    from sar_dist.errors import UserError

    if arguments.device == "cuda" and not uses_cuda():
        raise UserError("--device cuda: PyTorch finds no GPU here; --device cpu trains on the CPU")
    problems = 0
    # Autocast last: DeepSpeed leaves it switched on for the rest of the process.
    for variant in sorted(arguments.variants, key=lambda variant: variant.precision == "bf16"):
        result = check(variant, arguments)
        problems += len(result["problems"])
        line = json.dumps(result)
        if arguments.out is None:
            print(line, flush=True)
        else:
            with arguments.out.open("a") as lines:
                lines.write(line + "\n")
        torch.compiler.reset()
        gc.collect()
    distributed.shutdown()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from sar_dist.program import run_tool

    run_tool(main)
