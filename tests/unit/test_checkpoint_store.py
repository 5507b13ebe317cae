"""Which checkpoints are kept, read, refused and set aside; without an engine."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from privileges import permissions_hold
from run_factory import index_of_one_shard, weights_alone

from sar_dist import distributed
from sar_dist.checkpoint import (
    CheckpointReader,
    CheckpointStore,
    DamagedCheckpoint,
    FileRecord,
    UnsupportedFormat,
    complete_checkpoints,
    step_name,
    verify,
)
from sar_dist.checkpoint.manifest import manifest_digest
from sar_dist.errors import UserError
from sar_dist.training.branching import resumed_state

SHAPES = {"w": (3,)}


def engine(**changes: Any) -> dict[str, Any]:
    """A manifest's part about the engine, with some of it changed."""
    return {"engine": weights_alone(SHAPES).engine.model_dump() | changes}


def opened(root: Path, keep_last: int = 9) -> CheckpointStore:
    store = CheckpointStore(root, keep_last=keep_last, keep_every=None)
    store.prepare()
    return store


def save(store: CheckpointStore, *steps: int, interim: bool = False) -> None:
    for step in steps:
        tensors = {"0/master": torch.full((3,), float(step))}
        shared = weights_alone(SHAPES).model_copy(update={"interim": interim})
        store.save(step, tensors, index_of_one_shard(SHAPES, step), shared)
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


@pytest.mark.parametrize("noise", [b"", b"\xff\xfe\0", b"two words"])
def test_a_damaged_name_of_the_run_comes_from_its_checkpoints(tmp_path: Path, noise: bytes) -> None:
    save(opened(tmp_path), 10)
    known = (tmp_path / "run_id").read_bytes()
    (tmp_path / "run_id").write_bytes(noise)
    (tmp_path / "latest").write_bytes(noise)
    store = opened(tmp_path)
    reader = store.newest()
    assert reader is not None
    assert reader.step == 10
    store.tidy()
    assert (tmp_path / "run_id").read_bytes() == known
    assert (tmp_path / "latest").read_text() == f"{step_name(10)}\n"


