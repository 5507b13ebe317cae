"""The parts of the check. Each runs programs that are there for their own sake, and reads what they found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.killed_run import kill_and_resume
from benchmarks.gpu_check.processes import Finished
from benchmarks.gpu_check.report import Grid, Report
from benchmarks.gpu_check.run import CannotGoOn, Workplace
from benchmarks.gpu_check.trainings import short_trainings, under_sanitizer


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        name: for --only.
        title: what it finds out.
        share: of the time, relative to the other parts; in seconds of the ten minutes.
        work: does it, and fills the report.
        needs_gpu: it is skipped where there is none.
    """

    name: str
    title: str
    share: float
    work: Callable[[Workplace, Report], None]
    needs_gpu: bool = False


def versions(place: Workplace, report: Report) -> None:
    """Versions, driver, compiler, devices."""
    done = place.run("versions", ["-m", "benchmarks.gpu_check.versions", place.device])
    found = _last_json_line(done)
    packages = found["packages"]
    shown = {
        "GPUs": "; ".join(found["gpus"]) or "none",
        "driver": found["driver"] or "none",
        "Python": found["python"],
        **{name: packages[name] for name in ("torch", "triton", "deepspeed", "timm")},
        "CUDA of torch": found["cuda_of_torch"] or "none",
        "cuDNN": str(found["cudnn"]),
        "NCCL": found["nccl"] or "none",
        "C compiler": found["compiler"] or "none",
        "cores": str(found["cores"]),
        "memory": f"{found['memory_gib']} GiB",
        "commit": f"{found['git_commit']}{' with changes' if found['git_changes'] else ''}",
    }
    report.data, report.grid = found, Grid(["what", "found"], [list(pair) for pair in shown.items()])
    report.summary = f"{shown['GPUs']}; driver {shown['driver']}; torch {shown['torch']}"
    for problem in found["problems"]:
        report.fail(problem)


def gpu_tests(place: Workplace, report: Report) -> None:
    """``pytest -m gpu`` without tests/gpu, whose trainings the part "steps" does, and more of them."""
    command = ["-m", "pytest", "-m", "gpu", "--ignore=tests/gpu", "-q", "-p", "no:cacheprovider"]
    report.commands.append("python " + " ".join(command))
    done = place.run("tests", command)
    text = done.text()
    summaries = re.findall(r"^.*\b\d+ (?:passed|failed|skipped|error).*$", text, flags=re.MULTILINE)
    report.summary = summaries[-1].strip("= ") if summaries else "no tests ran to the end"
    report.data = {"status": done.status, "summary": report.summary}
    for line in re.findall(r"^(?:FAILED|ERROR) .*$", text, flags=re.MULTILINE):
        report.fail(line)
    if not done.succeeded and not report.problems:
        report.fail(done.problem())
    if "passed" not in report.summary and done.succeeded:
        report.fail("no test ran")


def train_step(place: Workplace, report: Report) -> None:
    """The step's speed against a bare loop and one like timm's."""
    models = [("vit_small_patch16_224", 256), ("vit_base_patch16_224", 128), ("vit_large_patch16_224", 64)]
    options = ["--precision", "bf16_parameters", "bf16", "--compile", "both", "--rounds", "3", "--block", "10"]
    if not place.on_gpu:
        models = [("vit_tiny_patch16_224", 2)]
        options = ["--precision", "fp32", "bf16", "--rounds", "1", "--model-options", '{"depth": 1}']
    options += ["--sides", "bare loop", "like timm", "ours"]
    columns = ["model", "precision", "blocks", "loop", "img/s", "ms", "to bare", "MFU", "peak GiB"]
    report.data, report.grid = [], Grid(columns)
    best = 0.0
    for index, (model, batch) in enumerate(models):
        seconds = place.remaining() / (len(models) - index)
        out = place.folder / f"train_step_{model}.json"
        out.unlink(missing_ok=True)
        command = ["benchmarks/train_step.py", "--model", model, "--batch", str(batch), *options]
        report.commands.append("python " + " ".join(f"'{word}'" if " " in word else word for word in command))
        started = place.start(f"train_step_{model}", [*command, "--seconds", f"{0.7 * seconds:.0f}", "--out", str(out)])
        done = started.wait(seconds)
        results = json.loads(out.read_text())["results"] if out.exists() else []
        report.data += results
        for result in results:
            _add_sides(report, result)
            best = max(best, *(side["mfu"] or 0 for side in result.get("sides", {}).values()), 0)
        if not done.succeeded and not any("error" in result for result in results):
            report.fail(f"{model}: {done.problem()}")
    report.summary = f"best MFU {best:.1%}"


def _add_sides(report: Report, result: dict[str, Any]) -> None:
    """A setting's rows of the table."""
    blocks = "compiled" if result["compiled"] else "eager"
    if "error" in result:
        report.fail(f"{result['model']}, {result['precision']}, {blocks}: {result['error']}")
        return
    assert report.grid is not None
    for name, side in result["sides"].items():
        report.grid.rows.append(
            [
                result["model"].removesuffix("_patch16_224"),
                result["precision"],
                blocks,
                name,
                f"{side['images_per_second']:.0f}",
                f"{1e3 * side['wall_seconds']:.1f}",
                f"{side['wall_ratio']:.3f}",
                "" if side["mfu"] is None else f"{side['mfu']:.1%}",
                f"{side['peak_gib']:.1f}",
            ]
        )


