"""The DeepSpeed engine: generated configuration, optimizer, schedule, moving average."""

from sar_dist.engine.build import autocast, build_engine, check_engine, input_dtype
from sar_dist.engine.collectives import collectives_as_regions
from sar_dist.engine.compile_probe import compile_problem
from sar_dist.engine.deepspeed_config import BatchArithmetic, batch_arithmetic, deepspeed_config
from sar_dist.engine.ema import ExponentialMovingAverage
from sar_dist.engine.engine_state import restore, shared_state, snapshot
from sar_dist.engine.optimizer import STATE_BYTES, Optimizer
from sar_dist.engine.optimizers import optimizer_of
from sar_dist.engine.protocol import Engine
from sar_dist.engine.schedule import learning_rate_factor, total_steps

__all__ = [
    "STATE_BYTES",
    "BatchArithmetic",
    "Engine",
    "ExponentialMovingAverage",
    "Optimizer",
    "autocast",
    "batch_arithmetic",
    "build_engine",
    "check_engine",
    "collectives_as_regions",
    "compile_problem",
    "deepspeed_config",
    "input_dtype",
    "learning_rate_factor",
    "optimizer_of",
    "restore",
    "shared_state",
    "snapshot",
    "total_steps",
]
