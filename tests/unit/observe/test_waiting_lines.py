"""What a disk does not take for a while is written later, in its order and without a gap."""

from __future__ import annotations

from pathlib import Path

from sar_dist.observe.waiting_lines import WaitingLines


def test_lines_wait_for_the_disk(tmp_path: Path) -> None:
    away, other = tmp_path / "away" / "a.jsonl", tmp_path / "b.jsonl"
    away.parent.write_text("no folder")
    lines = WaitingLines()
    assert isinstance(lines.append(away, b"1\n"), OSError)
    assert lines.append(other, b"x\n") is None
    assert isinstance(lines.append(away, b"2\n"), OSError)
    assert len(lines) == 2
    away.parent.unlink()
    assert lines.append(away, b"3\n") is None
    assert (away.read_bytes(), other.read_bytes()) == (b"1\n2\n3\n", b"x\n")
    assert (len(lines), lines.dropped) == (0, 0)


def test_what_waits_is_written_at_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "away" / "a.jsonl"
    path.parent.write_text("no folder")
    lines = WaitingLines()
    lines.append(path, b"1\n")
    lines.flush()
    assert len(lines) == 1
    path.parent.unlink()
    lines.flush()
    assert (len(lines), path.read_bytes()) == (0, b"1\n")


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "away" / "a.jsonl"
    path.parent.write_text("no folder")
    lines = WaitingLines(most_bytes=10)
    for number in range(8):
        lines.append(path, f"{number}\n".encode())
    assert (len(lines), lines.dropped) == (5, 3)
    path.parent.unlink()
    lines.flush()
    assert path.read_bytes() == b"3\n4\n5\n6\n7\n"
