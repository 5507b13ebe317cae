"""Run as one process: train and validate with compiled blocks, and write down how often Dynamo made a graph, and why.

python count_graphs.py CONFIG OUT.json OVERRIDES [OVERRIDES ...]     one run for each space-separated OVERRIDES
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from sar_dist import distributed
from sar_dist.config import RunConfig, load_config
from sar_dist.data import ValidationLoader
from sar_dist.training import setup
from sar_dist.training.evaluation import evaluate
from sar_dist.training.trainer import Trainer

GRAPHS: list[torch.fx.GraphModule] = []


def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """A backend of torch.compile that compiles nothing."""
    GRAPHS.append(graph)
    return graph.forward


def measure(config: RunConfig) -> dict[str, Any]:
    """Graphs after some training steps, after a validation, after another of each, and after a smaller last batch."""
    torch._dynamo.reset()
    counters.clear()
    GRAPHS.clear()
    trainer = setup.build_trainer(config)
    stages: dict[str, int] = {}
    for number in ("first", "second"):
        for _ in range(2):
            trainer.train_step()
        stages[f"{number} training"] = len(GRAPHS)
        evaluate(trainer.engine.module, trainer.task, trainer.val_loader)
        stages[f"{number} validation"] = len(GRAPHS)
    smaller_batch(trainer, trainer.val_loader)
    stages["smaller batch"] = len(GRAPHS)
    trainer.watchdog.stop()
    trainer.logger.close()
    trainer.directory.close()
    trainer.engine.destroy()
    return {"graphs": stages, "breaks": dict(counters["graph_break"])}


def smaller_batch(trainer: Trainer, loader: ValidationLoader) -> None:
    """Predict a batch with fewer images than all others, as a loader that does not fill the last one up would have."""
    batch = next(iter(loader.iterate()))
    fewer = {key: value[:-1] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    module = trainer.engine.module.eval()
    with torch.no_grad():
        trainer.task.predict(module, fewer)


def main() -> None:
    config_file, out, *variants = sys.argv[1:]
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    torch.compile = functools.partial(torch.compile, backend=counting)
    setup.check_compiler = lambda device: None  # it compiles something of its own
    distributed.initialize(torch.device("cpu"))
    results = []
    for number, variant in enumerate(variants):
        results.append(measure(load_config(config_file, [*variant.split(), f"run.name=graphs{number}"])))
    Path(out).write_text(json.dumps(results))
    distributed.shutdown()


if __name__ == "__main__":
    main()
