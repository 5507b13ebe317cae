"""Terms of the loss: by name, by import path, checked before anything starts, in losses, weights and measures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_factory import random_model, write_run
from run_factory import settings as tiny_model
from support import ROOT

from sar_dist.config import RunConfig, load_config
from sar_dist.errors import UserError
from sar_dist.models import model_on_meta
from sar_dist.regularizer import class_similarity, spatial_entropy_definition
from sar_dist.terms import TERMS, TermSetup, build_terms, check_terms
from sar_dist.terms.total_variation import total_variation
from sar_dist.training import ClassificationTask, RunDirectory

CPU = torch.device("cpu")
GRID = (8, 8)
VARIATION = "terms=[{name: total_variation, weight: 0.5, ramp_epochs: 2, unit: step}]"

# The example of the documentation, and what can be wrong with a class like it.
EXAMPLE = re.search(r"```python\n(# my_terms\.py\n.*?)```", (ROOT / "docs" / "terms.md").read_text(), re.DOTALL)
MISTAKES = """

class Detached(LogitNorm):
    name = "detached"

    def __call__(self, output):
        scores = super().__call__(output)
        return TermScores(scores.loss.detach(), {})


class Crashing(LogitNorm):
    name = "crashing"

    def __call__(self, output):
        return output["nothing"]


class Vector(LogitNorm):
    name = "vector"

    def __call__(self, output):
        return TermScores(output["logits"].mean(dim=1), {})


class Misshapen(LogitNorm):
    name = "misshapen"

    def __call__(self, output):
        return TermScores(output["logits"].mean(), {"misshapen": output["logits"]})


class Clashing(LogitNorm):
    name = "clashing"

    def __call__(self, output):
        scores = super().__call__(output)
        return TermScores(scores.loss, {"components": scores.per_sample["logit_norm"]})


