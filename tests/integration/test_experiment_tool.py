"""tools/experiment.py as a user runs it: real training, real evaluation, tables at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import SMALL_CONFIG, tool

TOOL = "tools/experiment.py"
SPECIFICATION = """
from sar_dist.config import load_config
from sar_dist.experiment import Arm, Evaluation, Experiment


def experiment() -> Experiment:
    return Experiment(
        name="mini",
        title="Miniature",
        base=load_config({config!r}, ["optim.epochs=2"]),
        arms=(
            Arm(name="baseline", what="plain", changes={{"regularizer.weight": 0.0}}),
            Arm(name="method", what="entropy", changes={{"regularizer.weight": 0.1}}),
        ),
        seeds=(0, 1),
        evaluations=(Evaluation(name="knn", task="knn", data={data!r}, settings={{"workers": 0}}),),
    )
"""


@pytest.fixture
def specification(tmp_path: Path, small_shards: Path) -> Path:
    (tmp_path / "small.py").write_text(SMALL_CONFIG.format(runs=str(tmp_path / "runs"), data=str(small_shards)))
    path = tmp_path / "mini.py"
    path.write_text(SPECIFICATION.format(config=str(tmp_path / "small.py"), data=str(small_shards)))
    return path


def test_bad_input_is_one_line(tmp_path: Path, specification: Path) -> None:
    missing = tool(TOOL, str(specification), "--out", str(tmp_path / "out"), "--arm", "methd")
    assert missing.status == 2
    assert missing.stderr.strip() == "error: experiment mini has no arm 'methd'; its arms are baseline, method"
    specification.write_text(specification.read_text().replace("data='", "data='no"))
    nowhere = tool(TOOL, str(specification), "--out", str(tmp_path / "out"))
    assert nowhere.status == 2
    assert nowhere.stderr.startswith("error: no data for the evaluation knn")
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_whole_experiment_and_one_arm_of_it_again(tmp_path: Path, specification: Path) -> None:
    out = tmp_path / "out"
    first = tool(TOOL, str(specification), "--out", str(out), "--jobs", "2", timeout=900)
    assert first.status == 0, first.stdout + first.stderr
    table = (out / "results.md").read_text()
    assert "method - baseline" in table
    for metric in ("top-1, %", "spatial entropy, nats", "components of a map", "knn: "):
        row = next(line for line in table.splitlines() if line.startswith(f"| {metric}"))
        assert row.count("(2)") == 2
    assert (out / "experiment.html").stat().st_size > 50_000

    again = tool(TOOL, str(specification), "--out", str(out))
    assert again.status == 0
    assert again.stdout.count("4 of 4 done already") == 2
    assert "started" not in again.stdout
    assert (out / "results.md").read_text() == table

    elsewhere = tmp_path / "elsewhere"
    one = tool(TOOL, str(specification), "--out", str(elsewhere), "--arm", "method", "--seed", "1", "--stage", "train")
    assert one.status == 0, one.stdout + one.stderr
    summaries = [json.loads((at / "runs" / "method_seed1" / "summary.json").read_text()) for at in (out, elsewhere)]
    assert summaries[0]["validation"] == summaries[1]["validation"]
