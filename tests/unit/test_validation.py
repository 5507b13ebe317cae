"""A problem that pydantic finds is one line: what is wrong, with which value, and what was meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sar_dist.config import RunConfig, RunSettings
from sar_dist.errors import UserError
from sar_dist.experiment import load_experiment
from sar_dist.transfer.result import read_result
from sar_dist.transfer.tasks.finetune import FinetuneSettings, run_config
from sar_dist.validation import describe_problem, one_line


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = Field(0.0, ge=0)
    options: dict[str, int] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Inner:
        if self.rate > 1:
            raise ValueError("inner.rate is above 1; lower it")
        return self


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Inner()
    items: list[Inner] = []
    count: int


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "x.json: count is missing"),
        ({"count": 1, "inner": {"rate": 2}}, r"x.json: inner\.rate is above 1; lower it"),
        ({"count": 1, "inner": {"rat": 2}}, r"x.json: unknown key 'inner\.rat'; did you mean 'inner\.rate'\?"),
        ({"count": 1, "inner": {"rate": -1}}, r"x.json: inner\.rate=-1: Input should be greater than or equal to 0"),
        ({"count": 1, "items": [{"rate": "a" * 99}]}, r"x.json: items\.0\.rate='a{79}\.\.\. \(101 characters\): .*"),
        ({"count": "a", "inner": {"rate": -1}}, r"x.json: inner\.rate=-1: .* \(and 1 more\)"),
        ({"count": {"a": 1}}, r"x.json: count=\{'a': 1\}: Input should be a valid integer"),
    ],
)
def test_problem_is_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught, one_line("x.json", Outer):
        Outer.model_validate(values)
    assert re.fullmatch(line, str(caught.value))


def test_misspelt_key_is_compared_with_nothing_where_the_model_is_unknown() -> None:
    with pytest.raises(UserError, match=r"^unknown key 'inner.rat'$"), one_line(""):
        Outer.model_validate({"count": 1, "inner": {"rat": 2}})


def test_error_type_is_the_callers() -> None:
    class Damage(UserError):
        pass

    with pytest.raises(Damage, match="count is missing"), one_line("x.json", Outer, Damage):
        Outer.model_validate({})


def test_damaged_result_names_the_field(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with pytest.raises(UserError, match=r"result\.json is not a result of tools/transfer_eval\.py: No such file"):
        read_result(file)
    file.write_text(json.dumps({"task": 5}))
    with pytest.raises(UserError, match=r"result\.json is not a result of .*: task=5: Input should be a valid string"):
        read_result(file)
    file.write_text("{")
    with pytest.raises(UserError, match=r"result\.json is not a result of .*: it is cut off, or no JSON"):
        read_result(file)


def test_experiment_names_file_arm_and_key(tmp_path: Path) -> None:
    file = tmp_path / "grid.py"
    base = RunConfig(run=RunSettings(name="x")).model_dump()
    file.write_text(
        "from sar_dist.experiment import Experiment\n\n\ndef experiment():\n"
        f"    arms = [{{'name': 'a', 'what': 'a', 'changes': {{'optim.lr': -1}}}}]\n"
        f"    return Experiment(name='n', title='t', base={base!r}, arms=arms, seeds=(0,))\n"
    )
    with pytest.raises(UserError, match=r"grid\.py: arm a: optim\.lr=-1: Input should be greater than 0$"):
        load_experiment(file)


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"optim": {"min_lr": -1}}, r"train\.optim\.min_lr=-1: Input should be greater than or equal to 0"),
        ({"optim": {"lrr": 1}}, r"unknown key 'train\.optim\.lrr'; did you mean 'lr'\?"),
    ],
)
def test_finetuning_names_the_key_of_training(train: dict[str, Any], line: str, tmp_path: Path) -> None:
    config = RunConfig(run=RunSettings(name="x"))
    loaded = SimpleNamespace(settings=config.model, image_size=224, weights=None, augment=config.augment)
    backbone: Any = SimpleNamespace(loaded=loaded, has_class_token=True)
    fitting = run_config(backbone, FinetuneSettings(train={"optim": {"min_lr": 0.0}}), tmp_path, 5)
    assert (fitting.optim.min_lr, fitting.optim.global_batch) == (0.0, 512)
    with pytest.raises(UserError, match=f"^{line}"):
        run_config(backbone, FinetuneSettings(train=train), tmp_path, 5)


def test_one_value_where_several_are_wanted_says_how_to_write_it() -> None:
    class Several(BaseModel):
        k: tuple[int, ...]

    for value, message in (
        (3, "k=3: several values are wanted; write k=[3]"),
        (10**5000, "k=a very long number: several values are wanted; write k=[a very long number]"),
        (None, "k=None: Input should be a valid tuple"),
    ):
        with pytest.raises(ValidationError) as caught:
            Several.model_validate({"k": value})
        assert describe_problem(caught.value, Several) == message
