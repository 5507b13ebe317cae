"""What a specification may say, and what it says when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment_factory import ARMS, make_experiment
from pydantic import ValidationError
from support import ROOT

from sar_dist.engine import total_steps
from sar_dist.errors import UserError
from sar_dist.experiment import Analysis, Arm, Evaluation, Measure, load_experiment

SPECIFICATIONS = sorted(
    path for path in (ROOT / "configs" / "experiments").glob("*.py") if path.stem not in ("__init__", "arms")
)


RESIZED, RESIZED_SMALL, SIZES = "resized_in100", "resized_tiny", "confirm_cifar_sizes"
ANALYSIS = Analysis(
    arm="method", reference="baseline", primary=(Measure(metric="knn: top1", why="features", matters=1.0),)
)


@pytest.mark.parametrize("path", SPECIFICATIONS, ids=lambda path: path.stem)
def test_shipped_specifications(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert "Command: " in path.read_text()


@pytest.mark.parametrize(("name", "number"), [(RESIZED, 3), (RESIZED_SMALL, 2)])
def test_arms_about_image_size_differ_in_the_data_alone(name: str, number: int) -> None:
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{name}.py")
    arms = [experiment.run_config(arm, 1, Path("out")) for arm in experiment.arms]
    assert len({(config.data.train, config.data.val) for config in arms}) == len(arms) == number
    same = {"run.name": "x", "data.train": "x", "data.val": "x"}
    assert len({config.vary(same).model_dump_json() for config in arms}) == 1


def test_arms_about_the_size_of_the_training_set_take_the_same_steps() -> None:
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{SIZES}.py")
    arms = {arm.name: experiment.run_config(arm, 3, Path("out")) for arm in experiment.arms}
    for size in (500, 1500, 5000):
        plain, method = arms[f"no_skip_{size}"], arms[f"method_10_{size}"]
        assert (plain.regularizer.weight, method.regularizer.weight) == (0, 0.1)
        assert plain.data.train == method.data.train
        batches = size // method.optim.global_batch
        assert total_steps(method.optim, batches) == total_steps(plain.optim, batches) == 780
        assert method.regularizer.ramp_epochs * batches == pytest.approx(78)
    assert len({(config.data.train, config.data.val) for config in arms.values()}) == 3


@pytest.mark.parametrize(
    "path", [p for p in SPECIFICATIONS if p.stem not in (RESIZED, RESIZED_SMALL, SIZES)], ids=lambda path: path.stem
)
def test_arms_about_the_method(path: Path) -> None:
    experiment = load_experiment(path)
    baseline = experiment.run_config(experiment.baseline, 0, Path("out"))
    assert (baseline.regularizer.weight, baseline.model.no_skip_last_block) == (0.0, False)
    arms = {arm.name: experiment.run_config(arm, 1, Path("out")) for arm in experiment.arms}
    assert arms["no_skip"].regularizer.weight == 0
    assert arms["no_skip"].model.no_skip_last_block
    weights = {"method": 0.01, "entropy": 0.01, "method_10": 0.1, "entropy_10": 0.1}
    for name in weights.keys() & arms.keys():
        assert arms[name].regularizer.weight == weights[name]
        assert arms[name].model.no_skip_last_block == name.startswith("method")
    for name in {"total_variation", "head_diversity", "attention_entropy"} & arms.keys():
        (term,) = arms[name].terms
        assert (term["name"], term["weight"], arms[name].regularizer.weight) == (name, 0.01, 0)
        assert (term["ramp_epochs"], term["unit"]) == (baseline.regularizer.ramp_epochs, baseline.regularizer.unit)
    # Nothing but the two parts of the method, and the other terms, tells the arms apart.
    same = {"run.name": "x", "regularizer.weight": 0.0, "model.no_skip_last_block": False, "terms": []}
    assert len({config.vary(same).model_dump_json() for config in arms.values()}) == 1


def test_run_configurations_and_names(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    config = experiment.run_config(ARMS[1], 7, tmp_path)
    assert (config.run.name, config.run.seed, config.run.dir) == ("method_seed7", 7, str(tmp_path))
    assert config.regularizer.weight == 0.01


def test_selection(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    arms, seeds = experiment.select()
    assert ([arm.name for arm in arms], seeds) == (["baseline", "method"], [0, 1])
    arms, seeds = experiment.select(["strong", "baseline", "strong"], [5])
    assert ([arm.name for arm in arms], seeds) == (["strong", "baseline"], [5])
    with pytest.raises(UserError, match="no arm 'methd'; its arms are baseline, method, strong"):
        experiment.select(["methd"])
    with pytest.raises(UserError, match="not -1"):
        experiment.select(seeds=[-1])
    with pytest.raises(UserError, match="a seed is 0 or more and at most 9223372036854775807, not 9223372036854775808"):
        experiment.select(seeds=[2**63])


def test_runs_are_in_the_order_of_seeds_and_arms_have_their_own(tmp_path: Path) -> None:
    own = ARMS[1].model_copy(update={"seeds": (1, 7)})
    experiment = make_experiment(tmp_path, arms=(ARMS[0], own, ARMS[2]))
    names = [experiment.run_name(arm, seed) for arm, seed in experiment.runs()]
    assert names == ["baseline_seed0", "baseline_seed1", "method_seed1", "method_seed7"]
    names = [experiment.run_name(arm, seed) for arm, seed in experiment.runs(["method", "strong"], [3])]
    assert names == ["method_seed3", "strong_seed3"]


def test_an_arm_by_term(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path).with_term("method", "total_variation", 0.3)
    arm = experiment.arms[-1]
    assert (arm.name, arm.against, arm.optional) == ("method-total_variation-0.3", ("method",), False)
    config = experiment.run_config(arm, 0, tmp_path)
    (term,) = config.terms
    assert (term["name"], term["weight"], config.regularizer.weight) == ("total_variation", 0.3, 0.01)
    assert term["ramp_epochs"] == config.regularizer.ramp_epochs
    two = experiment.with_term(arm.name, "my_terms:LogitNorm", 2)
    assert [term["name"] for term in two.run_config(two.arms[-1], 0, tmp_path).terms] == [
        "total_variation",
        "my_terms:LogitNorm",
    ]
    assert two.arms[-1].name == "method-total_variation-0.3-LogitNorm-2"
    with pytest.raises(UserError, match="no arm 'nothing'"):
        experiment.with_term("nothing", "total_variation", 0.3)
    with pytest.raises(UserError, match="two arms have the same name"):
        experiment.with_term("method", "total_variation", 0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": (ARMS[0], ARMS[0])}, "two arms have the same name"),
        ({"arms": (ARMS[2],)}, "is the baseline and cannot be optional"),
        ({"seeds": (1, 1)}, "a seed is named twice"),
        ({"seeds": ()}, "at least 1 item"),
        ({"seeds": (-1,)}, "greater than or equal to 0"),
        ({"seeds": (2**63,)}, "less than or equal to 9223372036854775807"),
        ({"arms": (Arm(name="a", what="", changes={"run.seed": 3}),)}, "arm a changes run.seed, which the experiment"),
        (
            {"arms": (Arm(name="a", what="", changes={"run": {"name": "x"}}),)},
            "arm a changes run, which the experiment",
        ),
        ({"evaluations": (Evaluation(name="a", task="t", data="d"),) * 2}, "two evaluations have the same name"),
        ({"arms": (Arm(name="a", what="w", changes={"optim.rate": 1}),)}, "arm a: unknown key 'optim.rate'"),
        ({"arms": (Arm(name="a", what="w", changes={"optim.lr": -1}),)}, "arm a: optim.lr=-1: .*greater than 0"),
        ({"arms": (Arm(name="a", what="w", against=("b",)),)}, "arm a is compared with 'b', which is no arm"),
        ({"analysis": (ANALYSIS.model_copy(update={"arm": "methd"}),)}, "the analysis names 'methd', which is no arm"),
    ],
)
def test_inconsistent_specifications(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_experiment(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def experiment(): return 3", "must return an Experiment, not int"),
        ("x = 1", r"spec\.py defines no experiment\(\); give one of"),
        ("import nothing_of_the_kind", "nothing_of_the_kind"),
        ("def experiment(:", "SyntaxError"),
        ("from sar_dist.experiment import Arm\ndef experiment(): return Arm(name='a b', what='')", "name"),
    ],
)
def test_files_that_are_no_specification(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "spec.py"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_experiment(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment file .*give one of configs/experiments"):
        load_experiment(tmp_path / "none.py")


def test_an_arms_own_seeds_are_seeds() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Arm(name="a", what="", seeds=(-1,))
