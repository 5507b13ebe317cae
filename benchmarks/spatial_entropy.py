"""Cost of the spatial entropy: our backends against a map-by-map OpenCV loop and against dense attention.

    python benchmarks/spatial_entropy.py                                 the reference case and one sweep per factor
    python benchmarks/spatial_entropy.py --full                          every grid x heads x batch x kind of map
    python benchmarks/spatial_entropy.py --device cuda --steps --out gpu.json
                                                                         on a GPU, with the share of a training step

Every time is forward + backward of the mean entropy, median of interleaved runs, all sides in one process; on a CPU also
the process CPU time, which other work on the machine disturbs less. ``peak`` is the
most memory that PyTorch has allocated beyond the inputs (NumPy's arrays, some 2 MiB in ``cpu``, are not seen).
``--steps`` measures the term against a training step (forward, backward, AdamW) of timm's ViT-S/B/L, and on a GPU
looks for copies from device to host in a profile.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sar_dist.regularizer import find_backend_problem, spatial_entropy, spatial_entropy_from_query_key

GRIDS, HEADS, BATCHES, KINDS = (8, 14, 16, 24, 32), (3, 6, 12, 16), (32, 64, 128, 256, 512), ("noise", "smooth")
REFERENCE = (14, 6, 64, "noise")  # grid, heads, batch, kind: the case that the project's target names
HEAD_DIM = 64
DENSE_LIMIT = {"cpu": 2**29, "cuda": 2**33}  # bytes of float32 scores beyond which dense attention is not tried
MODELS = ("vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224")


def map_by_map_loop(similarity: Tensor) -> Tensor:
    """The baseline: maps copied to the host and labelled one at a time, one mask per component sent back.

    Does what the method's public implementation does, with its conversions; returns the mean entropy.
    """
    images, heads, height, width = similarity.shape
    flat = similarity.flatten(2)  # B H N
    mean = flat.mean(-1, keepdim=True)
    with torch.no_grad():
        above = (flat > mean).long()
        on_host = above.cpu().numpy()
        image_index, head_index, members = [], [], []
        for image in range(images):
            for head in range(heads):
                picture = ((on_host[image, head].reshape(height, width) > 0) * 1).astype(np.uint8)
                count, labels = cv2.connectedComponents(picture, connectivity=8, ltype=cv2.CV_16U)
                for number in range(1, count):
                    image_index.append(image)
                    head_index.append(head)
                    members.append(torch.tensor((labels == number) * 1.0).reshape(-1).long())
        images_of, heads_of = torch.tensor(image_index), torch.tensor(head_index)
        member = torch.stack(members).to(flat.device)  # component N
    excess = torch.relu(flat - mean) + 1e-9
    mass = (excess[images_of, heads_of] * member).sum(-1)
    share = mass / (excess[images_of, heads_of] * above[images_of, heads_of]).sum(-1)
    return -(share * share.log()).sum() / (images * heads)


def dense_attention(query: Tensor, key: Tensor, grid: int) -> Tensor:
    """All N x N scores of the block, of which the [CLS] row is taken: what the term costs without a tap."""
    scores = (query @ key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5  # B H 1+N 1+N
    similarity = scores[:, :, 0, 1:].unflatten(2, (grid, grid))
    return spatial_entropy(similarity).mean()


def from_query_key(query: Tensor, key: Tensor, grid: int) -> Tensor:
    """The term from the same queries and keys (B, H, 1 + N, d), by the fused path."""
    return spatial_entropy_from_query_key(query[:, :, 0], key[:, :, 1:], (grid, grid)).mean()


def make_maps(grid: int, heads: int, batch: int, kind: str, device: str) -> Tensor:
    """Standard normal noise, or the same smoothed to blobs: (batch, heads, grid, grid), seeded."""
    values = np.random.default_rng(0).standard_normal((batch, heads, grid, grid), dtype=np.float32)
    if kind == "smooth":
        values = gaussian_filter(values, (0, 0, 1.5, 1.5))
    return torch.from_numpy(values).to(device).requires_grad_()


def sides_of(case: tuple[int, int, int, str], device: str) -> dict[str, Callable[[], Tensor]]:
    """Name -> function that computes the loss of one side on its inputs."""
    grid, heads, batch, kind = case
    maps = make_maps(grid, heads, batch, kind, device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, batch, heads, 1 + grid * grid, HEAD_DIM, generator=generator).to(device, dtype)
    query, key = (tensor.contiguous().requires_grad_() for tensor in tokens)
    backends = ["cpu", "torch"]
    if device == "cuda":
        runs = find_backend_problem("triton", torch.device("cuda", torch.cuda.current_device())) is None
        backends = ["torch", "triton"] if runs else ["torch"]
    sides: dict[str, Callable[[], Tensor]] = {"loop": lambda: map_by_map_loop(maps)}
    for backend in backends:
        sides[backend] = lambda backend=backend: spatial_entropy(maps, backend).mean()  # type: ignore[misc]
    if batch * heads * (1 + grid * grid) ** 2 * 4 <= DENSE_LIMIT[device]:
        sides["dense q.k"] = lambda: dense_attention(query, key, grid)
    sides["fused q.k"] = lambda: from_query_key(query, key, grid)
    return sides


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved_times(
    sides: dict[str, Callable[[], Any]], device: str, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of every run of each side by the wall and by process CPU time.

    The sides take turns, so that a change of load hits all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    cpu_times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):  # the first turn warms up
        for name, run in sides.items():
            synchronize(device)
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            synchronize(device)
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
                cpu_times[name].append((time.process_time() - cpu_start) * 1e3)
    return times, cpu_times


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The most memory that a run has allocated at one time beyond what it started with."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(
        itertools.accumulate((event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())), initial=0)
    )


def measure_case(case: tuple[int, int, int, str], device: str, repeats: int) -> dict[str, Any]:
    """Median and least time and peak memory of each side, and how many times slower the loop is."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, loss in sides_of(case, device).items():
        runs[name] = lambda loss=loss: loss().backward()  # type: ignore[misc]
    # Maps and queries apart: the large tensors of dense attention would empty the caches before every other run.
    groups = [{n: run for n, run in runs.items() if n.endswith("q.k") is dense} for dense in (False, True)]
    times: dict[str, list[float]] = {}
    cpu_times: dict[str, list[float]] = {}
    for group in groups:
        wall, cpu = interleaved_times(group, device, repeats)
        times |= wall
        cpu_times |= cpu
    median = {name: statistics.median(values) for name, values in times.items()}
    cpu_median = {name: statistics.median(values) for name, values in cpu_times.items()}
    return {
        "grid": case[0],
        "heads": case[1],
        "batch": case[2],
        "kind": case[3],
        "median_ms": median,
        "least_ms": {name: min(values) for name, values in times.items()},
        "peak_mib": {name: peak_bytes(run, device) / 2**20 for name, run in runs.items()},
        "cpu_median_ms": cpu_median,
        "loop_over": {name: median["loop"] / value for name, value in median.items()},
        "loop_over_cpu": {name: cpu_median["loop"] / value for name, value in cpu_median.items()},
        "loop_over_least": {name: min(times["loop"]) / min(values) for name, values in times.items()},
    }


