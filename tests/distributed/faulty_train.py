"""tools/train.py with one fault on one rank: faulty_train.py FAULT RANK STEP [arguments of tools/train.py].

Faults: `nan` makes the loss of that step not finite, `die` kills the process, `stop` asks it to stop, `die_writing` does that five seconds after
it began to write the next checkpoint, `hang` stops it, `stuck_data` stops its data pipeline, `clock` sets the wall clock
back by eleven days, `full_disk` makes writing checkpoint tensors fail from that step on, `slow_validation` makes each batch of the validation after that step wait for half a second, and says when it begins.
`none` is no fault: every rank notes the samples of each step in samples_RANK.jsonl of the run directory.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

fault, rank, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv = ["tools/train.py", *sys.argv[4:]]
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import train  # noqa: E402

from sar_dist import distributed  # noqa: E402
from sar_dist.checkpoint import store  # noqa: E402
from sar_dist.program import run_tool  # noqa: E402
from sar_dist.training.trainer import Trainer  # noqa: E402

honest_step = Trainer.train_step


def train_step(self: Trainer) -> None:
    if fault == "none":
        note_samples(self)
    if fault in ("die_writing", "full_disk") and self.state.step + 1 == step:
        self.checkpointing.store.wait()  # what was saved before is in the background still
    if distributed.rank() == rank and self.state.step + 1 == step:
        if fault in ("die", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if fault == "die" else signal.SIGTERM)
        elif fault == "die_writing":
            store.save_file = die_slowly
        elif fault == "hang":
            time.sleep(1000)
        elif fault == "clock":
            honest_clock = time.time
            time.time = lambda: honest_clock() - 1e6
        elif fault == "full_disk":
            store.save_file = no_space
        elif fault == "slow_validation":
            honest_predict = self.task.predict
            self.task.predict = lambda *a: slowly(lambda: honest_predict(*a))  # type: ignore[method-assign]
        elif fault == "stuck_data":
            self.batches = stuck(self.batches)
        elif fault == "nan":
            honest_losses = self.task.losses
            self.task.losses = lambda *a: {k: v * float("nan") for k, v in honest_losses(*a).items()}  # type: ignore[method-assign]
            honest_step(self)
            self.task.losses = honest_losses  # type: ignore[method-assign]
            return
    honest_step(self)


def note_samples(trainer: Trainer) -> None:
    batches = list(itertools.islice(trainer.batches, trainer.accumulation))
    trainer.batches = itertools.chain(batches, trainer.batches)
    samples = [sample for batch in batches for sample in batch["sample"].tolist()]
    with (trainer.directory.path / f"samples_{distributed.rank()}.jsonl").open("a") as file:
        file.write(json.dumps([trainer.state.step, samples]) + "\n")


def stuck(batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    time.sleep(1000)
    yield from batches


def slowly(action: Callable[[], Any]) -> Any:
    print("validating slowly", flush=True)
    time.sleep(0.5)
    return action()


def die_slowly(*arguments: Any) -> None:
    time.sleep(5)
    os.kill(os.getpid(), signal.SIGKILL)


def no_space(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


Trainer.train_step = train_step  # type: ignore[method-assign]
run_tool(train.main)
