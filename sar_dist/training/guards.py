"""What watches over a run: steps that go wrong, losses that explode, processes that hang.

None of it costs a device synchronisation in a healthy step. DeepSpeed's ZeRO stages agree on all processes to skip an
update whose gradients are not finite; only then are the losses of the step looked at, to name process and samples.
"""

from __future__ import annotations

import faulthandler
import math
import statistics
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from sar_dist import distributed, standstill
from sar_dist.config import GuardSettings
from sar_dist.errors import UserError
from sar_dist.training.state import LOSS_HISTORY, GuardState, TrainState

_MIN_HISTORY = 5
_NAMED_SAMPLES = 8


class Verdict(Enum):
    """What to do after a step."""

    GO_ON = "go on"
    ROLL_BACK = "roll back"


class TooManyRollbacks(UserError):
    """A run needed more rollbacks than ``guard.max_rollbacks``."""


class StepGuard:
    """Decides what follows from skipped steps and from loss spikes, on every process alike.

    Args:
        settings: the policy.
        state: what has been seen so far, of earlier starts too; kept up to date here, and saved with the progress.
        tolerate_overflow: fp16's dynamic loss scale makes steps overflow now and then by design; they are counted, and
            only too many in a row are an error.
    """

    def __init__(self, settings: GuardSettings, state: GuardState, *, tolerate_overflow: bool) -> None:
        self.settings = settings
        self.state = state
        self.tolerate_overflow = tolerate_overflow
        self._seen: list[tuple[Tensor, Tensor]] = []

    def saw(self, loss: Tensor, samples: Tensor) -> None:
        """Remember a micro-batch of the current step: its loss and its global sample ids (b,)."""
        self._seen.append((loss.detach(), samples))

    def after_step(self, step: int, applied: bool) -> tuple[Verdict, str | None]:
        """Judge the step that just ended. Call on every process.

        Returns:
            What to do, and a line for the log when there is something to say.

        Raises:
            UserError: the policy is to stop, or the limit of skipped steps is reached.
        """
        seen, self._seen = self._seen, []
        if applied:
            self.state.skipped_in_a_row = 0
            return Verdict.GO_ON, None
        self.state.skipped_in_a_row += 1
        if self.state.skipped_in_a_row >= self.settings.max_skipped:
            raise UserError(
                f"{self.state.skipped_in_a_row} steps in a row were skipped, the last is step {step}: {_blame(seen)}; "
                "lower optim.lr, set optim.clip, or look at those samples"
            )
        if self.tolerate_overflow:
            return Verdict.GO_ON, None
        problem = f"step {step} was skipped: {_blame(seen)}"
        if self.settings.non_finite == "stop":
            raise UserError(f"{problem}; guard.non_finite=stop")
        if self.settings.non_finite == "rollback":
            return self._roll_back(problem)
        return Verdict.GO_ON, problem

    def after_interval(self, step: int, loss: float) -> tuple[Verdict, str | None]:
        """Judge the mean loss of a logging interval, which is the same number on every process."""
        factor = self.settings.spike_factor
        if factor is None or not math.isfinite(loss):  # a non-finite loss was judged after its step
            return Verdict.GO_ON, None
        losses = self.state.usual_losses
        usual = statistics.median(losses) if len(losses) >= _MIN_HISTORY else None
        if usual is not None and loss > factor * usual:
            return self._roll_back(f"step {step}: the loss {loss:.4g} is over {factor:g} times the usual {usual:.4g}")
        losses.append(loss)
        del losses[:-LOSS_HISTORY]
        return Verdict.GO_ON, None

    def _roll_back(self, problem: str) -> tuple[Verdict, str]:
        self.state.rollbacks += 1
        self.state.skipped_in_a_row = 0
        return Verdict.ROLL_BACK, f"{problem}; rolling back"


def check_rollbacks(settings: GuardSettings, state: TrainState) -> None:
    """Make sure that a run, over all its starts, has not needed more rollbacks than it may have.

    Raises:
        TooManyRollbacks: it has. It stands at rolled back weights, so that a start with a higher limit is the run that had it always.
    """
    needed = state.guard.rollbacks
    if needed > settings.max_rollbacks:
        rollbacks = "rollback was" if needed == 1 else "rollbacks were"
        raise TooManyRollbacks(
            f"guard.max_rollbacks={settings.max_rollbacks} is reached: {needed} {rollbacks} needed up to step {state.step}; "
            f"set guard.max_rollbacks={needed} or more to go on, or give a new run.name a lower optim.lr or optim.clip"
        )


class Watchdog:
    """Ends a process that has not moved for ``seconds``, after printing the stacks of all its threads to stderr.

    Every process has its own, so that a hang shows all stacks, and the process that caused it shows its own line.
    Python's timer thread does it: it works while the main thread hangs in a collective.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def moved(self) -> None:
        """Start waiting anew."""
        standstill.moved()
        faulthandler.dump_traceback_later(self.seconds, exit=True)

    def stop(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()


def _blame(seen: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Which processes had a non-finite loss, and in which samples; the same text on every process."""
    mine = [samples.tolist() for loss, samples in seen if not torch.isfinite(loss).all()]
    guilty = [(rank, found) for rank, found in enumerate(distributed.gather_objects(mine)) if found]
    if not guilty:
        return "the losses are finite, the gradient is not"
    rank, batches = guilty[0]
    samples = [sample for batch in batches for sample in batch]
    listed = ", ".join(map(str, samples[:_NAMED_SAMPLES])) + (", ..." if len(samples) > _NAMED_SAMPLES else "")
    others = f" and on {len(guilty) - 1} other processes" if len(guilty) > 1 else ""
    return f"the loss is not finite on rank {rank}{others}; its training samples were {listed}"
