"""Data that are others at a resume: the validation set, of which the best score is, and the numbers of the classes."""

from __future__ import annotations

import pytest

from sar_dist.errors import UserError
from sar_dist.training.continued_data import check_class_numbers, go_on_with_validation_set
from sar_dist.training.state import TrainState

OLD, NEW = {"manifest": "a" * 64, "content": "x"}, {"manifest": "b" * 64, "content": "y"}


@pytest.mark.parametrize("known", [OLD, {**OLD, "content": None}, None])
def test_the_same_validation_set_keeps_the_best_score(
    known: dict[str, str | None] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    state = TrainState(step=5, best_top1=50.0, best_step=3, validation_set=known)
    go_on_with_validation_set(state, OLD, finished=True)
    assert state == TrainState(step=5, best_top1=50.0, best_step=3, validation_set=dict(OLD))
    assert capsys.readouterr().err == ""


def test_on_another_validation_set_the_best_score_is_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    state = TrainState(step=5, best_top1=50.0, best_step=3, validation_set=dict(OLD))
    with pytest.raises(
        UserError, match=r"another validation set than that of this finished run's scores \(content x -> y"
    ):
        go_on_with_validation_set(TrainState(validation_set=dict(OLD)), NEW, finished=True)
    go_on_with_validation_set(state, NEW, finished=False)
    assert state == TrainState(step=5, validation_set=dict(NEW))
    assert "the best top-1 so far, 50.00 %, was of the old one" in capsys.readouterr().err
    go_on_with_validation_set(state, NEW, finished=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("current", "right"),
    [
        (("ant", "bee", "cat"), True),
        (("Ant", "bee", "cat"), True),  # another word for it
        (None, True),
        (("bee", "ant", "cat"), False),
        (("ant", "cat", "dog"), False),
    ],
)
def test_classes_keep_their_numbers(current: tuple[str, ...] | None, right: bool) -> None:
    if right:
        check_class_numbers(("ant", "bee", "cat"), current)
    else:
        with pytest.raises(UserError, match=r"class .* has number . in these training data, and . in those of the"):
            check_class_numbers(("ant", "bee", "cat"), current)
