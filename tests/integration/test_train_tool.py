"""tools/train.py as a user types it: what it leaves behind, what it says, and how it refuses."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from support import ROOT, Finished, read_metrics, tool

from sar_dist.checkpoint import complete_checkpoints, verify
from sar_dist.config import load_config


def train(config: Path, *overrides: str, **environment: str) -> Finished:
    return tool("tools/train.py", f"--config={config}", *overrides, **environment)


def test_a_run_leaves_the_documented_directory(small_config: Path, tmp_path: Path) -> None:
    done = train(
        small_config,
        "run.max_steps=7",
        "log.figure_images=3",
        "optim.ema=0.9",
        "engine.precision=bf16",
        "data.workers=1",
    )
    assert done.status == 0, done.stderr
    run = tmp_path / "runs" / "small"
    assert load_config(run / "config.json").run.max_steps == 7
    environment = json.loads((run / "environment.json").read_text())
    assert environment[0]["world_size"] == 1
    assert environment[0]["packages"]["torch"] != "not installed"
    metrics = read_metrics(run)
    assert sorted(metrics) == [1, 2, 3, 4, 5, 6, 7]
    expected = "loss loss_cls loss_entropy learning_rate entropy_weight gradient_norm images_per_second data_wait_share"
    assert set(expected.split()) <= metrics[7].keys()
    assert metrics[1]["entropy_weight"] == 0 < metrics[7]["entropy_weight"]
    for prefix in ("val", "val_ema"):
        assert [entry["images"] for entry in read_metrics(run, prefix).values()] == [21, 21]
    last = read_metrics(run, "val")[7]
    for name in ("entropy", "components"):
        assert last[name] == pytest.approx((last[f"{name}_block1_head0"] + last[f"{name}_block1_head1"]) / 2)
    assert list((run / "tensorboard").glob("events.*"))
    assert list((run / "figures").glob("attention_step_00000007.png"))
    assert (run / "checkpoints" / "latest").read_text() == "step_00000007\n"
    assert [verify(folder).step for folder in complete_checkpoints(run / "checkpoints")] == [7, 6]
    assert json.loads((run / "summary.json").read_text())["step"] == 7
    for said in (
        "GMACs forward",
        "finished 7 steps, 112 images",
        "tensorboard --logdir",
        str(run / "checkpoints"),
        str(run / "figures"),
    ):
        assert said in done.stdout

    again = train(small_config, "run.max_steps=7", "log.figure_images=3", "optim.ema=0.9", "engine.precision=bf16")
    assert again.status == 0, again.stderr
    assert "resumed after step 7" in again.stdout
    assert sorted(read_metrics(run)) == [1, 2, 3, 4, 5, 6, 7]


def test_processes_that_cannot_meet_end_with_a_status_of_their_own(small_config: Path) -> None:
    """slurm/multinode.sh tries again after it, on another port, and not after bad input."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = train(small_config, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert done.status == 3, done.stderr
    assert f"error: port {port} of this machine is taken, perhaps by another run; give this run a port" in done.stderr
    assert "Traceback" not in done.stderr


def test_best_and_regular_checkpoints_are_kept(small_config: Path, tmp_path: Path) -> None:
    done = train(
        small_config, "run.max_steps=13", "checkpoint.every=1", "checkpoint.keep_last=2", "checkpoint.keep_every=5"
    )
    assert done.status == 0, done.stderr
    run = tmp_path / "runs" / "small"
    best = json.loads((run / "summary.json").read_text())["best_step"]
    kept = {verify(folder).step for folder in complete_checkpoints(run / "checkpoints")}
    assert kept == {5, 10, 12, 13, best}


def test_bad_images_are_replaced_counted_and_listed(small_config: Path, small_shards: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_shards, broken)
    for split, victim in (("train", b"\xff\xd8"), ("val", b"\xff\xd8")):
        shard = next((broken / split).glob("*.tar"))
        content = bytearray(shard.read_bytes())
        start = content.index(victim)
        content[start + 2 : start + 200] = bytes(198)  # the first image of the shard
        shard.write_bytes(content)
        for index in (broken / split).glob("*.json"):
            index.unlink()
    done = train(small_config, f"data.train={broken}", f"data.val={broken}", "run.max_steps=6")
    assert done.status == 0, done.stderr
    run = tmp_path / "runs" / "small"
    assert read_metrics(run)[6]["bad_images"] >= 1
    assert "shard" not in done.stderr
    assert json.loads((run / "bad_images.jsonl").read_text().splitlines()[0])["key"]
    assert read_metrics(run, "val")[6]["bad_images"] == 1
    assert "1 of them unreadable and counted as wrong" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optim.lrr=1"], "unknown key 'optim.lrr'"),
        (["optim.lr=fast"], "optim.lr='fast'"),
        (["model.image_size=33"], "not divisible by the patch size 8"),
        (["model.name=vit_enormous"], "is not a timm model"),
        (["optim.global_batch=20"], "not a multiple of engine.micro_batch=8 on 1 process; use engine.micro_batch="),
        (["engine.precision=fp16"], "needs a GPU"),
        (["data.train=/nowhere/at/all"], "data.train: there is no /nowhere/at/all; make shards with"),
        (["data.val=null"], "data.val is not set"),
        (["optim.global_batch=128", "engine.micro_batch=128"], "less than one global batch of 128"),
        (["model.num_classes=3"], "model.num_classes"),
        (["engine.deepspeed.zero_optimisation.stage=1"], "did you mean 'zero_optimization'"),
        (["engine.deepspeed.train_batch_size=1"], "is decided by optim.global_batch"),
        (["data.streams=7"], "data.streams"),
        (["model.init_from=/nowhere.safetensors"], "model.init_from"),
        (["augment.mixup=0.8", "engine.micro_batch=1"], "must be even"),
        (["run.dir=/proc/runs"], "/proc"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    overrides: list[str], expected: str, small_config: Path, tmp_path: Path
) -> None:
    done = train(small_config, *overrides)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.status == 2, done.stderr
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_damaged_shard_is_refused_before_training(small_config: Path, small_shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(small_shards, damaged)
    shard = sorted((damaged / "train").glob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    done = train(small_config, f"data.train={damaged}")
    assert done.status == 2
    assert shard.name in done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    done = train(small_config, f"data.train={empty}")
    assert done.status == 2
    assert str(empty) in done.stderr


def test_data_is_found_below_the_data_folder(small_config: Path, small_shards: Path) -> None:
    name = small_shards.name
    done = train(
        small_config,
        f"data.train={name}",
        f"data.val={name}",
        "run.max_steps=1",
        SAR_DIST_DATA=str(small_shards.parent),
    )
    assert done.status == 0, done.stderr


def test_help_lists_every_key() -> None:
    done = tool("tools/train.py", "--help")
    assert done.status == 0
    assert "regularizer.weight (float, 0.01)" in done.stdout


def test_typed_commands_exist() -> None:
    for config in ("vit_s_in100", "vit_b_in1k", "vit_l_in1k"):
        done = tool("tools/train.py", "--config", f"configs/{config}.py", SAR_DIST_DATA="/nowhere")
        assert done.status == 2
        assert "data.train: there is no" in done.stderr
    assert (ROOT / "tools" / "make_shards.py").is_file()
