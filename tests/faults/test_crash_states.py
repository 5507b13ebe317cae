"""Killed before any of its operations on files, or in the middle of a write: the same command again makes up for it.

Times are not drawn at random: a program is run once, every state in which a kill would have left its folder is kept
(``crash_states.py``), and the same command is given again in each of them. A few of them in `make test`, all of them,
and kills of the start after a kill, in `make test-long`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from crash_states import CrashState, power_cuts, record
from run_factory import random_model, settings, write_run
from run_results import differences, run_results
from support import jpeg, tool, write_tar

FEW = 6  # states of a run that are tried in `make test`
PAIRS = 40  # of a kill and a kill of the start after it


def spread(states: Sequence[CrashState], count: int) -> list[CrashState]:
    """``count`` of the states, from the first to the last."""
    return [states[number * (len(states) - 1) // (count - 1)] for number in range(count)]


def faults(
    states: Iterable[CrashState], folder: Path, again: Callable[[Path], Any], expected: dict[str, Any]
) -> list[tuple[str, Any]]:
    """Give the command again in each of the states; those after which something is not what it should be, and what."""
    found = []
    for state in states:
        shutil.rmtree(folder, ignore_errors=True)
        state.make(folder)
        if wrong := differences(again(folder), expected):
            found.append((state.name, wrong[:5]))
    return found


class Training:
    """A short run with a moving average, pictures, validations, a best checkpoint and images that cannot be read."""

    def __init__(self, small_config: Path, folder: Path, *overrides: str) -> None:
        shards = folder / "shards"
        for split, samples, bad in (("train", 96, (3, 40, 70)), ("val", 21, ())):
            members: dict[str, bytes] = {}
            for number in range(samples):
                image = b"bad" if number in bad else jpeg(number + 1000 * (split == "val"))
                members |= {f"{number:06d}.jpg": image, f"{number:06d}.cls": b"%d" % (number % 4)}
            write_tar(shards / f"{split}-0.tar", members)
        self.folder = folder
        self.command = ["tools/train.py", f"--config={small_config}", f"data.train={shards}", f"data.val={shards}"]
        self.command += ["run.max_steps=5", "optim.ema=0.9", "validation.every=3", "log.figures_every=3", "log.every=2"]
        self.command += ["checkpoint.every=2", "checkpoint.keep_last=1", "log.figure_images=1"]
        self.command += ["data.max_bad_fraction=0.5", *overrides]

    def record(self, runs: Path) -> list[CrashState]:
        """The states of a start that writes to ``runs/small`` and finishes the run."""
        states = self.folder / "states" / runs.name
        done, found = record(runs / "small", states, *self.command, f"run.dir={runs}")
        assert done.status == 0, done.stderr
        return found

    def again(self, run: Path) -> dict[str, Any]:
        """What the run in a folder has left when the same command has been given there."""
        done = tool(*self.command, f"run.dir={run.parent}")
        return {**run_results(run), "status": done.status} if done.status == 0 else {"error": done.stderr[-500:]}


def expected_of(run: Path) -> dict[str, Any]:
    return {**run_results(run), "status": 0}


def test_a_killed_training_leaves_no_trace(small_config: Path, tmp_path: Path) -> None:
    training = Training(small_config, tmp_path)
    states = [state for state in training.record(tmp_path / "unbroken") if not state.hurts(".holder")]
    assert len(states) > 300, "it is seen what the program does"
    expected = expected_of(tmp_path / "unbroken" / "small")
    assert len(expected["metrics.jsonl"]) == 7
    assert faults(spread(states, FEW), tmp_path / "killed" / "small", training.again, expected) == []


@pytest.mark.parametrize("few", [FEW, pytest.param(10**9, marks=[pytest.mark.long, pytest.mark.timeout(4 * 3600)])])
def test_a_power_cut_costs_no_line_of_a_step_before_the_checkpoint(
    few: int, small_config: Path, tmp_path: Path
) -> None:
    """Whatever was not synced is gone, and the same command again makes up for it."""
    training = Training(small_config, tmp_path)
    training.record(tmp_path / "unbroken")
    cuts = power_cuts(tmp_path / "states" / "unbroken")
    assert len(cuts) > 100
    expected = expected_of(tmp_path / "unbroken" / "small")
    assert faults(spread(cuts, min(few, len(cuts))), tmp_path / "killed" / "small", training.again, expected) == []


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("overrides", [(), ("checkpoint.every=1", "validation.every=1", "checkpoint.keep_every=2")])
def test_every_kill_of_a_training(overrides: tuple[str, ...], small_config: Path, tmp_path: Path) -> None:
    training = Training(small_config, tmp_path, *overrides)
    states = training.record(tmp_path / "unbroken")
    expected = expected_of(tmp_path / "unbroken" / "small")
    assert faults(states, tmp_path / "killed" / "small", training.again, expected) == []


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_killed_again_while_it_makes_up_for_a_kill(small_config: Path, tmp_path: Path) -> None:
    training = Training(small_config, tmp_path)
    draw = random.Random(0)
    states = training.record(tmp_path / "unbroken")
    expected = expected_of(tmp_path / "unbroken" / "small")
    for number, first in enumerate(draw.sample(states, PAIRS // 4)):
        first.make(tmp_path / f"first{number}" / "small")
        second = draw.sample(training.record(tmp_path / f"first{number}"), 4)
        assert faults(second, tmp_path / "killed" / "small", training.again, expected) == [], first.name


def test_killed_making_of_shards_goes_on(tmp_path: Path) -> None:
    """Both splits by one command, which goes on in the second although it has finished the first."""
    source, out = tmp_path / "images", tmp_path / "out"
    for number in range(8):
        path = source / ("train", "val")[number % 2] / f"class{number // 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    command = ["tools/make_shards.py", "imagefolder", str(source), str(out), "--processes=1", "--samples-per-shard=2"]

    def made(folder: Path) -> dict[str, str]:
        # The index tells the very files that it is of, by inode and time.
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".index")
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def again(folder: Path) -> dict[str, str]:
        done = tool(*command)
        return {**made(folder), "error": done.stderr}

    done, states = record(out, tmp_path / "states", *command)
    assert done.status == 0, done.stderr
    expected = {**made(out), "error": ""}
    assert len(expected) == 7
    assert faults(spread(states, FEW), out, again, expected) == []


MEASURED = ("seconds", "environment", "time")  # of a result, which differ from start to start


def left(folder: Path) -> dict[str, Any]:
    """What an evaluation or an export left: names, and contents where these do not depend on when it was done."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if "tfevents" in path.name or path.parent.name == ".holder":
            continue
        content: Any = path.read_bytes()
        if path.name in ("result.json", "results.jsonl"):
            lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content]
            content = [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]
        found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.mark.parametrize("program", ["export", "evaluation"])
