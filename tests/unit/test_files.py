"""Where the program keeps its cache."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from sar_dist.files import cache_folder


def test_cache_folder_is_the_given_one_then_the_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SAR_DIST_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "sar_dist"
    monkeypatch.setenv("SAR_DIST_CACHE", str(tmp_path / "given"))
    assert cache_folder() == tmp_path / "given"


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("SAR_DIST_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(RuntimeError):
        Path.home()
    assert cache_folder() == Path(tempfile.gettempdir()) / f"sar_dist-{os.getuid()}"
