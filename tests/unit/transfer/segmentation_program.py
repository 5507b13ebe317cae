"""Runs a segmentation task on the small backbone, on as many processes as RANK and WORLD_SIZE say; prints its scores.

python segmentation_program.py DATA OUT key=value ...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from segmentation_factory import small_task

data, out, *overrides = sys.argv[1:]
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    dist.init_process_group("gloo")
lines: list[str] = []
task = small_task(Path(data), Path(out), lines, **dict(override.split("=", 1) for override in overrides))
outcome = task.run(task.prepare())
if os.environ.get("RANK", "0") == "0":
    Path(out, "scores.json").write_text(json.dumps({"metrics": dict(outcome.metrics), "said": lines}))
if dist.is_initialized():
    dist.destroy_process_group()