class NoTerm:
    pass
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Iterator[Path]:
    """A configuration and, next to it, a file of the user's own terms, neither of which Python finds by itself."""
    assert EXAMPLE is not None
    (tmp_path / "my_terms.py").write_text(EXAMPLE[1] + MISTAKES)
    config = tmp_path / "mine.py"
    config.write_text((ROOT / "configs" / "demo.py").read_text())
    path = list(sys.path)
    yield config
    sys.path[:] = path
    sys.modules.pop("my_terms", None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has the classes of configs/demo.py, and other sizes and another normalisation."""
    model = tiny_model(num_classes=8)
    return write_run(tmp_path_factory.mktemp("teacher"), model, {1: random_model(model).vit})


def demo(*overrides: str) -> RunConfig:
    return load_config(ROOT / "configs" / "demo.py", overrides)


def outputs(batch: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, requires_grad=True)  # noqa: E731
    made = {"queries": [draw(batch, 2, 16)], "keys": [draw(batch, 2, 64, 16)], "heads": [draw(batch, 2, 65, 16)]}
    return {"logits": draw(batch, 8), "images": draw(batch, 3, 32, 32), **made}


def test_total_variation_is_its_definition() -> None:
    similarity = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    for image, head in ((0, 0), (1, 2)):
        one, squares = similarity[image, head], []
        for row in range(4):
            for column in range(5):
                squares += [(one[row, column] - one[row + 1, column]) ** 2] if row < 3 else []
                squares += [(one[row, column] - one[row, column + 1]) ** 2] if column < 4 else []
        expected = torch.stack(squares).mean() / 2
        assert total_variation(similarity)[image, head].item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.gradcheck(total_variation, similarity)
    assert total_variation(torch.full((1, 1, 3, 3), 7.0)).item() == 0
    assert total_variation(torch.ones(1, 1, 1, 1)).item() == 0


def test_terms_add_up_with_their_weights() -> None:
    config = demo(VARIATION, "regularizer.weight=0.3", "regularizer.ramp_epochs=2", "regularizer.unit=step")
    task = ClassificationTask(config, GRID, CPU)
    made = outputs()
    number = torch.arange(3)
    image = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    batch = {"image": image, "label": number, "epoch": number, "sample": number, "position": number}
    losses = task.losses(lambda images, sample_keys: made, batch, 1.0)
    assert task.weights(1.0) == {"entropy_weight": 0.15, "total_variation_weight": 0.25}
    similarity = class_similarity(made["queries"][0], made["keys"][0], GRID)
    entropy, variation = spatial_entropy_definition(similarity).mean(), total_variation(similarity).mean()
    assert losses["loss_entropy"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert losses["loss_total_variation"].item() == pytest.approx(variation.item(), rel=1e-5)
    assert list(losses) == ["loss", "loss_cls", "loss_entropy", "components", "loss_total_variation"]
    expected = losses["loss_cls"] + 0.15 * entropy + 0.25 * variation
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert {name: tuple(values.shape) for name, values in task.per_sample(made).items()} == dict.fromkeys(
        ("entropy", "components", "total_variation"), (3, 1, 2)
    )


def test_a_term_of_weight_0_is_measured_but_not_trained() -> None:
    task = ClassificationTask(demo("regularizer.weight=0", "terms=[{name: total_variation, weight: 0}]"), GRID, CPU)
    assert not any(term.is_trained for term in task.terms)
    assert set(task.per_sample(outputs())) == {"entropy", "components", "total_variation"}
    assert task.weights(3.0) == {"entropy_weight": 0.0, "total_variation_weight": 0.0}


def test_a_term_of_ones_own_file(own_file: Path) -> None:
    config = load_config(own_file, ["terms=[{name: my_terms:LogitNorm, weight: 0.1, power: 3}]"])
    check_terms(config, model_on_meta(config.model, config.regularizer))
    task = ClassificationTask(config, GRID, CPU)
    assert task.terms[1].settings.power == 3  # type: ignore[attr-defined]
    keys = {(quantity.prefix, quantity.key) for quantity in task.quantities}
    assert keys >= {("train", "loss_logit_norm"), ("train", "logit_norm_weight"), ("val", "logit_norm")}
    saved = RunConfig.model_validate_json(config.model_dump_json())
    assert saved == config


def load_and_check(path: Path, override: str) -> None:
    config = load_config(path, [override])
    check_terms(config, model_on_meta(config.model, config.regularizer))


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("[{name: total_variatoin, weight: 1}]", "did you mean total_variation"),
        ("[{weight: 1}]", "terms[0] has no name"),
        ("[{name: total_variation}]", "weight is missing"),
        ("[{name: total_variation, weight: -1}]", "weight=-1"),
        ("[{name: head_divergence, weight: 1}]", "did you mean head_diversity"),
        ("[{name: distillation, weight: 1}]", "teacher is missing"),
        ("[{name: distillation, weight: 1, teacher: runs/nothing}]", "runs/nothing: there is no such folder"),
        ("[{name: distillation, weight: 1, teacher: 'random:vit_tiny_patch16_224'}]", "has 1000 classes and model.num"),
        (
            "[{name: distillation, weight: 1, teacher: 'random:vit_tny_patch16_224'}]",
            "did you mean vit_tiny_patch16_224",
        ),
        ("[{name: distillation, weight: 1, teacher: TEACHER, student: token}]", "the model has no distillation token"),
        ("[{name: distillation, weight: 1, teacher: TEACHER, kind: sof}]", "Input should be 'soft' or 'hard'"),
        ("[{name: total_variation, weight: 1, ramp: 3}]", "unknown key 'ramp'; did you mean 'ramp_epochs'?"),
        ("[{name: total_variation, weight: 1}, {name: total_variation, weight: 2}]", "already"),
        ("[{name: spatial_entropy, weight: 1}]", "the spatial entropy is set by regularizer.*"),
        ("[{name: no_module:Term, weight: 1}]", "there is no module 'no_module'"),
        ("[{name: my_terms:Nothing, weight: 1}]", "has no 'Nothing'"),
        ("[{name: my_terms:NoTerm, weight: 1}]", "derive it from sar_dist.terms.WeightedTerm"),
        ("[{name: my_terms:LogitNorm, weight: 1, power: 0}]", "power=0"),
        ("[{name: my_terms:Detached, weight: 1}]", "its loss has no gradient"),
        ("[{name: my_terms:Crashing, weight: 1}]", "KeyError: 'nothing' ("),
        ("[{name: my_terms:Vector, weight: 1}]", "must be a floating-point scalar"),
        ("[{name: my_terms:Misshapen, weight: 1}]", "give (B,) or (B, blocks, heads)"),
        ("[{name: my_terms:Clashing, weight: 1}]", "both measure 'components'"),
    ],
)
def test_what_is_wrong_with_a_term_is_one_line(terms: str, expected: str, own_file: Path, teacher: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_and_check(own_file, f"terms={terms.replace('TEACHER', str(teacher))}")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_check_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    config = demo(VARIATION)
    check_terms(config, model_on_meta(config.model, config.regularizer))
    assert torch.equal(before, torch.get_rng_state())


def test_terms_are_part_of_what_a_run_is(tmp_path: Path) -> None:
    config = demo(f"run.dir={tmp_path}", VARIATION)
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    directory.check(config)
    with pytest.raises(UserError, match="terms="):
        directory.check(demo(f"run.dir={tmp_path}"))


def test_registered_terms_are_what_the_table_and_the_configuration_know(teacher: Path) -> None:
    needed = {"distillation": {"teacher": str(teacher)}}
    for name, kind in TERMS.items():
        setup = TermSetup(GRID, 10, 8, CPU)
        term = kind(kind.settings_class(weight=1.0, **needed.get(name, {})), setup)
        assert f"loss_{term.name}" in {quantity.key for quantity in term.quantities}, name
        assert set(term(outputs()).per_sample) <= {quantity.key for quantity in term.quantities}
    assert [term.name for term in build_terms(demo(), GRID, CPU)] == ["entropy"]
