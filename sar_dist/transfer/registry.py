"""Which transfer tasks there are. A new one is a ``TransferTask`` in a module of its own and a line here."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from sar_dist.errors import UserError
from sar_dist.transfer.task import TransferTask

# Modules are imported when a task of theirs is asked for: segmentation and scikit-learn are slow to import.
TASKS = {
    "imagenet_val": "classification:ImageNetValidation",
    "imagenet_linear": "probes.linear:ImageNetLinearProbe",
    "linear": "probes.linear:LinearProbe",
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


def find_task(name: str) -> type[TransferTask[Any]]:
    """The task called ``name``. Raises UserError with the nearest names."""
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "; --list shows all"
        raise UserError(f"there is no task {name!r}{hint}")
    module, _, attribute = TASKS[name].partition(":")
    task: type[TransferTask[Any]] = getattr(importlib.import_module(f"sar_dist.transfer.tasks.{module}"), attribute)
    return task