def entropy(place: Workplace, report: Report) -> None:
    """The spatial entropy's time, and its share of a step."""
    options = ["--device", place.device, "--reference", "--steps"]
    if not place.on_gpu:
        options += ["--repeats", "1", "--models", "vit_tiny_patch16_224", "--step-batch", "1"]
    found = _measured(place, report, "spatial_entropy", options)
    report.grid = Grid(["model", "batch", "step ms", "entropy ms", "share", "copies to the host"])
    for step in found["steps"]:
        copies = step.get("copies_to_host", 0)
        times = [f"{step['step_ms']:.2f}", f"{step['term_ms']:.3f}", f"{step['share']:.2%}"]
        report.grid.rows.append([step["model"], str(step["batch"]), *times, str(copies)])
        if copies:
            report.fail(f"{step['model']}: the entropy copies to the host {copies} times in a step, 0 expected")
    faster = found["cases"][0]["loop_over"]["fused q.k"]
    shares = ", ".join(row[4] for row in report.grid.rows)
    report.summary = f"share of a step {shares}; {faster:.0f} times faster than a loop over maps"


def loader(place: Workplace, report: Report) -> None:
    """The training loader alone."""
    _loader_alone(place, report, [])


def decoding(place: Workplace, report: Report) -> None:
    """The training loader alone, with JPEGs decoded on the GPU."""
    _loader_alone(place, report, ["data.decoder=gpu"])


def _loader_alone(place: Workplace, report: Report, more: list[str]) -> None:
    shards = place.large_shards()
    sizes = ("64", "auto") if place.on_gpu else ("16", "0")
    settings = [f"data.train={shards / 'train'}", f"optim.global_batch={sizes[0]}", f"engine.micro_batch={sizes[0]}"]
    workers = [] if sizes[1] == "auto" else [f"data.workers={sizes[1]}"]
    command = ["tools/benchmark_loader.py", "--config", "configs/vit_b_in1k.py", *settings, *workers, *more]
    report.commands.append("python " + " ".join(command).replace(str(shards), "SHARDS"))
    done = place.run("decoding" if more else "loader", command)
    found = re.search(r"(\d+) img/s.*?that is (\d+) img/s per core", done.text(), flags=re.DOTALL)
    if not done.succeeded or found is None:
        raise CannotGoOn(done.problem())
    report.data = {"images_per_second": int(found[1]), "images_per_second_per_core": int(found[2]), "text": done.text()}
    cores = re.search(r"data\.workers=(\d+), (\d+) core", done.text())
    report.grid = Grid(["img/s", "img/s per core", "workers", "cores"])
    report.grid.rows.append([found[1], found[2], *(cores.groups() if cores else ("?", "?"))])
    report.summary = f"{found[1]} img/s, {found[2]} per core"


def validation(place: Workplace, report: Report) -> None:
    """The speed of validation in each precision."""
    tiny = ["--model", "vit_tiny_patch16_224", "--batch", "2", "--rounds", "1", "--block", "1"]
    found = _measured(place, report, "validation_precision", [] if place.on_gpu else tiny)["results"]
    report.grid = Grid(["precision", "img/s", "times float32", "largest |logit - float32|", "same class"])
    for result in found:
        figures = [f"{result['images_per_second']:.0f}", f"{result['times_fp32']:.2f}"]
        scores = [f"{result['largest_difference']:.2g}", f"{result['same_class']:.1%}"]
        report.grid.rows.append([result["precision"], *figures, *scores])
    report.summary = ", ".join(f"{result['precision']} {result['images_per_second']:.0f} img/s" for result in found)


def _measured(place: Workplace, report: Report, program: str, options: list[str]) -> dict[str, Any]:
    """What benchmarks/PROGRAM.py writes to its --out; also in the report.

    Raises:
        CannotGoOn: it failed.
    """
    out: Path = place.folder / f"{program}.json"
    out.unlink(missing_ok=True)
    command = [f"benchmarks/{program}.py", *options]
    report.commands.append("python " + " ".join(command))
    done = place.run(program, [*command, "--out", str(out)])
    if not done.succeeded or not out.exists():
        raise CannotGoOn(done.problem())
    report.data = json.loads(out.read_text())
    found: dict[str, Any] = report.data
    return found


def _last_json_line(done: Finished) -> dict[str, Any]:
    """What a program printed last.

    Raises:
        CannotGoOn: it failed.
    """
    lines = [line for line in done.text().splitlines() if line.startswith("{")]
    if not done.succeeded or not lines:
        raise CannotGoOn(done.problem())
    found: dict[str, Any] = json.loads(lines[-1])
    return found


PARTS = (
    Part("versions", "Versions, driver, compiler", 25, versions),
    Part("tests", "pytest -m gpu", 90, gpu_tests, needs_gpu=True),
    Part("steps", "Short trainings, and waits of the host for the device", 120, short_trainings),
    Part("sanitizer", "Races between streams (TORCH_CUDA_SANITIZER)", 45, under_sanitizer, needs_gpu=True),
    Part("train_step", "Training step against a bare loop", 180, train_step),
    Part("entropy", "Spatial entropy", 40, entropy),
    Part("loader", "Training loader alone", 40, loader),
    Part("decoding", "Training loader with JPEGs decoded on the GPU", 40, decoding, needs_gpu=True),
    Part("resume", "kill -9 and resume", 35, kill_and_resume),
    Part("validation", "Precision of validation", 25, validation),
)
