"""What a resume may find changed in its data beside the order of training samples: the validation set, the classes' numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sar_dist import distributed
from sar_dist.data import fingerprint_changes
from sar_dist.errors import UserError
from sar_dist.output import warn
from sar_dist.training.state import TrainState


def go_on_with_validation_set(state: TrainState, current: Mapping[str, str | None], *, finished: bool) -> None:
    """Compare the validation set with the one that the scores of ``state`` are of, and note it there.

    On another set the best score so far says nothing: it is forgotten, which is said.

    Raises:
        UserError: it is another one, and the run is ``finished``: nothing would be scored on it.
    """
    changed = [] if state.validation_set is None else fingerprint_changes(state.validation_set, dict(current))
    state.validation_set = dict(current)
    if not changed:
        return
    what = ", ".join(changed)
    if finished:
        raise UserError(
            f"data.val is another validation set than that of this finished run's scores ({what}); restore it, train on with a "
            "larger run.max_steps or optim.epochs, or score other images with tools/transfer_eval.py"
        )
    best = "" if state.best_top1 is None else f"; the best top-1 so far, {state.best_top1:.2f} %, was of the old one"
    if distributed.is_main():
        warn(
            f"warning: data.val is another validation set than before ({what}){best}: scores from here on are of the new one alone"
        )
    state.best_top1 = state.best_step = None


def check_class_numbers(saved: Sequence[str] | None, current: Sequence[str] | None) -> None:
    """Compare the names of the classes by their numbers with those that the weights were trained for.

    Raises:
        UserError: a class has another number now, so that the head would take it for another one.
    """
    if saved is None or current is None or list(saved) == list(current):
        return
    numbers = {name: number for number, name in enumerate(saved)}
    for number, name in enumerate(current):
        if numbers.get(name, number) != number:
            raise UserError(
                f"class {name} has number {number} in these training data, and {numbers[name]} in those of the checkpoint, whose "
                "head knows classes by their numbers; make them with the classes in the old order, or start a new run, to which "
                "model.init_from gives the weights"
            )
