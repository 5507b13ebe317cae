"""Head diversity, attention entropy and distillation: value and gradient against plain definitions in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_factory import random_model, settings, write_run
from support import ROOT
from torch import Tensor

from sar_dist.config import AugmentSettings, ModelSettings, RegularizerSettings, RunConfig, load_config
from sar_dist.models import build_model, model_on_meta
from sar_dist.observe import count_flops
from sar_dist.planning import Machine, ModelShape, make_plan
from sar_dist.terms import TERMS, TermSetup, check_terms, term_costs
from sar_dist.terms.attention_entropy import attention_entropy
from sar_dist.terms.distillation import hard_distillation, soft_distillation
from sar_dist.terms.head_diversity import head_similarity
from sar_dist.training import ClassificationTask

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def assert_equal_with_gradients(ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor) -> None:
    one, other = ours(x), plain(x)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(0.5, 2, one.numel(), dtype=torch.float64).view_as(one)
    (gradient,), (expected) = (
        torch.autograd.grad((one * weights).sum(), x),
        torch.autograd.grad((other * weights).sum(), x)[0],
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-12)


def plain_entropies(similarity: Tensor) -> Tensor:
    rows = []
    for map_ in similarity.flatten(0, 1):
        exponentials = [value.exp() for value in map_.flatten()]
        total = sum(exponentials)
        rows.append(sum(-(one / total) * (one / total).log() for one in exponentials))
    return torch.stack(rows).view(similarity.shape[:2])  # type: ignore[arg-type]


def test_attention_entropy_is_its_definition() -> None:
    assert_equal_with_gradients(attention_entropy, plain_entropies, random(2, 3, 3, 4))
    assert attention_entropy(torch.zeros(1, 1, 5, 5)).item() == pytest.approx(math.log(25))
    narrow = torch.zeros(1, 1, 5, 5)
    narrow[0, 0, 2, 2] = 100
    assert attention_entropy(narrow).item() == pytest.approx(0, abs=1e-6)


def plain_similarities(heads: Tensor) -> Tensor:
    batch, count = heads.shape[:2]
    values = []
    for image in heads:
        for i in range(count):
            cosines = [
                (image[i] * image[j]).sum() / ((image[i] ** 2).sum().sqrt() * (image[j] ** 2).sum().sqrt())
                for j in range(count)
                if j != i
            ]
            values.append(torch.stack(cosines).mean())
    return torch.stack(values).view(batch, count)


def test_head_diversity_is_its_definition() -> None:
    assert_equal_with_gradients(head_similarity, plain_similarities, random(2, 3, 5, 4))
    heads = random(1, 2, 3, 4).detach()
    torch.testing.assert_close(head_similarity(heads[:, [0, 0]]), torch.ones(1, 2, dtype=torch.float64))


def test_head_diversity_is_of_the_attention_times_the_values_of_the_last_block() -> None:
    model = random_model(settings())
    images = torch.randn(2, 3, 32, 32)
    x = model.vit._pos_embed(model.vit.patch_embed(images))
    x = model.vit.blocks[0](x)
    attention = model.vit.blocks[1].attn
    q, k, v = attention.qkv(model.vit.blocks[1].norm1(x)).reshape(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    expected = (q @ k.transpose(2, 3) / 4).softmax(3) @ v
    torch.testing.assert_close(model(images)["heads"][0], expected, rtol=1e-4, atol=1e-5)


def plain_soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    values = []
    for ours, theirs in zip(student, teacher, strict=True):
        p = (theirs / temperature).exp() / (theirs / temperature).exp().sum()
        q = (ours / temperature).exp() / (ours / temperature).exp().sum()
        values.append(temperature**2 * (p * (p / q).log()).sum())
    return torch.stack(values)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_is_its_definition(temperature: float) -> None:
    teacher = random(4, 5, seed=1).detach()
    assert_equal_with_gradients(
        lambda x: soft_distillation(x, teacher, temperature),
        lambda x: plain_soft(x, teacher, temperature),
        random(4, 5),
    )
    assert soft_distillation(teacher, teacher, temperature).abs().max() < 1e-12


def test_hard_distillation_is_its_definition() -> None:
    teacher = random(4, 5, seed=1).detach()
    best = [max(range(5), key=lambda number, row=row: row[number].item()) for row in teacher]
    assert_equal_with_gradients(
        lambda x: hard_distillation(x, teacher),
        lambda x: torch.stack([row.exp().sum().log() - row[label] for row, label in zip(x, best, strict=True)]),
        random(4, 5),
    )


def teacher_run(tmp_path: Path, model: ModelSettings) -> Path:
    return write_run(tmp_path, model, {1: random_model(model).vit})


def setup(**changes: Any) -> TermSetup:
    return TermSetup(**{"grid": (4, 4), "epochs": 10, "num_classes": 4, "device": CPU, **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_parameters"])
def test_a_teacher_sees_what_it_was_trained_on_once_a_batch(precision: str, tmp_path: Path) -> None:
    """The student's images have another normalisation and size than the teacher's."""
    model = settings()
    run = teacher_run(tmp_path, model)
    kind = TERMS["distillation"]
    term = kind(
        kind.settings_class(weight=1.0, teacher=str(run), kind="soft"),
        setup(precision=precision, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )
    calls: list[int] = []
    term.teacher.register_forward_hook(lambda *_: calls.append(1))
    pixels = torch.rand(2, 3, 32, 32)
    student = torch.randn(2, 4, requires_grad=True)
    scores = term({"logits": student, "images": (pixels - 0.5) / 0.5})
    assert calls == [1]
    augment = AugmentSettings()
    mean, std = (torch.tensor(values)[:, None, None] for values in (augment.mean, augment.std))
    logits = random_model(model).vit((pixels - mean) / std)
    expected = plain_soft(student.double(), logits.double(), 3.0)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    torch.testing.assert_close(scores.per_sample["distillation"].double(), expected, rtol=tolerance, atol=tolerance)
    scores.loss.backward()
    assert all(parameter.grad is None for parameter in term.teacher.parameters())
    assert student.grad is not None
    kinds = {parameter.dtype for parameter in term.teacher.parameters()}
    assert kinds == {torch.bfloat16 if precision == "bf16_parameters" else torch.float32}
    assert term({"logits": student, "images": torch.randn(2, 3, 48, 48)}).loss.isfinite()


DISTILLED = {"name": "deit_tiny_distilled_patch16_224"}


def distilled_config(run: Path, **term: Any) -> RunConfig:
    entry = {"name": "distillation", "weight": 1.0, "teacher": str(run), "student": "token", **term}
    return RunConfig(run={"name": "x"}, model=settings(**DISTILLED), terms=[entry], engine={"precision": "fp32"})


def test_the_distillation_token_learns_from_the_teacher_and_the_class_token_from_the_labels(tmp_path: Path) -> None:
    config = distilled_config(teacher_run(tmp_path, settings()))
    check_terms(config, model_on_meta(config.model, config.regularizer))
    task = ClassificationTask(config, (4, 4), CPU)
    model = build_model(config.model, config.regularizer).train()
    images = torch.randn(4, 3, 32, 32)
    assert "distillation_logits" not in model(images)
    task.prepare(model)
    output = {**model(images), "images": images}
    features = model.vit.forward_features(images)
    torch.testing.assert_close(output["logits"], model.vit.head(features[:, 0]))
    torch.testing.assert_close(output["distillation_logits"], model.vit.head_dist(features[:, 1]))
    task.terms[1](output).loss.backward(retain_graph=True)
    assert model.vit.head.weight.grad is None
    assert model.vit.head_dist.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(images)["logits"], model.vit(images))
    assert task.weights(9.9)["distillation_weight"] == 1.0


def test_the_weight_follows_its_own_schedule() -> None:
    kind = TERMS["attention_entropy"]
    constant = kind(kind.settings_class(weight=0.5, ramp_epochs=2, unit="step", decay="none"), setup())
    cosine = kind(kind.settings_class(weight=0.5, ramp_epochs=2, unit="step"), setup())
    assert [constant.weight(epoch) for epoch in (0, 1, 2, 6, 10)] == [0, 0.25, 0.5, 0.5, 0.5]
    assert [cosine.weight(epoch) for epoch in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.25, 0.5, 0.25, 0])


def test_terms_say_their_flops_and_the_plan_counts_them(tmp_path: Path) -> None:
    run = teacher_run(tmp_path, settings())
    config = distilled_config(run)
    config = config.vary({"terms": [*config.terms, {"name": "head_diversity", "weight": 1.0}]})
    model = model_on_meta(config.model, config.regularizer)
    costs = term_costs(config, model)
    teacher = model_on_meta(settings(), RegularizerSettings())
    assert (
        costs.flops["distillation"] == count_flops(teacher, (torch.empty(1, 3, 32, 32, device="meta"),)).forward_flops
    )
    assert costs.flops["head_diversity"] == 3 * 2 * 2 * 2 * (18 * 16)  # forward and twice that; MACs of a 2 x 2 product
    keys = 2 * 16 * 16  # heads, patches, size; similarity and the query's gradient are products, the keys' one is not
    assert 5 * keys < costs.flops["entropy"] < 6 * keys
    parameters = sum(parameter.numel() for parameter in teacher.parameters())
    assert costs.held_bytes == 4 * parameters
    shape = ModelShape.of(config)
    assert shape.training_flops == 6 * shape.forward_macs + costs.total_flops
    machine = Machine(1, 1)
    plan, bare = (make_plan(one, machine, 10_000) for one in (config, config.vary({"terms": []})))
    assert plan.cost.images_per_second < bare.cost.images_per_second
    held = plan.chosen.memory.total("rest") - bare.chosen.memory.total("rest")
    assert held == costs.held_bytes
    assert plan.as_dict()["term_flops"] == costs.flops


def test_a_term_that_is_only_measured_costs_no_training() -> None:
    config = load_config(ROOT / "configs" / "demo.py", ["terms=[{name: attention_entropy, weight: 0}]"])
    assert set(term_costs(config, model_on_meta(config.model, config.regularizer)).flops) == {"entropy"}
