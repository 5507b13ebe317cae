"""Training runs: the loop, its task, validation, stopping, and the run directory."""

from sar_dist.training.averages import RunningAverages
from sar_dist.training.checkpointing import Checkpointing
from sar_dist.training.evaluation import evaluate
from sar_dist.training.images_by_set import ImagesBySet
from sar_dist.training.length import RunLength
from sar_dist.training.loader_benchmark import benchmark_loader
from sar_dist.training.reporting import DataAdvice
from sar_dist.training.run_directory import RunDirectory
from sar_dist.training.setup import build_trainer
from sar_dist.training.state import TrainState
from sar_dist.training.task import ClassificationTask
from sar_dist.training.trainer import Trainer

__all__ = [
    "Checkpointing",
    "ClassificationTask",
    "DataAdvice",
    "ImagesBySet",
    "RunDirectory",
    "RunLength",
    "RunningAverages",
    "TrainState",
    "Trainer",
    "benchmark_loader",
    "build_trainer",
    "evaluate",
]
