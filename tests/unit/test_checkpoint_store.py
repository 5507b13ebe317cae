"""Which checkpoints are kept, read, refused and set aside; without an engine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sar_dist.checkpoint import CheckpointStore, DamagedCheckpoint, complete_checkpoints, step_name, verify
from sar_dist.errors import UserError

SHARED = {"engine": {"shapes": {"w": [3]}, "ema_updates": None}}


def opened(root: Path, keep_last: int = 9) -> CheckpointStore:
    store = CheckpointStore(root, keep_last=keep_last, keep_every=None)
    store.prepare()
    return store


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        fragments = [{"name": "w", "start": 0, "numel": 3, "shard": 0, "offset": 0}]
        tensors = {"0/master": torch.full((3,), float(step))}
        store.save(step, tensors, {"fragments": fragments, "adam_steps": [1.0]}, SHARED)
        store.wait()


def damage(root: Path, step: int) -> None:
    (root / step_name(step) / "rank_00000.safetensors").write_bytes(b"damaged")


def names(root: Path) -> list[str]:
    return [folder.name for folder in complete_checkpoints(root)]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_damaged_checkpoint_is_set_aside_and_never_counted(tmp_path: Path, keep_last: int) -> None:
    save(opened(tmp_path), 10, 20)
    damage(tmp_path, 20)
    store = opened(tmp_path, keep_last)
    reader = store.newest()
    assert reader is not None
    assert reader.step == 10
    assert (tmp_path / "damaged-step_00000020").is_dir()
    save(store, 15)
    assert names(tmp_path) == [step_name(15), step_name(10)][:keep_last]
    assert (tmp_path / "damaged-step_00000020").is_dir()


def test_where_none_is_intact_none_is_set_aside(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    damage(tmp_path, 10)
    for _ in range(2):  # the second start must not begin a new run
        with pytest.raises(UserError, match="none of the 1 checkpoints"):
            opened(tmp_path).newest()


def test_exchanged_and_renamed_folders_are_refused(tmp_path: Path) -> None:
    save(opened(tmp_path), 5, 10, 15)
    (tmp_path / step_name(10)).rename(tmp_path / "held")
    (tmp_path / step_name(15)).rename(tmp_path / step_name(10))
    (tmp_path / "held").rename(tmp_path / step_name(15))
    reader = opened(tmp_path).newest()
    assert reader is not None
    assert reader.step == 5
    assert torch.equal(reader.parameter("w"), torch.full((3,), 5.0))


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    save(opened(tmp_path / "one"), 10)
    save(opened(tmp_path / "other"), 20)
    shutil.copytree(tmp_path / "other" / step_name(20), tmp_path / "one" / step_name(20))
    reader = opened(tmp_path / "one").newest()
    assert reader is not None
    assert reader.step == 10


def test_checkpoints_moved_without_the_id_keep_theirs(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    (tmp_path / "run_id").unlink()
    store = opened(tmp_path)
    reader = store.newest()
    assert reader is not None
    assert reader.step == 10
    save(store, 20)
    assert verify(tmp_path / step_name(20))["run_id"] == reader.manifest["run_id"]


def test_checkpoint_older_than_run_ids_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sar_dist.checkpoint import layout

    original = layout.manifest_digest

    def forget_id(manifest: dict[str, Any]) -> str:
        manifest.pop("run_id", None)
        return original(manifest)

    monkeypatch.setattr(layout, "manifest_digest", forget_id)
    save(opened(tmp_path), 10)
    monkeypatch.undo()
    reader = opened(tmp_path).newest()
    assert reader is not None
    assert reader.step == 10
    assert "run_id" not in reader.manifest


@pytest.mark.parametrize("name", ["manifest.json", "rank_00000.json"])
def test_fifo_in_place_of_a_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    save(opened(tmp_path), 10)
    (tmp_path / step_name(10) / name).unlink()
    os.mkfifo(tmp_path / step_name(10) / name)
    with pytest.raises(DamagedCheckpoint, match="not a regular file"):
        verify(tmp_path / step_name(10))


def test_endless_and_deep_manifests_are_refused(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    manifest = tmp_path / step_name(10) / "manifest.json"
    manifest.write_text("[" * 100_000)
    with pytest.raises(DamagedCheckpoint, match="RecursionError"):
        verify(manifest.parent)
    os.truncate(manifest, 10**12)
    with pytest.raises(DamagedCheckpoint, match="more than"):
        verify(manifest.parent)


def test_leftovers_of_any_kind_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "kept")
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "run_id"]


def test_what_a_failed_save_left_is_removed_before_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / ".tmp-step_00000010").mkdir()
    (tmp_path / ".tmp-step_00000010" / "receipt_00001").touch()
    store.remove_failed()
    assert not list(tmp_path.glob(".tmp-*"))
