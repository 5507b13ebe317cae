"""The confusion matrix and the distributions of a validation are exact over processes."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from support import run_processes

from sar_dist.training import validation_details
from sar_dist.training.hard_classes import hardest_classes
from sar_dist.training.validation_details import ValidationDetails

BATCHES, SIZE, CLASSES, HEADS = 6, 7, 5, 3


@pytest.fixture
def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCHES, SIZE)
    return {
        "labels": torch.randint(0, CLASSES, shape, generator=generator),
        "predicted": torch.randint(0, CLASSES, shape, generator=generator),
        "scored": torch.rand(shape, generator=generator) < 0.8,
        "entropy": torch.rand((*shape, 2, HEADS), generator=generator),
        "components": torch.randint(0, 9, (*shape, 2, HEADS), generator=generator),
        "of_images": torch.rand(shape, generator=generator),
        "losses": torch.rand(shape, generator=generator),
        "samples": torch.arange(BATCHES * SIZE).reshape(shape),
    }


def test_one_process_counts_every_scored_image_once(images: dict[str, torch.Tensor]) -> None:
    details = ValidationDetails(CLASSES, torch.device("cpu"))
    for labels, predicted, scored, entropy, components, of_images, losses, samples in zip(
        *images.values(), strict=True
    ):
        measures = {"entropy": entropy, "components": components, "of_images": of_images}
        details.add(labels, predicted, scored, measures, losses=losses, samples=samples)
    gathered = details.gather()
    check({"confusion": gathered.confusion, "hardest": gathered.hardest, **gathered.distributions}, images)


def test_two_processes_count_every_scored_image_once(images: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(images, tmp_path / "in.pt")
    program = Path(__file__).with_name("gather_details.py")
    run_processes(2, str(program), str(tmp_path / "in.pt"), str(tmp_path / "out.pt"))
    check(torch.load(tmp_path / "out.pt", weights_only=False), images)


def check(found: dict[str, Any], images: dict[str, torch.Tensor]) -> None:
    """Compare gathered details with a count image by image."""
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    scored = images["scored"]
    for label, predicted in zip(images["labels"][scored].tolist(), images["predicted"][scored].tolist(), strict=True):
        expected[label, predicted] += 1
    assert torch.equal(found.pop("confusion"), expected)
    examples = {each.number: [astuple(mistake) for mistake in each.examples] for each in found.pop("hardest")}
    assert examples == worst_images(images)
    of_images = found.pop("of_images")
    assert torch.equal(of_images.sort().values, images["of_images"][scored].sort().values)
    assert len(found) == 2 * HEADS
    for name, values in found.items():
        quantity, head = name.split("_head")
        assert torch.equal(values.sort().values, images[quantity][..., -1, int(head)][scored].float().sort().values), (
            name
        )


def worst_images(images: dict[str, torch.Tensor]) -> dict[int, list[tuple[int, float, int, int]]]:
    """Of each class label, loss times -1, number and predicted class of the four worst mistakes."""
    columns = [images[name].flatten().tolist() for name in ("labels", "losses", "samples", "predicted", "scored")]
    wrong = [
        (label, -loss, sample, predicted)
        for label, loss, sample, predicted, scored in zip(*columns, strict=True)
        if scored and label != predicted
    ]
    return {label: sorted(each for each in wrong if each[0] == label)[:4] for label in range(CLASSES)}


def test_hardest_classes_and_what_they_are_taken_for() -> None:
    confusion = torch.tensor([[8, 1, 1, 0], [0, 5, 0, 0], [3, 5, 2, 0], [0, 0, 0, 0]])
    assert [astuple(each) for each in hardest_classes(confusion)] == [
        (2, 10, 2, [(1, 5), (0, 3)], ()),
        (0, 10, 8, [(1, 1), (2, 1)], ()),
    ]


def test_a_huge_number_of_classes_has_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_details, "MAX_CONFUSION_CLASSES", 4)
    details = ValidationDetails(5, torch.device("cpu"))
    one = torch.tensor([0])
    measures = {"entropy": torch.rand(1, 1, 2), "components": torch.ones(1, 1, 2, dtype=torch.int64)}
    details.add(one, one, one == 0, measures, losses=torch.tensor([math.nan]), samples=one)
    gathered = details.gather()
    assert (gathered.confusion, gathered.hardest) == (None, [])
    assert sorted(gathered.distributions) == ["components_head0", "components_head1", "entropy_head0", "entropy_head1"]
