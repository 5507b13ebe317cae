"""What a step of training waits for and sends: the table of docs/gpu.md, counted anew on two processes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, run_processes

PAGE = ROOT / "docs" / "gpu.md"
PROGRAM = Path(__file__).with_name("count_training.py")
CONFIG = """
from sar_dist.config import RunConfig


def config() -> RunConfig:
    return RunConfig(
        run={{"name": "counted", "dir": {runs!r}}},
        model={{
            "name": "vit_tiny_patch16_224",
            "image_size": 32,
            "patch_size": 8,
            "num_classes": 4,
            "drop_path": 0.1,
            "options": {{"embed_dim": 32, "depth": 4, "num_heads": 2}},
        }},
        data={{"train": {data!r}, "val": {data!r}, "workers": 0}},
        augment={{
            "where": "device",
            "rand_augment": "rand-m9-mstd0.5-inc1",
            "color_jitter": 0.2,
            "mixup": 0.8,
            "cutmix": 1.0,
            "random_erasing": 0.25,
            "label_smoothing": 0.1,
        }},
        optim={{"global_batch": 16, "epochs": 4, "warmup_epochs": 1, "clip": 1.0, "ema": 0.99}},
        engine={{"micro_batch": 4}},
        log={{"every": 1, "figure_images": 0}},
    )
"""
# Of the small model's weights as of a large one's: matrices are sharded by ZeRO-3, vectors are kept whole.
THRESHOLD = "engine.deepspeed.zero_optimization.stage3_param_persistence_threshold"
RECOMMENDED = "engine.zero_stage=1 engine.precision=bf16_parameters"
NAMES = {
    "item": "`.item()`",
    "host to device": "scalars to the device",
    "device": "device",
    "stream": "stream",
    "event": "event",
    "shape": "shape read",
    "device to host": "copy to the host",
}


def setting(stage: int, precision: str, reduce_dtype: str = "fp32") -> str:
    return f"engine.zero_stage={stage} engine.precision={precision} engine.reduce_dtype={reduce_dtype}"


EVERY = [(stage, precision, "fp32") for precision in ("bf16_parameters", "bf16", "fp32") for stage in (1, 2, 3)]
EVERY += [(stage, precision, "bf16") for precision in ("bf16_parameters", "bf16") for stage in (1, 2, 3)]
SOME = [(1, "bf16_parameters", "fp32"), (3, "bf16_parameters", "fp32"), (1, "bf16", "fp32"), (3, "bf16", "fp32")]
REST = [case for case in EVERY if case not in SOME]


def count(variants: list[str], folder: Path, shards: Path) -> list[dict[str, Any]]:
    config, out = folder / "settings" / "counted.py", folder / "counted.json"
    config.parent.mkdir()
    config.write_text(CONFIG.format(runs=str(folder / "runs"), data=str(shards)))
    run_processes(2, str(PROGRAM), str(config), str(out), *variants)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, small_shards: Path) -> dict[Any, dict[str, Any]]:
    """What was counted under some settings, with 24 blocks, and under ZeRO-3 with all weights sharded."""
    variants = [f"{setting(*case)} {THRESHOLD}=1000" for case in SOME]
    deep = f"{RECOMMENDED} model.options.depth=24 optim.clip=1000"
    variants += [deep, f"{setting(3, 'bf16_parameters')} {THRESHOLD}=0"]
    results = count(variants, tmp_path_factory.mktemp("counted"), small_shards)
    return dict(zip([*SOME, "deep", "sharded"], results, strict=True))


@pytest.fixture(scope="module")
def counted_rest(tmp_path_factory: pytest.TempPathFactory, small_shards: Path) -> dict[Any, dict[str, Any]]:
    """What was counted under all other settings, and with DeepSpeed's throughput timer on."""
    variants = [f"{setting(*case)} {THRESHOLD}=1000" for case in REST]
    variants.append(f"{RECOMMENDED} engine.deepspeed.timers.throughput.enabled=true")
    results = count(variants, tmp_path_factory.mktemp("rest"), small_shards)
    return dict(zip([*REST, "timer"], results, strict=True))


def waits(result: dict[str, Any], *phases: str) -> Counter[str]:
    """What was counted in some phases together, without the operations."""
    found = sum((Counter(result["counts"].get(phase, {})) for phase in phases), Counter())
    del found["operation"]
    return found


def described(found: Counter[str]) -> str:
    text = ", ".join(f"{found[kind]} {name}" for kind, name in NAMES.items() if found[kind]) or "nothing"
    return text.replace("1 scalars", "1 scalar")


def sent(result: dict[str, Any], kinds: tuple[str, ...]) -> str:
    """Collectives of some kinds as a table shows them, in numbers of the model's; single numbers are left out."""
    shares = {name: numbers / result["parameters"] for name, numbers in sorted(result["wire"].items())}
    parts = [f"{name.replace('_', '-')} {share:.1f}" for name, share in shares.items() if name.startswith(kinds)]
    return ", ".join(part for part in parts if not part.endswith(" 0.0"))


