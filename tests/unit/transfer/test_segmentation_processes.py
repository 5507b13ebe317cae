import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from segmentation_factory import small_task, write_ade_layout
from support import REAL_DATA, ROOT, run_processes, start_processes

PROGRAM = str(Path(__file__).parent / "segmentation_program.py")
# The program imports its neighbours and the tests' helpers.
PATHS = {"PYTHONPATH": f"{Path(__file__).parent}:{ROOT / 'tests'}:{ROOT}"}
CAMVID = REAL_DATA / "camvid_ade_layout"


def run_program(world, root, out, settings):
    run_processes(world, PROGRAM, str(root), str(out), *(f"{key}={value}" for key, value in settings.items()), **PATHS)
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize(
    "head", ["upernet", *(pytest.param(name, marks=pytest.mark.long) for name in ("linear", "dpt"))]
)
def test_two_processes_do_what_one_does(head, tmp_path):
    """The same crops, masks and batch statistics; only the order of sums differs."""
    root = write_ade_layout(tmp_path / "set", train=7, val=5)
    settings = {"head": head, "iterations": 5, "drop_path": 0.2, "random_baseline": False, "lr": 1e-3}
    task = small_task(root, tmp_path / "one", **settings)
    one = task.run(task.prepare()).metrics
    two = run_program(2, root, tmp_path / "two", settings)["metrics"]
    assert one == pytest.approx(two, abs=0.5)
    first, second = (load_file(tmp_path / name / "training.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name].float(), second[name].float(), rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2])
def test_kill_and_start_again_gives_the_same_bits(world, tmp_path):
    root = write_ade_layout(tmp_path / "set")
    settings = {"head": "upernet", "iterations": 60, "checkpoint_every": 3, "random_baseline": False}
    whole = run_program(world, root, tmp_path / "whole", settings)

    out, texts = tmp_path / "killed", [f"{key}={value}" for key, value in settings.items()]
    processes = start_processes(world, PROGRAM, str(root), str(out), *texts, **PATHS)
    while not (out / "training.safetensors").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()  # waits, and closes the pipe
    assert int(load_file(out / "training.safetensors")["iteration"]) < 60

    resumed = run_program(world, root, out, settings)
    assert any(line.startswith("going on after step") for line in resumed["said"])
    assert resumed["metrics"] == whole["metrics"]
    files = [tmp_path / name / "training.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.long
@pytest.mark.skipif(not CAMVID.is_dir(), reason="the small real data are not here")
def test_street_scenes_are_learnt_better_than_the_majority_class(tmp_path):
    """CamVid in ADE20K's layout: even a random frozen backbone tells sky from road."""
    settings = {"crop": 64, "short_side": 64, "iterations": 60, "global_batch": 8, "lr": 2e-2}
    task = small_task(CAMVID, tmp_path, random_baseline=False, **settings)
    outcome = task.run(task.prepare())
    assert outcome.samples == 51
    assert len(outcome.tables["per_class"]) == 11
    assert outcome.metrics["mIoU"] > outcome.baselines["majority class"]["mIoU"] + 5