def measure_step(name: str, batch: int, device: str, repeats: int) -> dict[str, Any]:
    """Share of the term in a training step of a timm model with the term on its last block's shapes."""
    import timm

    model: Any = timm.create_model(name, num_classes=1000).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=device == "cuda")
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    heads = model.blocks[-1].attn.num_heads
    query, key = (torch.randn(batch, heads, 197, HEAD_DIM, device=device, dtype=dtype).requires_grad_() for _ in "qk")

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    runs = {"step": step, "term": lambda: from_query_key(query, key, 14).backward()}
    times, _ = interleaved_times(runs, device, repeats)
    median = {side: statistics.median(values) for side, values in times.items()}
    share = median["term"] / (median["step"] + median["term"])
    result = {"model": name, "batch": batch, "step_ms": median["step"], "term_ms": median["term"], "share": share}
    if device == "cuda":
        with torch.profiler.profile() as profile:
            runs["term"]()
            synchronize(device)
        result["copies_to_host"] = sum("DtoH" in event.name for event in profile.events())
    return result


def chosen_cases(arguments: argparse.Namespace) -> list[tuple[int, int, int, str]]:
    if arguments.full:
        return list(itertools.product(GRIDS, HEADS, BATCHES, KINDS))
    grid, heads, batch, kind = REFERENCE
    if arguments.reference:
        return [REFERENCE, (grid, heads, batch, "smooth")]
    sweep = [REFERENCE, (grid, heads, batch, "smooth")]
    sweep += [(each, heads, batch, kind) for each in GRIDS if each != grid]
    sweep += [(grid, each, batch, kind) for each in HEADS if each != heads]
    return sweep + [(grid, heads, each, kind) for each in BATCHES if each != batch]


