"""Which transfer tasks there are. A new one is a ``TransferTask`` in a module of its own and a line here.

A task that is a user's own needs no line: ``my_module:MyTask`` names it on the command line."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from sar_dist.errors import UserError
from sar_dist.extensions import import_extension
from sar_dist.transfer.task import TransferTask

# Modules are imported when a task of theirs is asked for: segmentation and scikit-learn are slow to import.
TASKS = {
    "imagenet_val": "classification:ImageNetValidation",
    "imagenet_linear": "probes.linear.task:ImageNetLinearProbe",
    "linear": "probes.linear.task:LinearProbe",
    "knn": "probes.knn:NearestNeighbours",
    "logreg": "probes.logistic_regression:LogisticRegressionProbe",
    "finetune": "finetune:Finetune",
    "ade20k": "segmentation.tasks:Ade20k",
    "voc_seg": "segmentation.tasks:VocSegmentation",
    "voc_attention": "attention.masks:AttentionMasks",
    "attention_boxes": "attention.boxes:AttentionBoxes",
    "imagenet_a": "robustness.tasks:ImageNetA",
    "imagenet_r": "robustness.tasks:ImageNetR",
    "imagenet_real": "robustness.tasks:ImageNetReal",
    "imagenet_v2": "robustness.tasks:ImageNetV2",
    "imagenet_sketch": "robustness.tasks:ImageNetSketch",
    "imagenet_c": "robustness.corruptions:ImageNetC",
}


def task_names() -> list[str]:
    """The names of all tasks, in the order of the table."""
    return list(TASKS)


def find_task(name: str) -> type[TransferTask[Any, Any]]:
    """The task called ``name``, or that of the user's own "my_module:MyTask". Raises UserError with the nearest names."""
    if ":" in name:
        return _own_task(name)
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "; --list shows all"
        raise UserError(f"there is no task {name!r}{hint}")
    module, _, attribute = TASKS[name].partition(":")
    task: type[TransferTask[Any, Any]] = getattr(
        importlib.import_module(f"sar_dist.transfer.tasks.{module}"), attribute
    )
    return task


def _own_task(name: str) -> type[TransferTask[Any, Any]]:
    module, attribute = import_extension(name, "--task")
    task = getattr(module, attribute, None)
    if not (isinstance(task, type) and issubclass(task, TransferTask)):
        raise UserError(f"--task={name}: {module.__name__} has no class {attribute} that is a TransferTask")
    return task
