import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from sar_dist.observe import logger as logger_module
from sar_dist.observe.destination import EntryWaits, LoggedRun
from sar_dist.observe.logger import RunLogger
from sar_dist.observe.tensorboard_charts import CHARTS
from sar_dist.observe.tensorboard_destination import TensorBoard, flatten

# TensorBoard's writer thread must not raise to nobody: that prints a traceback for every entry on a full disk.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def make_logger(directory, enabled=True, **options):
    return RunLogger(directory, enabled=enabled, total_steps=100, description="demo", **options)


def scalars(directory):
    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    curves = {
        tag: [(event.step, round(event.value, 5)) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }
    return {tag: points for tag, points in curves.items() if points}


def records(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def make_figure():
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1], [1, 0])
    return figure


def test_metrics_are_on_disk_at_once(tmp_path):
    logger = make_logger(tmp_path)
    logger.metrics(10, {"loss": 2.5, "grad_norm": float("inf")})
    logger.metrics(10, {"top1": 0.25}, prefix="val")
    assert records(tmp_path) == [
        {"step": 10, "prefix": "train", "loss": 2.5, "grad_norm": "Infinity"},
        {"step": 10, "prefix": "val", "top1": 0.25},
    ]
    assert scalars(tmp_path) == {
        "train/loss": [(10, 2.5)],
        "train/grad_norm": [(10, float("inf"))],
        "val/top1": [(10, 0.25)],
    }
    logger.close()
    assert logger.failures == 0


def train(directory, start, stop):
    logger = make_logger(directory)
    logger.start({}, start if start else -1)
    for step in range(start + 1, stop + 1):
        logger.metrics(step, {"loss": 1 / step})
        if step % 4 == 0:
            logger.metrics(step, {"top1": step / 100}, prefix="val")
    logger.close()


def test_the_curves_of_a_resumed_run_are_those_of_an_unbroken_one(tmp_path):
    train(tmp_path / "unbroken", 0, 12)
    train(tmp_path / "resumed", 0, 9)  # killed at step 9; the newest checkpoint is of step 5
    train(tmp_path / "resumed", 5, 7)  # killed again, before any further checkpoint
    train(tmp_path / "resumed", 5, 12)
    assert records(tmp_path / "resumed") == records(tmp_path / "unbroken")
    assert scalars(tmp_path / "resumed") == scalars(tmp_path / "unbroken")


def test_a_run_that_starts_over_leaves_nothing_of_the_first_try(tmp_path):
    logger = make_logger(tmp_path)
    logger.start({}, -1)
    logger.metrics(0, {"top1": 0.1}, prefix="val")
    logger.metrics(3, {"loss": 9.0})
    logger.close()
    train(tmp_path, 0, 2)
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert scalars(tmp_path) == {"train/loss": [(1, 1.0), (2, 0.5)]}


def test_a_step_that_was_stopped_in_its_validation_is_validated_anew(tmp_path):
    train(tmp_path, 0, 4)
    logger = make_logger(tmp_path)
    logger.details("classes", 4, {}, {})
    logger.close()
    once = records(tmp_path), scalars(tmp_path)
    logger = make_logger(tmp_path)
    logger.start({}, 4, settled=False)
    assert [(record["step"], record["prefix"]) for record in records(tmp_path)] == [
        (step, "train") for step in (1, 2, 3, 4)
    ]
    assert (tmp_path / "figures" / "classes.jsonl").read_text() == ""
    logger.metrics(4, {"top1": 0.04}, prefix="val")
    logger.close()
    assert (records(tmp_path), scalars(tmp_path)) == once


def test_truncation_comes_first(tmp_path):
    logger = make_logger(tmp_path)
    logger.metrics(1, {"loss": 1.0})
    with pytest.raises(RuntimeError, match="before the first entry"):
        logger.start({}, 0)
    logger.close()


def test_figures_go_to_tensorboard_and_to_a_picture(tmp_path):
    logger = make_logger(tmp_path)
    logger.figure("attention", make_figure(), 1234)
    logger.close()
    with Image.open(tmp_path / "figures" / "attention_step_00001234.png") as picture:
        assert picture.size == (100, 50)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["attention_step_00001234.png"]
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (image,) = accumulator.Images("attention")
    assert (image.step, image.width, image.height) == (1234, 100, 50)