def row(case: tuple[int, str, str], result: dict[str, Any]) -> str:
    """The line of the page's table that a result makes."""
    stage, precision, reduce_dtype = case
    cells = [str(stage), f"`{precision}`", f"`{reduce_dtype}`"]
    cells += [described(waits(result, "micro_batch")), described(waits(result, "last_micro_batch", "update"))]
    cells += [sent(result, ("reduce", "all_reduce")), sent(result, ("all_gather",))]
    return f"| {' | '.join(cells)} |"


def test_recommended_setting_waits_for_nothing_in_a_micro_batch(counted: dict[Any, dict[str, Any]]) -> None:
    for case in (SOME[0], "deep"):
        result = counted[case]
        assert not waits(result, "micro_batch", "last_micro_batch"), result["places"]
        assert waits(result, "update") <= Counter({"item": 2, "host to device": 1}), result["places"]


def test_recommended_setting_updates_24_blocks_in_few_operations(counted: dict[Any, dict[str, Any]]) -> None:
    """One norm for each of the 296 tensors is most of it; a step that is clipped scales each tensor on top."""
    assert counted["deep"]["counts"]["update"]["operation"] <= 360


@pytest.mark.parametrize("case", SOME)
def test_some_settings_are_as_the_page_says(case: tuple[int, str, str], counted: dict[Any, dict[str, Any]]) -> None:
    assert row(case, counted[case]) in PAGE.read_text().splitlines(), counted[case]["places"]


@pytest.mark.long
@pytest.mark.parametrize("case", REST)
def test_all_settings_are_as_the_page_says(case: tuple[int, str, str], counted_rest: dict[Any, dict[str, Any]]) -> None:
    assert row(case, counted_rest[case]) in PAGE.read_text().splitlines(), counted_rest[case]["places"]


@pytest.mark.long
def test_the_throughput_timer_would_wait_twice_in_a_micro_batch(counted_rest: dict[Any, dict[str, Any]]) -> None:
    assert waits(counted_rest["timer"], "micro_batch") == Counter(device=2)


def test_the_page_has_no_other_rows() -> None:
    cases = re.findall(r"^\| ([123]) \| `(\w+)` \| `(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted((int(stage), precision, dtype) for stage, precision, dtype in cases) == sorted(EVERY)


def test_our_own_code_waits_only_when_it_logs(counted: dict[Any, dict[str, Any]]) -> None:
    for result in counted.values():
        for phase in ("micro_batch", "last_micro_batch", "update"):
            assert not [place for place in result["places"].get(phase, {}) if "sar_dist" in place]
        assert waits(result, "logging") <= Counter({"device to host": 2, "item": 2, "host to device": 2})
        assert result["skipped"] == 0


def test_recommended_setting_gathers_in_bfloat16_and_reduces_in_float32(counted: dict[Any, dict[str, Any]]) -> None:
    result = counted[SOME[0]]
    assert result["wire"] == {"all_reduce float32": result["parameters"], "all_gather bfloat16": result["parameters"]}


@pytest.mark.parametrize("precision", ["bf16", "bf16_parameters"])
def test_validation_is_the_same_under_zero_1_and_3(precision: str, counted: dict[Any, dict[str, Any]]) -> None:
    one, three = (counted[stage, precision, "fp32"]["validation"] for stage in (1, 3))
    assert one == three
    assert {"loss_cls", "entropy", "components"} <= one.keys()


@pytest.mark.long
@pytest.mark.parametrize(("precision", "reduce_dtype"), sorted({case[1:] for case in EVERY}))
def test_validation_is_the_same_under_every_stage(
    precision: str, reduce_dtype: str, counted: dict[Any, dict[str, Any]], counted_rest: dict[Any, dict[str, Any]]
) -> None:
    results = {**counted, **counted_rest}
    one, two, three = (results[stage, precision, reduce_dtype]["validation"] for stage in (1, 2, 3))
    if (precision, reduce_dtype) == ("bf16", "bf16"):  # ZeRO-3 then gathers float32 weights in bfloat16
        assert one == two
        assert one["loss_cls"] == pytest.approx(three["loss_cls"], rel=1e-3)
    else:
        assert one == two == three


def test_zero_3_gathers_weights_after_they_are_written(counted: dict[Any, dict[str, Any]]) -> None:
    """A threshold of 0 takes the order away, which ``check_engine`` refuses on GPUs; it shows that this is counted."""
    for case in (SOME[1], SOME[3]):
        assert counted[case]["gathers"] > 20
        assert counted[case]["unordered"] == 0
    assert counted["sharded"]["unordered"] > 20
