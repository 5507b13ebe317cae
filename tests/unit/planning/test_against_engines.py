"""The memory and communication formulas against what two real DeepSpeed processes hold and send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import run_processes

from sar_dist.config import load_config
from sar_dist.planning import ModelShape, plan_memory
from sar_dist.planning.communication import collective_payloads
from sar_dist.planning.precision import Precision

CONFIG = """
from sar_dist.config import RunConfig


def config() -> RunConfig:
    return RunConfig(
        run={"name": "measured"},
        model={
            "name": "vit_tiny_patch16_224",
            "image_size": 32,
            "num_classes": 10,
            "options": {"embed_dim": 256, "depth": 12, "num_heads": 4},
        },
        optim={"global_batch": 4, "min_lr": 0, "epochs": 4, "warmup_epochs": 1},
        engine={"micro_batch": 2},
    )
"""
PROGRAM = Path(__file__).with_name("held_by_engines.py")
SMALL_BUCKET = "engine.deepspeed.zero_optimization.reduce_bucket_size=1000000"


EVERY = [f"engine.zero_stage={stage} optim.global_batch={batch}" for stage in (1, 2, 3) for batch in (4, 8)]
RELEASE = " ".join(
    f"engine.deepspeed.zero_optimization.stage3_{name}=4000000"
    for name in ("max_live_parameters", "max_reuse_distance", "prefetch_bucket_size")
)
EVERY.append(f"{EVERY[4]} {RELEASE}")
EVERY += [f"{EVERY[index]} engine.offload=optimizer" for index in (0, 2, 4)] + [f"{EVERY[4]} engine.offload=all"]
MUON = [f"{EVERY[index]} optim.name=muon" for index in (0, 2, 4, 7)]
SOME = [EVERY[0], EVERY[3], EVERY[4]]


@pytest.mark.parametrize(
    ("precision", "settings"),
    [
        ("bf16", SOME[:1]),
        ("bf16_parameters", SOME),
        pytest.param("fp32", MUON, marks=pytest.mark.long),
        pytest.param("bf16_parameters", MUON, marks=pytest.mark.long),
        pytest.param("bf16", EVERY, marks=pytest.mark.long),
        pytest.param("fp32", EVERY, marks=pytest.mark.long),
        pytest.param("bf16_parameters", EVERY, marks=pytest.mark.long),
        pytest.param("bf16 engine.reduce_dtype=bf16", EVERY, marks=pytest.mark.long),
        pytest.param("bf16_parameters engine.reduce_dtype=bf16", EVERY, marks=pytest.mark.long),
    ],
)
def test_two_processes_hold_and_send_what_is_planned(precision: str, settings: list[str], tmp_path: Path) -> None:
    config_file, out = tmp_path / "settings" / "measured.py", tmp_path / "held.json"
    config_file.parent.mkdir()
    config_file.write_text(CONFIG)
    variants = [f"engine.precision={precision} optim.ema=0.99 {SMALL_BUCKET} {setting}" for setting in settings]
    for variant in variants:  # each in processes of its own: an engine's last tensors go with the process alone
        run_processes(2, str(PROGRAM), str(config_file), str(out), variant)
        (measured,) = json.loads(out.read_text())
        config = load_config(config_file, variant.split())
        shape = ModelShape.of(config)
        plan = plan_memory(shape, config, 2)
        rest, peak = plan.total("rest") + plan.host_total, plan.peak + plan.host_total  # a CPU has one memory
        if config.engine.zero_stage < 3:
            # gloo gathers the updated weights into a copy of its own. NCCL, for which memory is planned, does not.
            peak = max(peak, rest + Precision.of(config).weight * shape.parameters)
        print(f"{variant}: rest {rest / measured['rest']:.4f}, peak {peak / measured['peak']:.4f}")
        assert rest == pytest.approx(measured["rest"], rel=0.01), variant
        assert peak == pytest.approx(measured["peak"], rel=0.2), variant
        payloads = collective_payloads(shape, config, 2)
        payloads["all_to_all"] /= 2  # half stays where it is, and only what is sent was counted
        for kind, size in payloads.items():
            if size:  # ZeRO-3 also gathers what it keeps whole once a step, and releases by module, not by parameter
                assert measured[kind] == pytest.approx(size, rel=0.15 if config.engine.zero_stage == 3 else 1e-5), kind
