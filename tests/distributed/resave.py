"""Load a checkpoint into an engine of another topology and save it again: resave.py CONFIG FOLDER TARGET STAGE PRECISION."""

import sys
from pathlib import Path

import torch

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointReader, CheckpointStore, SharedState
from sar_dist.config import load_config
from sar_dist.devices import select_device
from sar_dist.engine import ExponentialMovingAverage, build_engine
from sar_dist.engine.engine_state import restore, shared_state, snapshot
from sar_dist.models import build_model

config_file, folder, target, stage, precision = sys.argv[1:]
overrides = [f"engine.zero_stage={stage}", f"engine.precision={precision}", "optim.ema=0.9", "optim.layer_decay=0.8"]
if stage == "3":
    overrides.append("engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0")
config = load_config(config_file, overrides)
_, local_rank, world_size = distributed.read_environment()
distributed.initialize(select_device(local_rank))
torch.manual_seed(1234)  # other weights than the checkpoint's: they must be replaced
model = build_model(config.model, config.regularizer)
engine = build_engine(config, model, world_size=world_size, steps_per_epoch=6)
ema = ExponentialMovingAverage(engine, 0.9)
reader = CheckpointReader(Path(folder))
restore(engine, ema, reader)
store = CheckpointStore(Path(target), keep_last=1, keep_every=None)
store.prepare()
store.save(reader.step, *snapshot(engine, ema), SharedState(engine=shared_state(engine, ema)))
store.wait()
problem = store.take_problem()
assert problem is None, problem
distributed.barrier()
distributed.shutdown()