@pytest.mark.parametrize(
    ("replacement", "what"),
    [
        (lambda path: None, "is not there"),
        (lambda path: path.write_text(""), "is no folder"),
        (lambda path: path.symlink_to("nowhere"), "is a link to nothing"),
        (lambda path: path.with_name("damaged-step_00000020").mkdir(), None),
    ],
)
def test_the_newest_checkpoint_is_not_passed_over_without_a_word(
    replacement: Callable[[Path], None], what: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(opened(tmp_path), 10, 20)
    shutil.rmtree(tmp_path / step_name(20))
    replacement(tmp_path / step_name(20))
    store = opened(tmp_path)
    reader = store.newest()
    assert reader is not None
    assert reader.step == 10
    said = capsys.readouterr().err
    assert said == "" if what is None else f"latest names step_00000020, which {what}: training goes back" in said
    store.tidy()
    assert opened(tmp_path).newest() is not None
    assert capsys.readouterr().err == "", "it is said once"


def test_checkpoint_that_was_moved_and_linked_back_goes_by_its_link_alone(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    store = opened(root, keep_last=1)
    save(store, 10)
    (root / step_name(10)).rename(elsewhere)
    (root / step_name(10)).symlink_to(elsewhere)
    save(store, 20)
    assert names(root) == [step_name(20)]
    assert (elsewhere / "manifest.json").is_file()


def test_checkpoint_that_cannot_be_deleted_fails_no_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(path: Path, _target: Path) -> Path:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    store = opened(tmp_path, keep_last=1)
    save(store, 10)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (busy if "retired" in str(to) else rename)(path, to))
    save(store, 20)
    assert names(tmp_path) == [step_name(20), step_name(10)]
    assert capsys.readouterr().err == (
        f"warning: {tmp_path / step_name(10)}, which is no longer needed, could not be deleted: Device or resource busy\n"
    )


def test_something_else_in_the_place_of_the_pointer_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(UserError, match="latest is not a regular file"):
        opened(tmp_path)


def test_what_belongs_to_the_steps_before_is_on_disk_before_the_commit(tmp_path: Path) -> None:
    done: list[list[str]] = []
    store = CheckpointStore(tmp_path, keep_last=9, keep_every=None, before=lambda: done.append(names(tmp_path)))
    store.prepare()
    save(store, 10, 20)
    assert done == [[], [step_name(10)]]


def test_a_save_that_was_killed_after_its_commit_is_tidied_up_after(tmp_path: Path) -> None:
    save(opened(tmp_path), 10, 20, 30)
    (tmp_path / "latest").write_text(step_name(20) + "\n")
    (tmp_path / step_name(30) / ".manifest.json.0a1b2c3d.part").write_text("{")
    store = opened(tmp_path, keep_last=1)
    store.newest()
    store.protect(10)
    store.tidy()
    assert names(tmp_path) == [step_name(30), step_name(10)]
    assert (tmp_path / "latest").read_text() == step_name(30) + "\n"
    assert not list(tmp_path.rglob("*.part"))


def test_progress_of_a_saved_step_is_written_anew(tmp_path: Path) -> None:
    store = opened(tmp_path, keep_last=1)
    save(store, 10, 20)
    tensors = (tmp_path / step_name(20) / "rank_00000.safetensors").stat()
    shared = weights_alone(SHAPES).model_copy(update={"train_state": {"step": 20, "settled": True}})
    store.save(20, {}, index_of_one_shard(SHAPES, 20), shared)
    assert verify(tmp_path / step_name(20)).train_state == {"step": 20, "settled": True}
    assert (tmp_path / step_name(20) / "rank_00000.safetensors").stat() == tensors
    assert store.take_problem() is None
    damage_manifest = tmp_path / step_name(20) / "manifest.json"
    damage_manifest.write_text("{")
    store.save(20, {}, index_of_one_shard(SHAPES, 20), shared)
    assert "the checkpoint of step 20 could not be saved" in (store.take_problem() or "")


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_what_a_stop_saved_makes_way_for_the_next(tmp_path: Path, keep_last: int) -> None:
    """A run that was stopped and continued keeps the checkpoints of one that was not."""
    save(opened(tmp_path / "unbroken", keep_last), 10, 12, 14)
    stopped = opened(tmp_path / "stopped", keep_last)
    save(stopped, 10, 12)
    save(stopped, 13, interim=True)
    assert names(tmp_path / "stopped") == [step_name(step) for step in (13, 12, 10)][: max(2, keep_last)]
    later = opened(tmp_path / "stopped", keep_last)
    reader = later.newest()
    assert reader is not None
    assert reader.step == 13
    save(later, 14)
    assert names(tmp_path / "stopped") == names(tmp_path / "unbroken")
    assert verify(tmp_path / "stopped" / step_name(14)).interim is False


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_run_that_was_stopped_goes_back_to_where_one_that_was_not_does(tmp_path: Path, keep_last: int) -> None:
    store = opened(tmp_path, keep_last)
    save(store, 9, interim=True)
    assert store.newest_due() is None
    save(store, 10, 12)
    save(store, 13, interim=True)
    save(store, 14, interim=True)
    found = store.newest_due()
    assert found is not None
    assert found.step == 12


@pytest.mark.parametrize("due_first", [True, False])
def test_a_checkpoint_that_was_due_stays_whatever_else_it_was_saved_for(tmp_path: Path, due_first: bool) -> None:
    store = opened(tmp_path, 2)
    save(store, 12, interim=not due_first)
    save(store, 12, interim=due_first)  # the same step again: stopped after it, or due after a stop in the middle of it
    save(store, 14)
    assert names(tmp_path) == [step_name(14), step_name(12)]


def test_where_none_is_intact_none_is_set_aside(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    damage(tmp_path, 10)
    for _ in range(2):  # the second start must not begin a new run
        with pytest.raises(UserError, match="none of the 1 checkpoints"):
            opened(tmp_path).newest()


@pytest.mark.parametrize("name", ["manifest.json", "rank_00000.json", "rank_00000.safetensors", ""])
def test_checkpoint_that_may_not_be_read_is_no_damaged_one(tmp_path: Path, name: str) -> None:
    save(opened(tmp_path), 10, 20)
    forbidden = tmp_path / step_name(20) / name
    mode = forbidden.stat().st_mode
    forbidden.chmod(0)
    with (
        permissions_hold(),
        pytest.raises(UserError, match=r"step_00000020/\S+ may not be read by this user"),
    ):
        opened(tmp_path).newest()  # and no start from step 10 in its place
    forbidden.chmod(mode)
    reader = opened(tmp_path).newest()
    assert reader is not None
    assert reader.step == 20


def test_folder_that_may_not_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with permissions_hold(), pytest.raises(UserError, match="cannot be prepared for checkpoints: may not be written"):
        opened(tmp_path)
    tmp_path.chmod(0o755)


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
    assert verify(tmp_path / step_name(20)).run_id == reader.manifest.run_id


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Change a manifest, and with ``seal`` give it the digest of what it says then."""
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps({**content, "digest": manifest_digest(content)} if seal else content))


def test_checkpoint_older_than_run_ids_is_read(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    rewrite(tmp_path / step_name(10), lambda content: content.pop("run_id"))
    reader = opened(tmp_path).newest()
    assert reader is not None
    assert reader.step == 10
    assert reader.manifest.run_id is None


def test_oldest_checkpoint_of_the_format_is_read(tmp_path: Path) -> None:
    """As the first version wrote it, before loss scaling, averages, run ids and the copy of the configuration."""
    save(opened(tmp_path), 10)
    folder = tmp_path / step_name(10)
    index = {"adam_steps": [10.0], "fragments": [{"name": "w", "start": 0, "numel": 3, "shard": 0, "offset": 0}]}
    (folder / "rank_00000.json").write_text(json.dumps(index))
    content: dict[str, Any] = {
        "format": 1,
        "step": 10,
        "world_size": 1,
        "files": {file.name: FileRecord.of(file).model_dump() for file in folder.glob("rank_*")},
        "train_state": {"step": 10, "images": 20, "bad_images": 0, "best_top1": None, "best_step": None},
        "loader": {"next_batch": 10, "shift": 0, "fingerprint": {"seed": 0}},
        "zero_stage": 1,
        "engine": {
            "lr_scheduler": {"_last_lr": [0.1], "last_batch_iteration": 9},
            "counters": {"global_steps": 10, "global_samples": 20, "skipped_steps": 0},
            "ema_updates": None,
            "shapes": {"w": [3]},
        },
    }
    (folder / "manifest.json").write_text(json.dumps({**content, "digest": manifest_digest(content)}, indent=1))
    reader = opened(tmp_path).newest()
    assert reader is not None
    assert torch.equal(reader.parameter("w"), torch.full((3,), 10.0))
    assert reader.manifest.engine.loss_scaler == {}
    assert reader.manifest.engine.lr_scheduler["_last_lr"] == [0.1]
    assert reader.manifest.loader is not None
    assert reader.manifest.loader.next_batch == 10
    assert (reader.indices[0].averages, reader.indices[0].seen_samples, reader.manifest.config) == (None, None, None)


def test_keys_that_another_version_added_are_sealed_and_read_over(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    folder = tmp_path / step_name(10)
    rewrite(folder, lambda content: content.update(added=[0.1, {"é": None}]))
    assert verify(folder).step == 10
    rewrite(folder, lambda content: content.update(added=[0.2]), seal=False)
    with pytest.raises(DamagedCheckpoint, match="was changed after it was written"):
        verify(folder)


@pytest.mark.parametrize("version", [2, "sar_dist-shards-1", None, [1]])
def test_other_format_is_refused_and_neither_skipped_nor_set_aside(tmp_path: Path, version: Any) -> None:
    save(opened(tmp_path), 10, 20)
    store = opened(tmp_path)
    rewrite(tmp_path / step_name(20), lambda content: content.update(format=version), seal=False)
    with pytest.raises(UnsupportedFormat):
        verify(tmp_path / step_name(20))
    with pytest.raises(UserError) as caught:
        store.newest()
    assert "\n" not in str(caught.value)
    assert f"step_00000020/manifest.json has checkpoint format {version!r}; this version" in str(caught.value)
    assert names(tmp_path) == [step_name(20), step_name(10)]


@pytest.mark.parametrize("content", ["[]", "{}", '"text"', "null"])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    save(opened(tmp_path), 10)
    (tmp_path / step_name(10) / "manifest.json").write_text(content)
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json is not the manifest of a checkpoint"):
        verify(tmp_path / step_name(10))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"step": "10"}, r"step='10': Input should be a valid integer"),
        ({"step": True}, r"step=True: "),
        ({"world_size": 0}, r"world_size=0: "),
        ({"world_size": 2}, r"world_size=2, but files does not name rank_00001\.safetensors"),
        ({"files": ["a"]}, r"files=\['a'\]: "),
        ({"files": {"../other": {"bytes": 1, "sha256": ""}}}, r"files\.\.\./other\.\[key\]='\.\./other': "),
        ({"files": {"rank_00000.json": {"bytes": 1.5, "sha256": ""}}}, r"files\.rank_00000\.json\.bytes=1\.5: "),
        ({"engine": {}}, r"engine\.lr_scheduler is missing"),
        ({"run_id": 5}, r"run_id=5: "),
        ({"step": 10**30}, r"step=1000"),
        ({"world_size": 10**30}, r"world_size=1000"),
        ({"zero_stage": 7}, r"zero_stage=7: "),
        ({"loader": {"next_batch": 9, "shift": 0, "fingerprint": {}}}, r"loader\.next_batch=9, but step=10$"),
        ({"loader": {"next_batch": 10, "shift": -11, "fingerprint": {}}}, r"loader\.shift=-11 lies before the first"),
        ({"loader": {"next_batch": 10, "shift": 10**30, "fingerprint": {}}}, r"loader\.shift=1000"),
        (engine(lr_scheduler={"_last_lr": [math.nan]}), r"engine\.lr_scheduler\._last_lr\.0=nan: "),
        (engine(lr_scheduler={"_last_lr": [10**400]}), r"engine\.lr_scheduler\._last_lr\.0=1000"),
        (engine(lr_scheduler={"last_epoch": -3}), r"engine\.lr_scheduler\.last_epoch=-3: "),
        (engine(counters={"global_steps": -1}), r"engine\.counters\.global_steps=-1: "),
        (engine(loss_scaler={"cur_scale": 0.0}), r"engine\.loss_scaler\.cur_scale=0\.0: "),
        (engine(ema_updates=-1), r"engine\.ema_updates=-1: "),
        (engine(ema_updates=11), r"engine\.ema_updates=11, but step=10$"),
        (engine(lr_scheduler={"last_epoch": 11}), r"engine\.lr_scheduler\.last_epoch=11, but step=10$"),
        (engine(shapes={"w": [-3]}), r"engine\.shapes\.w\.0=-3: "),
        (engine(shapes={"w": [10**12, 10**12]}), r"engine\.shapes has 1000000000000000000000000 weights, for which"),
    ],
)
def test_wrong_types_are_one_line_with_file_and_field(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    save(opened(tmp_path), 10)
    rewrite(tmp_path / step_name(10), lambda content: content.update(change))
    with pytest.raises(DamagedCheckpoint, match=rf"^\S*/step_00000010/manifest\.json: {problem}") as caught:
        verify(tmp_path / step_name(10))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fragments": [{"name": "w"}]}, r"fragments\.0\.start is missing$"),
        ({"adam_steps": [math.nan]}, r"adam_steps\.0=nan: "),
        ({"adam_steps": [-1]}, r"adam_steps\.0=-1: "),
        ({"adam_steps": [11]}, r"adam_steps says 11, but the checkpoint is of step 10$"),
        ({"averages": {"sums": {}}}, r"averages\.count is missing$"),
        ({"averages": {"count": 1, "sums": {"loss": "x"}}}, r"averages\.sums\.loss='x': "),
        ({"averages": {"count": 10**30, "sums": {}}}, r"averages\.count=1000"),
    ],
)
def test_index_of_wrong_types_is_one_line(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    save(opened(tmp_path), 10)
    folder = tmp_path / step_name(10)
    manifest = verify(folder)
    index = json.loads((folder / "rank_00000.json").read_text())
    (folder / "rank_00000.json").write_text(json.dumps(index | change))
    with pytest.raises(DamagedCheckpoint, match=rf"(rank_00000\.json|step_00000010): {problem}"):
        CheckpointReader(folder, manifest)


@pytest.mark.parametrize(("field", "value"), [("shard", 7), ("shard", 2**53), ("offset", 1), ("offset", 2**53)])
def test_index_that_points_beside_the_tensors_is_one_line(tmp_path: Path, field: str, value: int) -> None:
    save(opened(tmp_path), 10)
    folder = tmp_path / step_name(10)
    manifest = verify(folder)
    index = json.loads((folder / "rank_00000.json").read_text())
    index["fragments"][-1][field] = value
    (folder / "rank_00000.json").write_text(json.dumps(index))
    reader = CheckpointReader(folder, manifest)
    name = index["fragments"][-1]["name"]
    with pytest.raises(DamagedCheckpoint, match=rf"rank_00000\.safetensors does not hold .* of {name}"):
        reader.parameter(name)


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
    with pytest.raises(DamagedCheckpoint, match="maximum recursion depth"):
        verify(manifest.parent)
    os.truncate(manifest, 10**12)
    with pytest.raises(DamagedCheckpoint, match="more than"):
        verify(manifest.parent)


def test_leftovers_of_any_kind_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".latest.1234abcd.part").touch()
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "kept")
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "run_id"]


def test_what_a_failed_save_left_is_removed_before_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / ".tmp-step_00000010").mkdir()
    (tmp_path / ".tmp-step_00000010" / "receipt_00001").touch()
    store.remove_failed()
    assert not list(tmp_path.glob(".tmp-*"))


def test_main_process_may_commit_as_soon_as_it_sees_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It renames the folder then, and what another process still did in it would fail."""
    honest_replace = Path.replace

    def replace(self: Path, target: Path) -> Path:
        honest_replace(self, target)
        if target.name == "receipt_00001":
            target.parent.rename(tmp_path / step_name(10))
        return target

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    store = CheckpointStore(tmp_path, keep_last=9, keep_every=None)
    save(store, 10, 10)
    assert store.take_problem() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [step_name(10)]


def test_who_is_still_writing_a_checkpoint_is_seen_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the process that has done its part: where the launcher has gone, it waits for the others' as long as they write."""
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "wait_on_cpu", lambda: None)
    published, go_on = threading.Event(), threading.Event()

    def before() -> None:
        published.set()
        go_on.wait(10)

    store = CheckpointStore(tmp_path, keep_last=9, keep_every=None, before=before)
    assert store.writing() == set()
    store.save(10, {"0/master": torch.zeros(3)}, index_of_one_shard(SHAPES, 10), weights_alone(SHAPES))
    assert published.wait(10)
    assert store.writing() == {1}
    go_on.set()
    store.wait()
    folder = tmp_path / ".tmp-step_00000010"
    assert store.writing() == {0, 2}
    (folder / "receipt_00000").touch()
    assert store.writing() == {2}
    (folder / "failed_00002").touch()
    assert store.writing() == {0}  # which is about to notice
    for receipt in folder.glob("receipt_*"):
        receipt.unlink()
    assert store.writing() == {0}  # which has collected them, and commits
    folder.rename(tmp_path / step_name(10))
    assert store.writing() == set()


def test_after_a_failed_save_all_processes_save_the_step_again(tmp_path: Path) -> None:
    """Also the one whose own part was written: the others wait for it."""
    store = opened(tmp_path)
    save(store, 10)
    shutil.rmtree(tmp_path / step_name(10))
    store.remove_failed()
    save(store, 10)
    assert names(tmp_path) == [step_name(10)]


def test_run_cannot_go_on_from_weights_alone(tmp_path: Path) -> None:
    save(opened(tmp_path), 10)
    unused: Any = None
    with pytest.raises(UserError, match=r"step_00000010 holds weights, but not how far a run had come; .*init_from="):
        resumed_state(CheckpointReader(tmp_path / step_name(10)), unused)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"step": "ten"}, "step='ten': Input should be a valid integer"),
        ({"step": -1}, "step=-1: "),
        ({"step": 9}, "step=9, but the checkpoint is of step 10"),
        ({"step": 10, "best_top1": math.nan}, "best_top1=nan: "),
        ({"step": 10, "images_by_set": {"a": 10**30}}, r"images_by_set\.a=1000"),
        ({"step": 10, "guard": {"rollbacks": -1}}, r"guard\.rollbacks=-1"),
        ({"step": 10, "guard": {"usual_losses": [1.0, math.nan]}}, r"guard\.usual_losses\.1=nan"),
        ({"step": 10, "guard": {"usual_losses": [1.0] * 21}}, r"guard\.usual_losses=\[1"),
    ],
)
def test_progress_that_cannot_be_is_one_line(tmp_path: Path, state: dict[str, Any], problem: str) -> None:
    save(opened(tmp_path), 10)
    loader = {"next_batch": 10, "shift": 0, "fingerprint": {}}
    rewrite(tmp_path / step_name(10), lambda content: content.update(train_state=state, loader=loader))
    unused: Any = None
    with pytest.raises(UserError, match=rf"manifest\.json: train_state: {problem}"):
        resumed_state(CheckpointReader(tmp_path / step_name(10)), unused)
