"""Uploading to the hub, against a stand-in of its API and against no network."""

from __future__ import annotations

import functools
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from run_factory import random_model, settings, write_run
from support import ROOT
from written_records import append_record

from sar_dist.errors import UserError
from sar_dist.reports import check_hub, push_to_hub


class Address(str):
    repo_id = "me/small"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    run = write_run(tmp_path, settings(), {1: random_model(settings()).vit})
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"train":null,"val":null', '"train":"t","val":"v"'))
    append_record(run / "metrics.jsonl", 1, "val", 0.0, {"top1": 1.0})
    return run


@pytest.mark.parametrize("public", [False, True])
def test_an_export_is_uploaded_and_private_unless_asked(
    public: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, Any]] = []

    def create_repo(name: str, **options: Any) -> Address:
        calls.append({"name": name, **options})
        return Address("https://huggingface.co/me/small")

    hub = SimpleNamespace(create_repo=create_repo, upload_folder=lambda **options: calls.append(options))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    out = tmp_path / "out"
    arguments = ["export.py", str(run), str(out), "--push-to-hub", "me/small", *(["--public"] if public else [])]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools" / "export.py"), run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "uploaded to https://huggingface.co/me/small"
    made, uploaded = calls
    assert made == {"name": "me/small", "private": not public, "exist_ok": True}
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("me/small", out)
    assert sorted(uploaded["allow_patterns"]) == sorted(file.name for file in out.iterdir())


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:1", token="hf_token")
    monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
    with pytest.raises(UserError, match=r"--push-to-hub me/small: .*; the export in .* is complete") as caught:
        push_to_hub(tmp_path, "me/small")
    assert "\n" not in str(caught.value)


def test_a_bad_name_or_no_token_is_said_before_anything_is_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--push-to-hub a/b/c: "):
        check_hub("a/b/c")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(sys, "argv", ["export.py", str(run), str(tmp_path / "out"), "--push-to-hub", "me/small"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools" / "export.py"), run_name="__main__")
    assert caught.value.code == 2
    assert "there is no token of the Hugging Face hub; run `hf auth login`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
