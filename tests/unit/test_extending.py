"""docs/extending.md is true: its code, in files outside the package, adds what it says, without a change in the package."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from run_factory import random_model, write_run
from run_factory import settings as tiny_model
from support import ROOT, tool

from sar_dist.config import RegularizerSettings, RunConfig, RunSettings
from sar_dist.data import load_manifest
from sar_dist.data.making import WritingOptions, write_splits
from sar_dist.errors import UserError
from sar_dist.models import build_model, model_on_meta
from sar_dist.observe import RunLogger, check_destinations
from sar_dist.planning import ModelShape
from sar_dist.terms import build_terms, check_terms
from sar_dist.transfer import find_task

MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that holds the modules of the page."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_family_is_tapped_planned_and_trained(outside: Path) -> None:
    model = tiny_model().model_copy(
        update={"name": "parallel_family:parallel_vit", "options": {}, "no_skip_last_block": False, "drop_path": 0.0}
    )
    built = build_model(model, RegularizerSettings())
    images = torch.randn(2, 3, model.image_size, model.image_size)
    output = built(images)
    assert torch.equal(output["logits"], built.vit(images))
    untapped = build_model(model, RegularizerSettings(blocks=(0,)))
    untapped.load_state_dict(built.state_dict())
    assert torch.equal(untapped(images)["logits"], output["logits"])
    assert output["keys"][0].shape == (2, 3, built.grid[0] * built.grid[1], 16)
    output["queries"][0].sum().backward()
    assert built.vit.blocks[-1].attn.qkv.weight.grad.abs().sum() > 0
    shape = ModelShape.of(RunConfig(run=RunSettings(name="a"), model=model))
    assert (shape.block.heads, shape.depth, shape.block.hidden) == (3, 2, 192)
    with pytest.raises(UserError, match="no skip of their own"):
        model_on_meta(model.model_copy(update={"no_skip_last_block": True}), RegularizerSettings())


def test_a_term_is_part_of_the_loss_and_measured(outside: Path) -> None:
    entry = {"name": "confidence_term:Confidence", "weight": 0.5}
    config = RunConfig(run=RunSettings(name="a"), model=tiny_model(), terms=(entry,))
    check_terms(config, model_on_meta(config.model, config.regularizer))
    term = build_terms(config, (2, 2), torch.device("cpu"))[1]
    logits = torch.randn(3, 5, requires_grad=True)
    scores = term({"logits": logits})
    expected = -torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(scores.per_sample["confidence"], expected)
    torch.testing.assert_close(scores.loss, expected.mean())
    assert term.weight(0.0) == 0.5


def test_a_destination_gets_the_metrics(outside: Path) -> None:
    name = "csv_destination:CommaSeparated"
    check_destinations((name,))
    logger = RunLogger(outside, enabled=True, total_steps=9, description="a", to=(name,))
    logger.start({}, -1)
    logger.metrics(3, {"loss": 2.5})
    logger.figure("attention", Figure(), 3)
    logger.hyperparameters({}, {"top1": 50.0})
    logger.close()
    assert (outside / "metrics.csv").read_text() == "3,train/loss,2.5\n3,final/top1,50.0\n"
    assert logger.failures == 0


def test_a_task_runs_by_its_import_path(outside: Path, small_shards: Path) -> None:
    run = write_run(outside / "run", tiny_model(), {1: random_model(tiny_model()).vit})
    done = tool(
        *("tools/transfer_eval.py", "--task", "brightness_task:SurePredictions", "--model", str(run)),
        *("--data", str(small_shards), "--out", str(outside / "out"), "threshold=0", "workers=0"),
        PYTHONPATH=f"{outside}:{ROOT}",
    )
    assert done.status == 0, done.stderr
    (result,) = (outside / "out").rglob("result.json")
    assert '"sure": 100.0' in result.read_text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere_at_all:Task", "there is no module 'nowhere_at_all'"),
        ("json:JSONDecoder", "no class JSONDecoder that is a"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        find_task(name)


def test_a_source_is_written(outside: Path) -> None:
    source = importlib.import_module("gradient_source").Gradients
    write_splits([source("train", 40), source("val", 6)], outside / "shards", WritingOptions(processes=1))
    manifest = load_manifest(str(outside / "shards"), "train")
    assert (manifest.total, manifest.classes) == (40, ("across", "down"))