def print_cases(console: Console, cases: list[dict[str, Any]], device: str) -> None:
    print_times(console, cases, "forward + backward: median ms (times faster than the loop; peak MiB)", "")
    if device == "cpu":
        print_times(console, cases, "the same by process CPU time", "cpu_")


def print_times(console: Console, cases: list[dict[str, Any]], title: str, prefix: str) -> None:
    sides = list(cases[0]["median_ms"])
    table, ratio = Table(title=title), "loop_over_cpu" if prefix else "loop_over"
    for column in ("grid", "heads", "batch", "maps", *sides):
        table.add_column(column, justify="right")
    for case in cases:
        cells = [
            f"{case[prefix + 'median_ms'][side]:.2f} ({case[ratio][side]:.1f}x; {case['peak_mib'][side]:.1f})"
            if side in case["median_ms"]
            else "too large"
            for side in sides
        ]
        table.add_row(str(case["grid"]), str(case["heads"]), str(case["batch"]), case["kind"], *cells)
    console.print(table)


def print_steps(console: Console, steps: list[dict[str, Any]]) -> None:
    table = Table(title="share of a training step")
    columns = ("model", "batch", "step ms", "term ms", "share", "copies to host")
    for column in columns:
        table.add_column(column, justify="right")
    for step in steps:
        copies = str(step.get("copies_to_host", "no GPU"))
        table.add_row(
            step["model"],
            str(step["batch"]),
            f"{step['step_ms']:.1f}",
            f"{step['term_ms']:.3f}",
            f"{step['share']:.3%}",
            copies,
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default 1: the loop uses one)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--full", action="store_true", help="every combination")
    parser.add_argument("--reference", action="store_true", help="the reference case alone, on noise and smooth maps")
    parser.add_argument("--steps", action="store_true", help="also the share of a training step of ViT-S/B/L")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm models of those steps")
    parser.add_argument("--step-batch", type=int, help="batch of those steps (default 256 on a GPU, 2 on a CPU)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    console = Console(width=None if sys.stdout.isatty() else 160)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or platform.machine()
    report: dict[str, Any] = {"device": device, "threads": arguments.threads, "torch": torch.__version__}
    report["command"] = " ".join(sys.argv)
    console.print(f"{device}, torch {torch.__version__}, {arguments.threads} threads")
    report["cases"] = []
    for case in chosen_cases(arguments):
        report["cases"].append(measure_case(case, arguments.device, arguments.repeats))
        console.print("measured grid {}, heads {}, batch {}, {}".format(*case))
    print_cases(console, report["cases"], arguments.device)
    if arguments.steps:
        batch = arguments.step_batch or (256 if arguments.device == "cuda" else 2)
        report["steps"] = [
            measure_step(name, batch, arguments.device, min(arguments.repeats, 5)) for name in arguments.models
        ]
        print_steps(console, report["steps"])
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
