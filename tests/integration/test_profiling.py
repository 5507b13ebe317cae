"""What a run tells about its own speed: the parts of a step, the trace, the utilisation; and its pictures."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import SMALL_CONFIG, read_metrics, run_processes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sar_dist.observe.step_timer import PARTS, TOTAL

STEPS = 8
REGIONS = {
    "data_wait": 2,
    "host_to_device": 2,
    "augmentation": 2,
    "forward": 2,
    "spatial_entropy": 2,
    "backward": 2,
    "optimizer": 3,  # each micro-batch, and the moving average
}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory, small_shards: Path) -> Path:
    """A run of two processes with two accumulated micro-batches; its directory."""
    root = tmp_path_factory.mktemp("profiled")
    (root / "settings").mkdir()
    config = root / "settings" / "small.py"
    config.write_text(SMALL_CONFIG.format(runs=str(root / "runs"), data=str(small_shards)))
    output = run_processes(
        2,
        "tools/train.py",
        f"--config={config}",
        f"run.max_steps={STEPS}",
        "engine.zero_stage=2",
        "engine.micro_batch=4",
        "optim.ema=0.9",
        "augment.mixup=0.8",
        "profile.sample_every=1",
        "profile.trace=true",
        "profile.trace_after=3",
        "profile.trace_steps=2",
        "log.figure_images=2",
        "log.figures_every=4",
    )
    assert "time: " in output
    return root / "runs" / "small"


def test_the_parts_sum_to_the_step(profiled: Path) -> None:
    split, train = read_metrics(profiled, "step_seconds"), read_metrics(profiled)
    assert sorted(split) == [2, 6, 7, 8]  # the first step warms up, 3 to 5 are traced
    for step, values in split.items():
        assert sum(values[part] for part in PARTS) == pytest.approx(values[TOTAL], rel=1e-9)
        assert all(values[part] >= 0 for part in PARTS)
        for part in (*REGIONS, "communication"):
            assert values[part] > 0, part
        assert values[TOTAL] < train[step]["step_seconds"] * 1.5


def test_the_trace_names_the_regions(profiled: Path) -> None:
    (file,) = (profiled / "tensorboard").glob("*.pt.trace.json.gz")
    assert file.name == "step_00000004.pt.trace.json.gz"
    with gzip.open(file) as stream:
        events: list[dict[str, Any]] = json.load(stream)["traceEvents"]
    marked = [event for event in events if event.get("cat") == "user_annotation"]
    counts = Counter(event["name"] for event in marked)
    assert {name: count for name, count in counts.items() if name.startswith("train_step")} == {
        "train_step 4": 1,
        "train_step 5": 1,
    }
    assert {name: counts[name] for name in REGIONS} == {name: 2 * count for name, count in REGIONS.items()}
    assert counts["communication"] > 0
    steps = [event for event in marked if event["name"].startswith("train_step")]
    for event in marked:
        if event["name"] in REGIONS:
            assert any(inside(event, step) for step in steps), event
    backward = [event for event in marked if event["name"] == "backward"]
    products = [event for event in events if event.get("name") == "aten::mm"]
    assert any(inside(product, region) for product in products for region in backward)


def inside(event: dict[str, Any], outer: dict[str, Any]) -> bool:
    return bool(outer["ts"] <= event["ts"] and event["ts"] + event["dur"] <= outer["ts"] + outer["dur"])


def test_the_utilisation_can_be_recomputed_from_the_log(profiled: Path) -> None:
    hardware = read_metrics(profiled, "hardware")[0]
    measured = {step: values for step, values in read_metrics(profiled).items() if "step_seconds" in values}
    assert sorted(measured) == sorted(read_metrics(profiled))[1:], "the first step only starts the clock"
    for values in measured.values():
        needed = values["images_per_second_per_process"] * hardware["training_gflops_per_image"] / 1e3
        assert values["mfu_of_matmul"] == pytest.approx(needed / hardware["peak_tflops"], rel=1e-9)
        assert "mfu" not in values


def test_the_pictures_are_in_tensorboard_and_in_the_folder(profiled: Path) -> None:
    events = EventAccumulator(str(profiled / "tensorboard"), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    drawn = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    # Every four steps and at the end; the matrix with every validation, an epoch of six steps and the end.
    assert drawn == {
        "attention": [4, 8],
        "attention_heads/image_0": [4, 8],
        "attention_heads/image_1": [4, 8],
        "training_samples": [4, 8],
        "confusion": [6, 8],
    }
    for tag, steps in drawn.items():
        for step in steps:
            assert (profiled / "figures" / f"{tag}_step_{step:08d}.png").stat().st_size > 1000
    for name in ("entropy", "components"):
        for head in range(2):
            (first, last) = events.Histograms(f"attention/{name}_head{head}")
            assert (first.step, last.step) == (6, 8)
            assert first.histogram_value.num == last.histogram_value.num == 21  # every image of both processes, once
