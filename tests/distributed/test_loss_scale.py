"""What a rollback in fp16 does with the loss scale; on a CPU, with DeepSpeed's own scaler."""

from __future__ import annotations

from pathlib import Path

from support import run_processes

PROGRAM = str(Path(__file__).with_name("loss_scale_after_rollback.py"))


def test_a_rollback_restores_the_loss_scale_of_the_checkpoint(small_config: Path, tmp_path: Path) -> None:
    assert run_processes(1, PROGRAM, str(small_config), str(tmp_path / "saved")).count("equal") == 3
