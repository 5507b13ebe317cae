"""What a later start needs of a run directory is whole or can be got back, and a failing disk ends nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from privileges import permissions_hold
from run_factory import random_model, settings, write_run

from sar_dist.checkpoint import CheckpointStore, complete_checkpoints
from sar_dist.checkpoint.manifest import manifest_digest
from sar_dist.config import RunConfig, RunSettings, follow_moved_run
from sar_dist.errors import UserError
from sar_dist.training import RunDirectory, run_directory
from sar_dist.training.preemption import check_marker, request_requeue
from sar_dist.training.reporting import closing_lines
from sar_dist.training.state import TrainState

CPU = torch.device("cpu")


def configuration(root: Path) -> RunConfig:
    return RunConfig(run=RunSettings(name="small", dir=str(root)), model=settings())


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The configuration of a run in ``tmp_path`` with checkpoints of steps 2 and 4."""
    write_run(tmp_path, settings(), {2: random_model(settings()), 4: random_model(settings())})
    return configuration(tmp_path)


def put_config_in(checkpoint: Path, config: RunConfig) -> None:
    """As the trainer's checkpoints hold it."""
    file = checkpoint / "manifest.json"
    manifest = {**json.loads(file.read_text()), "config": config.model_dump(mode="json")}
    file.write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))


@pytest.mark.parametrize("content", [b"", b'{"run": {"na', b"\x00" * 100, b"[]", None])
def test_damaged_configuration_comes_from_a_checkpoint(config: RunConfig, content: bytes | None) -> None:
    directory = RunDirectory(config)
    newest, previous = complete_checkpoints(directory.checkpoints)
    put_config_in(previous, config)
    (newest / "manifest.json").write_bytes(b"{")
    if content is None:
        directory.config_file.unlink()
    else:
        directory.config_file.write_bytes(content)
    with pytest.raises(UserError, match=r"was started with run\.seed=0 \(now 5\)"):
        directory.check(config.vary({"run.seed": 5}))
    directory.check(config)
    directory.create(config, 1, CPU)
    assert RunConfig.model_validate_json(directory.config_file.read_bytes()) == config


@pytest.mark.parametrize("trace", ["checkpoints/latest", "run_id", "summary.json"])
@pytest.mark.parametrize("keeps_config", [True, False])
def test_a_run_whose_checkpoints_have_gone_does_not_begin_anew(
    config: RunConfig, trace: str, keeps_config: bool
) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    shutil.rmtree(directory.checkpoints)
    directory.check(config)  # as a run that was killed before its first checkpoint
    if not keeps_config:
        directory.config_file.unlink()
    (directory.path / trace).parent.mkdir(exist_ok=True)
    (directory.path / trace).touch()
    with pytest.raises(UserError, match=rf"checkpoints holds no checkpoint, but .*{trace} tells .* restore them, or"):
        directory.check(config)


def test_checkpoints_of_another_run_are_refused_by_their_settings(config: RunConfig) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    newest, previous = complete_checkpoints(directory.checkpoints)
    put_config_in(previous, config.vary({"optim.lr": 0.5}))
    put_config_in(newest, config.vary({"run.seed": 3}))
    directory.check(config)  # the order of the data is for the training data to judge
    (newest / "manifest.json").write_bytes(b"{")
    with pytest.raises(UserError, match=r"of another run than .*: step_00000002 was trained with optim\.lr=0\.5 \(now"):
        directory.check(config)


def test_checkpoints_of_another_run_are_refused_by_its_name(config: RunConfig) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    store = CheckpointStore(directory.checkpoints, keep_last=9, keep_every=None, mark=directory.path)
    store.prepare()
    assert not directory.run_id_file.exists()
    assert store.newest() is not None
    store.tidy()  # of a start that was killed just after its commit
    assert directory.run_id_file.read_bytes() == (directory.checkpoints / "run_id").read_bytes()
    directory.check(config)
    (directory.checkpoints / "run_id").unlink()
    store.prepare()
    directory.check(config)
    (directory.checkpoints / "run_id").write_text("0" * 32)
    with pytest.raises(UserError, match=r"of another run than .*: its run_id is another one; restore the run's own"):
        directory.check(config)


