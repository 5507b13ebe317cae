"""tools/plan.py through its command line, in this process to save its imports."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "plan.py"


@pytest.fixture
def plan(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SAR_DIST_DATA", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_status:
            runpy.run_path(str(TOOL), run_name="__main__")
        return exit_status.value.code, capsys.readouterr()

    return run


VIT_L = ("--config", ROOT / "configs" / "vit_l_in1k.py", "--nodes", 2, "--gpus-per-node", 8)


def test_tables_and_json(plan, tmp_path):
    out = tmp_path / "plan.json"
    status, text = plan(*VIT_L, "--train-images", 1281167, "--price-per-gpu-hour", 2, "--json", out)
    assert status == 0, text.err
    assert "4096 = 256 images x 1 accumulated x 16 GPUs" in text.out
    assert "the configured setting fits" in text.out
    assert "1,281,167 images, 312 steps an epoch, 93,600 in all" in text.out
    report = json.loads(out.read_text())
    assert report["batch"] == {"global_batch": 4096, "micro_batch": 256, "accumulation": 1, "world_size": 16}
    assert report["cost"]["price"] == pytest.approx(2 * report["cost"]["gpu_hours"])
    assert len(report["settings"]) == 14
    assert [setting["zero_stage"] for setting in report["settings"] if setting["configured"]] == [1]


def test_a_setting_that_does_not_fit_gets_advice(plan):
    status, text = plan(*VIT_L, "--gpu-memory", 16, "engine.activation_checkpointing=false")
    assert status == 0
    assert "does NOT fit" in text.out
    assert "use: engine.zero_stage=1 engine.offload=none engine.activation_checkpointing=true" in text.out


def test_the_training_set_is_counted_where_it_is(plan, small_config):
    status, text = plan("--config", small_config, "--nodes", 1, "--gpus-per-node", 2)
    assert status == 0, text.err
    assert "96 images, 6 steps an epoch, 24 in all" in text.out
    assert "assumed; --train-images" not in text.out


def test_the_sets_of_a_mixture_are_counted_together_unless_an_epoch_is_given(
    plan, small_config, small_shards, tmp_path
):
    shutil.copytree(small_shards, tmp_path / "copy")
    sets = f"data.train=[{{shards: {small_shards}, weight: 3}}, {{shards: {tmp_path / 'copy'}, weight: 1}}]"
    run = ("--config", small_config, "--nodes", 1, "--gpus-per-node", 2)
    for more, images, steps in (((), 192, 12), (("data.epoch_samples=48",), 48, 3)):
        status, text = plan(*run, sets, *more)
        assert status == 0, text.err
        assert f"{images} images, {steps} steps an epoch" in text.out


def test_a_missing_training_set_is_said(plan):
    status, text = plan(*VIT_L, "data.train=nowhere")
    assert status == 0
    assert "ImageNet-1k's size is assumed; --train-images says another" in text.out
    assert "…" not in text.out  # nothing is cut off


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine.micro_batch=60"], "not a multiple"),
        (["--mfu", "40"], "--mfu is a share"),
        (["--train-images", "10"], "less than one global batch"),
        (["model.name=vit_larg_patch16_224"], "did you mean"),
        (["--json", "/nonexistent/plan.json"], "cannot write"),
    ],
)
def test_bad_input_is_one_line(plan, arguments, message):
    status, text = plan(*VIT_L, *arguments)
    assert status == 2
    assert message in text.err
    assert text.err.count("\n") == 1