def test_histograms(tmp_path):
    logger = make_logger(tmp_path)
    values = {"entropy_head0": torch.tensor([[0.5, 1.5], [float("nan"), 0.5]]), "components_head0": np.array([1, 2, 3])}
    logger.histograms(5, values | {"nothing": [float("inf")]}, "attention")
    logger.close()
    assert logger.failures == 0
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert accumulator.Tags()["histograms"] == ["attention/entropy_head0", "attention/components_head0"]
    (event,) = accumulator.Histograms("attention/entropy_head0")
    assert (event.step, event.histogram_value.num, event.histogram_value.max) == (5, 3, 1.5)


def test_the_first_page_groups_what_the_trainer_logs(tmp_path):
    logger = make_logger(tmp_path)
    logger.metrics(1, {"loss": 1.0})
    logger.close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (content,) = accumulator.Tensors("custom_scalars__config__")
    layout = Layout.FromString(content.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(CHARTS)
    assert list(layout.category[0].chart[0].multiline.tag) == CHARTS["Learning"]["loss"]


def test_hyperparameters(tmp_path):
    logger = make_logger(tmp_path)
    logger.metrics(7, {"loss": 1.0})
    logger.hyperparameters({"optim": {"lr": 0.1, "clip": None, "betas": (0.9, 0.999)}, "compile": True}, {"top1": 0.5})
    logger.close()
    assert scalars(tmp_path)["final/top1"] == [(7, 0.5)]
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert set(accumulator.PluginTagToContent("hparams")) >= {"_hparams_/session_start_info", "_hparams_/experiment"}


def test_flat_settings():
    nested = {"a": {"b": 1, "c": {"d": None, "e": (1, 2)}}, "f": "x", "g": {}, "h": False}
    assert flatten(nested) == {"a.b": 1, "a.c.d": "null", "a.c.e": "[1, 2]", "f": "x", "g": "{}", "h": False}


def test_other_ranks_write_and_say_nothing(tmp_path, capsys):
    logger = make_logger(tmp_path / "run", enabled=False)
    logger.start({}, -1)
    logger.metrics(1, {"loss": 1.0})
    logger.progress(1, {"loss": 1.0})
    logger.figure("attention", make_figure(), 1)
    logger.histograms(1, {"entropy": [1.0]}, "attention")
    logger.trace(lambda path: pytest.fail("wrote a trace"), 1)
    logger.message("hello")
    logger.hyperparameters({"a": 1}, {"top1": 1.0})
    logger.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_a_dead_disk_does_not_stop_training(tmp_path, capsys):
    run = tmp_path / "run"
    run.write_text("a file where the run directory should be")
    logger = make_logger(run)
    logger.start({}, -1)
    for step in (1, 2):
        logger.metrics(step, {"loss": 1.0})  # the record and TensorBoard fail
    logger.figure("attention", make_figure(), 2)
    assert logger.failures == 2  # the picture, in the folder and in TensorBoard
    errors = capsys.readouterr().err
    assert errors.count("warning: logging failed") == errors.count("logging failed in tensorboard") + 1 == 2
    assert errors.count("its lines wait in memory") == 1
    assert errors.count("warning: tensorboard takes no entries, they wait in memory and training goes on: ") == 1
    run.unlink()
    logger.metrics(3, {"loss": 1.0})  # the disk is back
    logger.close()
    assert logger.failures == 2
    assert [record["step"] for record in records(run)] == [1, 2, 3]
    assert scalars(run) == {"train/loss": [(1, 1.0), (2, 1.0), (3, 1.0)]}


def test_stdout_that_takes_nothing_is_said_to_be_that(tmp_path, capsys, monkeypatch):
    logger = make_logger(tmp_path)

    def nobody_reads(text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(logger._progress, "message", nobody_reads)
        for _ in range(3):
            logger.message("hello")
    logger.close()
    assert capsys.readouterr().err == (
        "warning: logging failed on stdout, training goes on (further failures are only counted): [Errno 32] Broken pipe\n"
        "warning: log entries that were lost: 3 of stdout\n"
    )


def test_lines_that_wait_to_the_end_are_lost_and_said(tmp_path, capsys):
    run = tmp_path / "run"
    run.write_text("a file where the run directory should be")
    logger = make_logger(run, to=())
    logger.metrics(1, {"loss": 1.0})
    logger.metrics(2, {"loss": 1.0})
    logger.close()
    assert logger.failures == 2
    assert "warning: log entries that were lost: 2 of the run directory" in capsys.readouterr().err


def test_a_trace_is_moved_to_its_place_when_it_is_whole(tmp_path, capsys):
    logger = make_logger(tmp_path)
    place = tmp_path / "tensorboard" / "step_00000007.pt.trace.json.gz"

    def save(path):
        assert path.endswith(".gz")  # by which PyTorch knows that it should compress
        Path(path).write_bytes(b"trace")
        assert not place.exists()

    logger.trace(save, 7)
    assert place.read_bytes() == b"trace"
    assert str(place) in capsys.readouterr().out


def test_a_trace_that_cannot_be_written_does_not_stop_training(tmp_path, capsys):
    def fail(path):
        raise OSError(28, "No space left on device")

    logger = make_logger(tmp_path)
    logger.trace(fail, 7)
    assert logger.failures == 1
    logger.metrics(8, {"loss": 1.0})
    assert logger.failures == 1
    assert "No space left" in capsys.readouterr().err


def test_no_metrics_are_no_record(tmp_path):
    logger = make_logger(tmp_path)
    logger.metrics(1, {})
    logger.close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_disk_that_dies_under_tensorboard(tmp_path, monkeypatch, capsys):
    from tensorboard.summary.writer.record_writer import RecordWriter

    logger = make_logger(tmp_path)
    logger.metrics(1, {"loss": 1.0})

    def fail(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", fail)
        logger.metrics(2, {"loss": 1.0})
        logger.metrics(3, {"loss": 1.0})
        logger.hyperparameters({"a": 1}, {"top1": 0.5})
    assert capsys.readouterr().err.count("No space left") == 1
    logger.flush()
    logger.close()
    assert logger.failures == 0
    assert scalars(tmp_path) == {"train/loss": [(1, 1.0), (2, 1.0), (3, 1.0)], "final/top1": [(3, 0.5)]}


@pytest.mark.parametrize("records_that_fit", range(7))
def test_what_a_full_disk_cuts_is_neither_missing_nor_doubled_in_tensorboard(tmp_path, monkeypatch, records_that_fit):
    """Half a record makes everything behind it unreadable, also what TensorBoard would append to it later."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    honest, fit = LocalFileSystem._write, iter(range(records_that_fit))

    def write(self, filename, content, mode):
        if next(fit, None) is None:
            honest(self, filename, content[: len(content) // 2], mode)
            raise OSError(28, "No space left on device")
        honest(self, filename, content, mode)

    logger = make_logger(tmp_path)
    logger.start({}, -1)
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "_write", write)
        for step in (1, 2, 3):
            logger.metrics(step, {"loss": step, "accuracy": step})
    assert len(list((tmp_path / "tensorboard").iterdir())) <= 1
    logger.metrics(4, {"loss": 4, "accuracy": 4})
    logger.close()
    assert logger.failures == 0
    expected = [(step, float(step)) for step in (1, 2, 3, 4)]
    assert scalars(tmp_path) == {"train/loss": expected, "train/accuracy": expected}


def test_what_waits_for_tensorboard_is_bounded(tmp_path, capsys):
    run = tmp_path / "run"
    run.write_text("a file where the run directory should be")
    destination = TensorBoard(LoggedRun(run, "demo"), most_bytes=600)
    for step in range(5):
        with pytest.raises(EntryWaits, match=r"tensorboard"):
            destination.metrics(step, 0.0, {"train/loss": 1.0})
    assert destination.lost == 2
    run.unlink()
    destination.flush()
    assert [step for step, _ in scalars(run)["train/loss"]] == [2, 3, 4]
    destination.close()
    assert destination.lost == 2


def test_what_waits_for_tensorboard_to_the_end_is_lost_and_said(tmp_path, capsys):
    run = tmp_path / "run"
    run.write_text("a file where the run directory should be")
    logger = make_logger(run)
    logger.metrics(1, {"loss": 1.0})
    logger.close()
    assert logger.failures == 2
    said = "warning: log entries that were lost: 1 of the run directory, 1 of tensorboard"
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_stdout_and_stderr(tmp_path):
    program = (
        "from pathlib import Path; from sar_dist.observe.logger import RunLogger\n"
        f"logger = RunLogger(Path({str(tmp_path)!r}), enabled=True, total_steps=10, description='demo')\n"
        "logger.progress(1, {'loss': 1.0}); logger.message('hello'); logger.metrics(1, {'loss': 1.0})\n"
        f"Path({str(tmp_path / 'failures')!r}).write_text(str(logger.failures)); logger.close()\n"
        "import os; os._exit(0)\n"
    )
    root = Path(logger_module.__file__).parents[2]
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=full, cwd=root, check=False)
    assert result.returncode == 0
    assert int((tmp_path / "failures").read_text()) >= 2
    assert [record["step"] for record in records(tmp_path)] == [1]
