"""The small parts of the loop: guards, averages, length, launch environment, signals, run directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from run_factory import settings
from support import ROOT

from sar_dist import distributed
from sar_dist.config import GuardSettings, RunConfig, RunSettings, load_config
from sar_dist.engine import compile_problem
from sar_dist.errors import UserError
from sar_dist.models import model_on_meta
from sar_dist.training import RunDirectory, branching, checkpointing, setup
from sar_dist.training.averages import RunningAverages
from sar_dist.training.checkpointing import Checkpointing
from sar_dist.training.checks import check_buffers
from sar_dist.training.guards import StepGuard, Verdict, check_rollbacks
from sar_dist.training.length import RunLength
from sar_dist.training.state import LOSS_HISTORY, GuardState, TrainState

CPU = torch.device("cpu")
SAMPLES = torch.tensor([7, 8])


def guard(state: GuardState | None = None, **settings: object) -> StepGuard:
    return StepGuard(GuardSettings(**settings), state or GuardState(), tolerate_overflow=False)  # type: ignore[arg-type]


def saved_and_read(state: TrainState) -> TrainState:
    """As a checkpoint hands it on to the next start."""
    return TypeAdapter(TrainState).validate_python(json.loads(json.dumps(state.to_json())))


def test_guard_blames_samples_and_counts_skips_in_a_row() -> None:
    watch = guard(max_skipped=3)
    assert watch.after_step(1, applied=True) == (Verdict.GO_ON, None)
    for step in (2, 3):
        watch.saw(torch.tensor(float("nan")), SAMPLES)
        verdict, message = watch.after_step(step, applied=False)
        assert verdict is Verdict.GO_ON
        assert message == f"step {step} was skipped: the loss is not finite on rank 0; its training samples were 7, 8"
    watch.after_step(4, applied=True)
    for step in (5, 6):
        watch.saw(torch.tensor(1.0), SAMPLES)
        assert "the losses are finite, the gradient is not" in str(watch.after_step(step, applied=False)[1])
    with pytest.raises(UserError, match="3 steps in a row"):
        watch.after_step(7, applied=False)


def test_guard_rolls_back_on_a_spike() -> None:
    watch = guard(spike_factor=2.0)
    for step, loss in enumerate([3.0, 2.5, 50.0, 2.4, 2.3, 2.2, 4.0, float("nan")]):  # too early to judge the 50
        assert watch.after_interval(step, loss)[0] is Verdict.GO_ON
    verdict, message = watch.after_interval(9, 5.1)
    assert verdict is Verdict.ROLL_BACK
    assert message is not None
    assert "over 2 times the usual" in message
    assert watch.state.rollbacks == 1
    assert guard().after_interval(1, 1e9) == (Verdict.GO_ON, None)


def test_rollbacks_do_not_happen_for_ever() -> None:
    state = TrainState(step=30, guard=GuardState(rollbacks=1))
    check_rollbacks(GuardSettings(max_rollbacks=1), state)
    state.guard.rollbacks += 1
    with pytest.raises(
        UserError, match=r"max_rollbacks=1 is reached: 2 .* step 30; set guard\.max_rollbacks=2 or more"
    ):
        check_rollbacks(GuardSettings(max_rollbacks=1), state)
    check_rollbacks(GuardSettings(max_rollbacks=2), state)


@pytest.mark.parametrize("stops", [(), (3, 4), tuple(range(40))])
def test_a_guard_judges_as_if_the_run_had_not_been_stopped(stops: tuple[int, ...]) -> None:
    """Skipped steps and spikes, with a save and a start between the two, or anywhere."""
    settings = {"non_finite": "rollback", "spike_factor": 1.2}
    draw = torch.Generator().manual_seed(0)
    losses = torch.rand(40, generator=draw, dtype=torch.float64).add(4).tolist()
    state, found = TrainState(), []
    for step, loss in enumerate(losses):
        watch = guard(state.guard, **settings)
        found.append(watch.after_step(step, applied=step % 7 != 6)[0])
        found.append(watch.after_interval(step, loss * (1.5 if step in (12, 30) else 1))[0])
        if step in stops:
            state = saved_and_read(state)
    assert [number // 2 for number, verdict in enumerate(found) if verdict is Verdict.ROLL_BACK] == [
        6,
        12,
        13,
        20,
        27,
        30,
        34,
    ]
    assert state.guard.rollbacks == 7
    assert (
        state.guard.usual_losses == [loss for step, loss in enumerate(losses) if step not in (12, 30)][-LOSS_HISTORY:]
    )


def test_skipped_steps_in_a_row_are_counted_over_starts() -> None:
    state = TrainState()
    for step in range(2):
        guard(state.guard, max_skipped=3).after_step(step, applied=False)
        state = saved_and_read(state)
    with pytest.raises(UserError, match="3 steps in a row"):
        guard(state.guard, max_skipped=3).after_step(2, applied=False)


def test_a_branch_has_the_losses_of_its_trunk_and_rollbacks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = TrainState(step=10, guard=GuardState(rollbacks=9, usual_losses=[1.5]))
    monkeypatch.setattr(branching, "_branch_point", lambda *_: SimpleNamespace(manifest=SimpleNamespace(classes=None)))
    monkeypatch.setattr(branching, "resumed_state", lambda *_: saved)
    config = RunConfig(run=RunSettings(name="x", branch_from="trunk"))
    unused: Any = SimpleNamespace(newest=lambda: None, fingerprint={"manifest": "a"})
    state = branching.starting_point(config, unused, unused, unused, unused, None)[1]
    assert state == TrainState(step=10, guard=GuardState(usual_losses=[1.5]), validation_set={"manifest": "a"})


def test_progress_from_before_the_guard_was_kept_is_read() -> None:
    older = {key: value for key, value in TrainState(step=3).to_json().items() if key != "guard"}
    assert TypeAdapter(TrainState).validate_python(older) == TrainState(step=3)


def test_fp16_overflow_is_not_a_problem_until_it_never_ends() -> None:
    watch = StepGuard(GuardSettings(max_skipped=2, non_finite="stop"), GuardState(), tolerate_overflow=True)
    assert watch.after_step(1, applied=False) == (Verdict.GO_ON, None)
    with pytest.raises(UserError):
        watch.after_step(2, applied=False)


def test_averages_are_means_and_survive_a_restart() -> None:
    values = [{"loss": torch.tensor(number)} for number in (1.0, 2.0, 6.0)]
    unbroken, first, second = RunningAverages(CPU), RunningAverages(CPU), RunningAverages(CPU)
    for value in values:
        unbroken.add(value)
    for value in values[:2]:
        first.add(value)
    second.load_state_dicts([json.loads(json.dumps(first.state_dict()))])
    second.add(values[2])
    assert second.take() == unbroken.take() == {"loss": 3.0}
    assert unbroken.take() == {}


@pytest.mark.parametrize(
    ("rate", "before", "said"),
    [
        (0.3, (1, 8), False),
        (0.0, (1, 4), False),
        (0.3, (1, 4), True),
        (0.3, (2, 8), True),
    ],
)
def test_dropout_that_is_another_one_after_a_resume_is_said(
    rate: float, before: tuple[int, int], said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    unused: Any = None
    engine: Any = SimpleNamespace(module=torch.nn.Sequential(torch.nn.Dropout(rate)), zero_optimization_stage=lambda: 1)
    world, micro_batch = before
    manifest = SimpleNamespace(world_size=world, zero_stage=1, config={"engine": {"micro_batch": micro_batch}})
    reader: Any = SimpleNamespace(manifest=manifest, step=4, folder="x", indices_for=lambda rank, world: [])
    monkeypatch.setattr(checkpointing, "restore", lambda *_: None)
    config = {"engine": {"micro_batch": 8}}
    Checkpointing(unused, engine, None, unused, RunningAverages(CPU), lines.append, config).resume(reader)
    assert lines[0].startswith("resumed after step 4 from x")
    shown = f"engine.micro_batch={micro_batch} on {world} process"
    assert [shown in line and "dropout is drawn by process" in line for line in lines[1:]] == [True] * said


def test_length_of_a_run() -> None:
    config = load_config(ROOT / "configs" / "demo.py", ["optim.epochs=10", "run.max_steps=35"])
    length = RunLength(config, 10)
    assert (length.total, length.last_step) == (100, 35)
    assert [step for step in range(1, 36) if length.due("1ep", step)] == [10, 20, 30]
    assert [step for step in range(1, 36) if length.due("7st", step)] == [7, 14, 21, 28]  # 35 is the end
    assert not any(length.due(None, step) for step in range(1, 36))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 0, 1)),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, (3, 1, 4)),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"}, (5, 1, 8)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}, (0, 0, 1)),  # in the batch script, not in a step
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": "7"}, (0, 0, 2)),
    ],
)
def test_every_launcher_is_understood(
    environment: dict[str, str], expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name
        for name in os.environ
        if name.startswith(("SLURM_", "OMPI_", "PMI_")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    ]:
        monkeypatch.delenv(name)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # so that what the function sets is undone afterwards
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.read_environment() == expected


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "one"}])
def test_contradictory_launchers_are_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError):
        distributed.read_environment()


def test_second_signal_leaves_at_once() -> None:
    program = "from sar_dist import signals; import time; signals.install_handlers(); signals.begin_training(); print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # the same request, forwarded by a launcher
    time.sleep(2.0)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    process.stdout.close()


def test_run_directory_names_what_changed(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs" / "demo.py", [f"run.dir={tmp_path}"])
    directory = RunDirectory(config)
    directory.check(config)
    directory.create(config, 1, CPU)
    directory.check(config.vary({"run.max_steps": 7, "engine.zero_stage": 3, "data.workers": 3}))
    for key, value in (("run.seed", 5), ("optim.global_batch", 32), ("augment.mixup", 0.5)):
        with pytest.raises(UserError, match=key):
            directory.check(config.vary({key: value}))
        directory.check(config.vary({key: value, "data.allow_changed": True}))
    with pytest.raises(UserError, match=r"model\.drop_path"):
        directory.check(config.vary({"model.drop_path": 0.5, "data.allow_changed": True}))
    with pytest.raises(UserError, match=r"run\.resume=never"):
        directory.check(config.vary({"run.resume": "never"}))
    directory.create(config, 2, CPU)
    records = json.loads(directory.environment_file.read_text())
    assert [record["world_size"] for record in records] == [1, 2]


def test_model_with_buffers_is_refused() -> None:
    vit = model_on_meta(settings(), RunConfig(run=RunSettings(name="x")).regularizer).vit
    check_buffers(vit)
    vit.norm = torch.nn.BatchNorm1d(4)
    with pytest.raises(UserError, match=r"3 tensors that are no parameters, such as norm\.num_batches_tracked"):
        check_buffers(vit)


def test_kernels_that_do_not_run_are_said_before_training(monkeypatch, capsys):
    monkeypatch.setattr(
        setup, "find_backend_problem", lambda backend, device: "RuntimeError: Failed to find C compiler"
    )
    setup.check_kernels("auto", torch.device("cuda"))
    assert "takes the slower torch backend: RuntimeError: Failed to find C compiler (rank 0)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"backend=triton does not run: .*gcc, python3-dev"):
        setup.check_kernels("triton", torch.device("cuda"))


@pytest.mark.parametrize(("backend", "device"), [("triton", "cpu"), ("cpu", "cuda")])
def test_a_backend_for_another_device_is_refused_before_training(monkeypatch, backend, device):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        UserError, match=f"regularizer.backend={backend} does not run: .*; set regularizer.backend=auto"
    ):
        setup.check_kernels(backend, torch.device(device))


def test_a_compiler_that_does_not_work_is_said_before_training(monkeypatch):
    """The problem is a real one: Inductor is told of a compiler that does not exist."""
    import torch._inductor.config as inductor

    with inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "fx_graph_cache": False}):
        problem = compile_problem(CPU)
    assert problem is not None
    assert "C++ compiler" in problem
    monkeypatch.setattr(setup, "compile_problem", lambda device: problem)
    with pytest.raises(UserError, match=r"engine\.compile=true does not work on rank 0: .*set engine\.compile=false"):
        setup.check_compiler(CPU)


@pytest.mark.parametrize(
    ("device", "offload", "threads"), [("cuda", "optimizer", 5), ("cuda", "none", 1), ("cpu", "all", 1)]
)
def test_an_offloaded_optimizer_has_the_cores_of_its_process(device, offload, threads, monkeypatch):
    given = []
    monkeypatch.setattr(setup.distributed, "own_cores", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    config = RunConfig(run=RunSettings(name="x"), engine={"offload": offload, "zero_stage": 3})
    assert setup.divide_cores(config, torch.device(device)).workers == 4
    assert (given or [1]) == [threads]


@pytest.mark.parametrize(
    ("wanted", "world_size", "batch"),
    [(None, 1, 8), (4, 1, 4), (16, 1, 16), (10**6, 1, 21), (10**6, 2, 11), (10**6, 9, 8)],
)
def test_a_validation_batch_is_no_larger_than_the_set(wanted: int | None, world_size: int, batch: int) -> None:
    config = RunConfig(run=RunSettings(name="x")).vary(
        {"engine.micro_batch": 8, "validation.micro_batch": wanted, "optim.global_batch": 72}
    )
    assert setup.validation_batch(config, 21, world_size) == batch
