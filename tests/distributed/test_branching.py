"""A cooldown that begins in another run's checkpoint trains as a run that was planned with it from the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import read_metrics, tool

STABLE = ("regularizer.decay=none", "optim.schedule=warmup_stable_decay")


@pytest.mark.long
def test_a_cooldown_from_a_checkpoint_is_that_of_the_whole_run(small_config: Path, tmp_path: Path) -> None:
    """Six steps an epoch: a run of 4 epochs is left after 10 steps for 2 more; one of 2 epochs has these as its cooldown."""
    command = ("tools/train.py", f"--config={small_config}", *STABLE)
    cooldown = ("optim.epochs=2", "optim.cooldown_epochs=0.3333333333333333")
    trunk = tmp_path / "runs" / "trunk"
    assert tool(*command, "run.name=trunk", "optim.schedule=constant", "run.max_steps=10").status == 0
    jump = tool(*command, "run.name=jump", "optim.epochs=2", "optim.cooldown_epochs=1", f"run.branch_from={trunk}")
    assert jump.status == 2
    assert "the learning rate would jump from 0.001 to " in jump.stderr
    assert len(jump.stderr.splitlines()) == 1
    other = tool(*command, "run.name=other", *cooldown, "optim.lr=0.01", f"run.branch_from={trunk}")
    assert "was trained with optim.lr=0.001 (now 0.01)" in other.stderr
    branched = tool(
        *command, "run.name=branched", *cooldown, f"run.branch_from={trunk / 'checkpoints' / 'step_00000010'}"
    )
    assert branched.status == 0, branched.stderr
    assert tool(*command, "run.name=whole", *cooldown).status == 0
    names = ("loss", "learning_rate", "gradient_norm")
    whole, after = (read_metrics(tmp_path / "runs" / name) for name in ("whole", "branched"))
    assert sorted(after) == [11, 12]
    for step, entry in after.items():
        assert [entry[name] for name in names] == [whole[step][name] for name in names]
    assert after[12]["learning_rate"] < after[11]["learning_rate"] == pytest.approx(1e-3)