@pytest.mark.parametrize("few", [4, pytest.param(10**9, marks=[pytest.mark.long, pytest.mark.timeout(4 * 3600)])])
def test_killed_export_and_evaluation_go_on(program: str, few: int, tmp_path: Path) -> None:
    model = settings(num_classes=4)
    run = write_run(tmp_path / "runs", model, {1: random_model(model).vit})
    out = tmp_path / "out"
    command = ["tools/export.py", str(run), str(out / "export")]
    if program == "evaluation":
        for split, numbers in (("train", range(8)), ("val", range(8, 16))):
            members = [
                (f"{n}.{kind}", data) for n in numbers for kind, data in (("jpg", jpeg(n)), ("cls", b"%d" % (n % 4)))
            ]
            write_tar(tmp_path / "shards" / f"{split}-0.tar", dict(members))
        command = ["tools/transfer_eval.py", "--task=knn", f"--model={run}", f"--data={tmp_path / 'shards'}"]
        command += [f"--out={out}", "workers=0"]

    def again(folder: Path) -> dict[str, Any]:
        done = tool(*command)
        return left(folder) if done.status == 0 else {"error": done.stderr[-500:]}

    done, states = record(out, tmp_path / "states", *command)
    assert done.status == 0, done.stderr
    expected = left(out)
    # The files of an export get their names together, synced, and a holder's is linked whole: none of them can be cut.
    real = [state for state in states if not state.hurts("export") and not state.hurts(".holder")]
    assert len(real) > 8
    assert faults(spread(real, min(few, len(real))), out, again, expected) == []
