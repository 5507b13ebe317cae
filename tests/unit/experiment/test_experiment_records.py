"""Records of finished runs: what an experiment takes from them, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from experiment_factory import make_experiment, make_tools

from sar_dist.errors import UserError
from sar_dist.experiment import Experiment, RunOptions, collect, evaluate, keep_records, train
from sar_dist.experiment.page import markdown


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    return RunOptions(tmp_path / "out", tools=make_tools(tmp_path / "tools"), records=tmp_path / "records")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "data").mkdir()
    return make_experiment(tmp_path / "data")


def run_all(experiment: Experiment, options: RunOptions) -> list[str]:
    lines: list[str] = []
    assert train(experiment, [], [], options, lines.append)
    assert evaluate(experiment, [], [], options, lines.append)
    return lines


def test_tables_and_curves_follow_from_the_records_alone(
    experiment: Experiment, options: RunOptions, tmp_path: Path
) -> None:
    run_all(experiment, options)
    results = collect(experiment, options.out)
    assert keep_records(results, tmp_path / "records") == 4
    kept = collect(experiment, tmp_path / "elsewhere", tmp_path / "records")
    assert markdown(kept) == markdown(results)
    assert kept.quantities == results.quantities
    assert kept.runs["method"][1].curve("val", "entropy_block1_head0") == results.runs["method"][1].curve(
        "val", "entropy_block1_head0"
    )
    for file in (tmp_path / "records").iterdir():
        assert str(tmp_path) not in file.read_text()
    keep_records(kept, tmp_path / "again")
    for file in (tmp_path / "records").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_recorded_runs_count_as_finished(experiment: Experiment, options: RunOptions, tmp_path: Path) -> None:
    run_all(experiment, options)
    keep_records(collect(experiment, options.out), tmp_path / "records")
    (tmp_path / "records" / "method-seed1.json").unlink()
    shutil.rmtree(options.out)
    lines = run_all(experiment, options)
    assert "3 of 4 runs are in" in " ".join(lines)
    assert [line.split()[0] for line in (options.out / "calls").read_text().splitlines()] == ["method_seed1"]
    results = collect(experiment, options.out, options.records)
    assert {arm: list(seeds) for arm, seeds in results.runs.items()} == {"baseline": [0, 1], "method": [0, 1]}
    assert results.unfinished == ()


def test_a_run_without_all_its_evaluations_gets_no_record(
    experiment: Experiment, options: RunOptions, tmp_path: Path
) -> None:
    train(experiment, [], [0], options, lambda _: None)
    evaluate(experiment, ["method"], [0], options, lambda _: None)
    assert keep_records(collect(experiment, options.out), tmp_path / "records") == 1
    assert [file.name for file in (tmp_path / "records").iterdir()] == ["method-seed0.json"]


def test_a_repetition_is_compared_to_the_last_bit(experiment: Experiment, options: RunOptions, tmp_path: Path) -> None:
    run_all(experiment, options)
    keep_records(collect(experiment, options.out), tmp_path / "records")
    collect(experiment, options.out, options.records)  # the same numbers
    file = tmp_path / "records" / "method-seed1.json"
    content = json.loads(file.read_text())
    content["curves"]["val"]["entropy"][-1] += 1e-12
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"method-seed1.json says validation entropy = .*did not repeat bit for bit"):
        collect(experiment, options.out, options.records)


def test_records_that_do_not_fit(experiment: Experiment, options: RunOptions, tmp_path: Path) -> None:
    run_all(experiment, options)
    keep_records(collect(experiment, options.out), tmp_path / "records")
    longer = make_experiment(tmp_path / "data", base=experiment.base.vary({"optim.epochs": 20.0}))
    with pytest.raises(
        UserError, match=r"baseline-seed0.json was made with optim.epochs=300.0, .* says 20.0.*--records"
    ):
        train(longer, [], [], options, lambda _: None)
    file = tmp_path / "records" / "method-seed1.json"
    content = json.loads(file.read_text())
    del content["recipe"]["optim"]["clip"]  # as before there was such a key
    file.write_text(json.dumps(content))
    train(experiment, [], [], options, lambda _: None)
    content["recipe"]["optim"]["speed"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"method-seed1.json has a recipe of another version: .*speed"):
        train(experiment, [], [], options, lambda _: None)
    shutil.copy(tmp_path / "records" / "method-seed0.json", file)
    with pytest.raises(UserError, match="is of small, method, seed 0: not of small, method, 1"):
        collect(experiment, options.out, options.records)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"method-seed1.json is not the record of a run"):
        collect(experiment, options.out, options.records)