def test_place_of_augmentation_follows_the_device_and_stays_with_the_run(tmp_path: Path) -> None:
    config, gpu = configuration(tmp_path), torch.device("cuda")
    directory = RunDirectory(config)

    def place(device: torch.device, **changes: object) -> str | None:
        return directory.settled(
            config.vary({f"augment.{key}": value for key, value in changes.items()}), device
        ).augment.where

    assert (place(CPU), place(gpu)) == ("worker", "device")
    assert place(CPU, where="device") == "device"
    assert (place(gpu, where="worker"), place(gpu, backend="pil")) == ("worker", "worker")
    directory.create(directory.settled(config, gpu), 1, CPU)
    assert (place(CPU), place(gpu)) == ("device", "device")
    directory.check(directory.settled(config, CPU))
    with pytest.raises(UserError, match=r"was started with augment\.where=device \(now worker\)"):
        directory.check(config.vary({"augment.where": "worker"}))


def test_runs_from_before_there_was_a_choice_augment_in_the_workers(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    recorded = json.loads(directory.config_file.read_text())
    del recorded["augment"]["where"]
    directory.config_file.write_text(json.dumps(recorded))
    settled = directory.settled(config, torch.device("cuda"))
    assert settled.augment.where == "worker"
    directory.check(settled)
    with pytest.raises(UserError, match=r"augment\.where=worker \(now device\)"):
        directory.check(config.vary({"augment.where": "device"}))


def test_damaged_configuration_without_a_copy_is_one_line(config: RunConfig) -> None:
    directory = RunDirectory(config)
    directory.config_file.write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged .* no checkpoint holds a copy; remove it"):
        directory.check(config)
    for folder in complete_checkpoints(directory.checkpoints):
        (folder / "manifest.json").unlink()
        folder.rename(folder.with_name(f".tmp-{folder.name}"))
    (directory.checkpoints / "latest").unlink()
    directory.check(config)  # nothing was trained: as a first start


def test_unknown_key_is_no_damage(config: RunConfig) -> None:
    directory = RunDirectory(config)
    directory.config_file.write_text(json.dumps({"run": {"name": "x"}, "optim": {"learning": 1}}))
    with pytest.raises(UserError, match=r"unknown key"):
        directory.check(config)


def test_what_was_appended_is_synced_and_nothing_else_waited_for(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(config)
    for file in (directory.metrics, directory.figures / "attention.jsonl", directory.tensorboard / "events.1"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    os.mkfifo(directory.tensorboard / "events.2")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    directory.sync_records()
    written = {directory.metrics, directory.figures / "attention.jsonl", directory.tensorboard / "events.1"}
    assert set(synced) == {str(path.resolve()) for path in written | {path.parent for path in written}}

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    directory.sync_records()
    assert "Input/output error; a power cut may cost lines of its log" in capsys.readouterr().err


def test_files_that_say_the_same_are_not_written_again(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    directory.write_summary({"step": 4})

    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory, "write_durably", full)
    before = directory.config_file.read_bytes()
    directory.write_summary({"step": 4})
    with pytest.raises(UserError, match=r"summary\.json could not be written: No space left"):
        directory.write_summary({"step": 5})
    with pytest.raises(UserError, match=r"cannot write the run directory .*: No space left on device; set run\.dir"):
        directory.create(config.vary({"run.max_steps": 9}), 1, CPU)
    assert directory.config_file.read_bytes() == before
    assert json.loads(directory.summary_file.read_text()) == {"step": 4}


def test_the_result_of_an_earlier_end_is_removed_for_good(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    directory.remove_summary()  # a run that was never finished has none
    directory.write_summary({"step": 4})
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(
        run_directory, "sync_folder", lambda folder: synced.append((folder, directory.summary_file.exists()))
    )
    directory.remove_summary()
    assert synced == [(directory.path, False)]


@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "metrics.jsonl", "figures/a.jsonl", "checkpoints", "tensorboard", ""]
)
def test_something_else_in_the_way_is_one_line(name: str, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    directory = RunDirectory(config)
    path = directory.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.mkdir(parents=True)
    else:
        os.mkfifo(path)
    with pytest.raises(UserError, match=rf"{name or 'small'} is not a .*move it away"):
        directory.check(config)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints", "figures", ""])
def test_a_link_to_nothing_is_called_that(name: str, tmp_path: Path) -> None:
    directory = RunDirectory(configuration(tmp_path))
    path = directory.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is a link to nothing; restore"):
        directory.check(configuration(tmp_path))


@pytest.mark.parametrize(
    ("name", "mode", "verb"),
    [
        ("config.json", 0o0, "read"),
        ("summary.json", 0o0, "read"),
        ("metrics.jsonl", 0o0, "read"),
        ("metrics.jsonl", 0o444, "written"),
        ("checkpoints", 0o555, "written"),
        ("tensorboard", 0o555, "written"),
        ("", 0o555, "written"),
    ],
)
def test_what_may_not_be_used_is_said_before_anything_starts(name: str, mode: int, verb: str, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    path = RunDirectory(config).path / name
    if "." in name:
        path.parent.mkdir()
        path.touch()
    else:
        path.mkdir(parents=True)
    path.chmod(mode)
    with permissions_hold(), pytest.raises(UserError, match=rf"{name or 'small'} may not be {verb} by this user"):
        RunDirectory(config).check(config)
    path.chmod(0o755)


def test_what_a_resume_lets_differ_is_said(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    directory.create(config.vary({"augment.where": "worker"}), 1, CPU)
    assert capsys.readouterr().out == ""
    directory.create(config.vary({"engine.precision": "fp32", "run.branch_from": "trunk"}), 1, CPU)
    assert capsys.readouterr().out == (
        "changed since the last start: run.branch_from unset -> trunk (of no effect: the run has begun), "
        "engine.precision bf16 -> fp32\n"
    )


def test_directory_is_held_from_open_to_close(config: RunConfig) -> None:
    first, second = RunDirectory(config), RunDirectory(config)
    first.open(config)
    with pytest.raises(UserError, match="is in use by process"):
        second.open(config)
    first.check_held()
    assert not first.lost
    first.close()
    second.open(config)
    (second.path / ".holder" / "00000009").write_text("{}")
    with pytest.raises(UserError, match="was taken over"):
        second.check_held()
    assert second.lost


def test_a_directory_that_was_removed_in_use_ends_the_run(config: RunConfig) -> None:
    """rm -rf beside a writer leaves the folder, with what was written last."""
    directory = RunDirectory(config)
    directory.open(config)
    directory.check_held()
    directory.create(config, 1, CPU)
    directory.check_held()
    directory.config_file.unlink()
    with pytest.raises(UserError, match=r"config\.json was removed while the run was in use"):
        directory.check_held()
    directory.close()


def test_what_cannot_be_written_is_named(config: RunConfig) -> None:
    directory = RunDirectory(config)
    (directory.path / ".holder").mkdir()
    loop = directory.path / ".holder" / "00000003"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match=rf"symbolic links \({loop}\)"):
        directory.open(config)


def test_start_that_was_overtaken_by_another_run_is_refused(tmp_path: Path) -> None:
    """Both checked an empty place; then the other one wrote its configuration, and ended."""
    config = configuration(tmp_path)
    late = RunDirectory(config)
    late.check(config)
    early, other = RunDirectory(config), config.vary({"run.seed": 5})
    early.open(other)
    early.create(other, 1, CPU)
    early.close()
    with pytest.raises(UserError, match=r"was started with run\.seed=5"):
        late.open(config)
    late.close()


@pytest.mark.parametrize("marker", ["nowhere/requeue", "."])
def test_marker_that_cannot_be_written(
    marker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAR_REQUEUE_FILE", str(tmp_path / marker))
    with pytest.raises(UserError, match=r"SAR_REQUEUE_FILE=.* cannot be written; name a file"):
        check_marker()
    request_requeue(3, "SIGTERM")  # the folder went away during training
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: SAR_REQUEUE_FILE=")
    monkeypatch.setenv("SAR_REQUEUE_FILE", str(tmp_path / "requeue"))
    check_marker()
    request_requeue(3, "SIGTERM")
    assert (tmp_path / "requeue").read_text() == "step 3: SIGTERM\n"


def test_moved_run_is_followed_and_a_copied_one_asks(tmp_path: Path, config: RunConfig) -> None:
    there = RunDirectory(config).path
    assert follow_moved_run(there / "config.json", config, []) == config
    here = tmp_path / "archive" / "new"
    here.parent.mkdir()
    there.rename(here)
    file = here / "config.json"
    moved = follow_moved_run(file, config, ["run.max_steps=3"])
    assert RunDirectory(moved).path == here
    for template in (["run.name=other"], ["run.dir=elsewhere"]):
        assert follow_moved_run(file, config, template) == config
    assert follow_moved_run(here.parent / "settings.json", config, []) == config
    there.mkdir()
    (there / "config.json").touch()
    with pytest.raises(UserError, match=r"which is there too; .* run\.dir=.*archive run\.name=new"):
        follow_moved_run(file, config, [])


def test_a_finished_run_names_no_folder_that_it_has_not(config: RunConfig) -> None:
    directory = RunDirectory(config)
    directory.create(config, 1, CPU)
    state = TrainState(best_top1=50.0, best_step=4)
    assert "attention figures" not in "".join(closing_lines(state, 0, directory))
    directory.figures.mkdir()
    assert str(directory.figures) in closing_lines(state, 0, directory)[-1]
