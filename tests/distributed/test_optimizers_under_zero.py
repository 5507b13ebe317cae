"""Every optimizer under ZeRO 1-3 on two processes, and resumed on one, takes the steps of a plain loop on whole tensors."""

from __future__ import annotations

from pathlib import Path

from support import run_processes

PROGRAM = str(Path(__file__).with_name("optimizer_steps.py"))


def test_every_optimizer_equals_a_plain_loop(small_config: Path, tmp_path: Path) -> None:
    for world_size, part in ((2, "first"), (1, "again")):
        output = run_processes(world_size, PROGRAM, str(small_config), str(tmp_path / "saved"), part)
        assert output.count("equal") == world_size
