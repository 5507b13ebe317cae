"""A small experiment, and tools that take milliseconds in the place of training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sar_dist.config import RunConfig
from sar_dist.experiment import Arm, Evaluation, Experiment

ARMS = (
    Arm(name="baseline", what="plain", changes={"regularizer.weight": 0.0}),
    Arm(name="method", what="entropy", changes={"regularizer.weight": 0.01}),
    Arm(name="strong", what="more entropy", changes={"regularizer.weight": 0.1}, optional=True, against=("method",)),
)

# Leaves what the real tool leaves. A file NAME.fails or NAME.stops beside the runs makes it fail, or stop early once.
TRAIN = """
import json, os, sys
from pathlib import Path
config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
name, weight, seed = config["run"]["name"], config["regularizer"]["weight"], config["run"]["seed"]
runs = Path(config["run"]["dir"])
with (runs.parent / "calls").open("a") as calls:
    calls.write(f"{name} {os.environ['OMP_NUM_THREADS']}\\n")
if (runs.parent / f"{name}.fails").exists():
    print("loading", file=sys.stderr)
    print("error: the disk is full of cats", file=sys.stderr)
    print("goodbye", file=sys.stderr)
    sys.exit(2)
run = runs / name
run.mkdir(parents=True, exist_ok=True)
(run / "config.json").write_text(json.dumps(config))
stop = runs.parent / f"{name}.stops"
steps = 2 if stop.exists() else 4
stop.unlink(missing_ok=True)
top1 = 50 + 10 * seed + 100 * weight
with (run / "metrics.jsonl").open("w") as metrics:
    for step in range(1, steps + 1):
        shared = {"step": step, "time": 0.0}
        records = [
            {**shared, "prefix": "train", "loss_cls": 3 / step, "epoch": step / 2, "entropy_weight": weight},
            {**shared, "prefix": "val", "top1": top1 * step / 4, "top5": 90, "loss_cls": 2 / step,
             "entropy": 0.3 - weight, "components": 2.0, "entropy_block1_head0": 0.4 - seed * 0.2,
             "entropy_block1_head1": 0.2 + seed * 0.2},
        ]
        metrics.writelines(json.dumps(record) + "\\n" for record in records)
(run / "summary.json").write_text(json.dumps({"step": steps, "total_steps": 4}))
"""

EVALUATE = """
import json, sys
from pathlib import Path
given = dict(zip(sys.argv[1:10:2], sys.argv[2:11:2]))
settings = dict(pair.split("=", 1) for pair in sys.argv[9:])
out, run = Path(given["--out"]), Path(given["--model"])
config = json.loads((run / "config.json").read_text())
with (run.parent.parent / "evaluations_made").open("a") as calls:
    calls.write(f"{run.name} {given['--task']} {given['--data']} {settings}\\n")
folder = out / "knn_data"
folder.mkdir(parents=True, exist_ok=True)
(folder / "result.json").write_text(json.dumps({
    "schema_version": "sar_dist-transfer-1", "task": given["--task"], "label": "knn_data", "primary": "top1",
    "metrics": {"top1": 40.0 + int(settings["seed"])}, "baselines": {"chance": {"top1": 10.0}}, "partial": False,
    "model": {"spec": str(run), "description": "x", "fingerprint": "f"},
    "data": {"name": Path(given["--data"]).name, "fingerprints": {}, "samples": 5, "skipped": 0},
    "settings": {name: json.loads(value) for name, value in settings.items()}, "protocol": {}, "tables": {}, "environment": {}, "seconds": 1.0,
}))
"""


def make_tools(folder: Path) -> Path:
    """A folder with the two programs."""
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "transfer_eval.py").write_text(EVALUATE)
    return folder


def make_experiment(data: Path, **changes: Any) -> Experiment:
    """Three arms, the last of them optional, two seeds, one evaluation on the folder ``data``."""
    values: dict[str, Any] = {
        "name": "small",
        "title": "A <small> experiment",
        "base": RunConfig.model_validate({"run": {"name": "base"}}),
        "arms": ARMS,
        "seeds": (0, 1),
        "evaluations": (Evaluation(name="knn", task="knn", data=str(data), settings={"k": [3, 20]}),),
    }
    return Experiment(**{**values, **changes})
