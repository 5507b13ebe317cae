"""Where data are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sar_dist.places import find_data, looked_for


def test_as_given_then_below_the_variable_then_below_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAR_DIST_DATA", str(tmp_path / "sets"))
    assert find_data("flowers") is None
    assert looked_for("flowers") == f"flowers or {tmp_path}/sets/flowers or data/flowers"
    for place in ("data/flowers", "sets/flowers", "flowers"):
        (tmp_path / place).mkdir(parents=True)
        assert find_data("flowers").resolve() == tmp_path / place  # type: ignore[union-attr]


def test_an_absolute_path_is_looked_for_there_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAR_DIST_DATA", str(tmp_path))
    assert find_data(tmp_path / "none") is None
    assert looked_for(tmp_path / "none") == str(tmp_path / "none")
