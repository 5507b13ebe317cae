"""Small, for two CPU cores: generated scenes with exact object masks; how well the attention covers the object.

Data: python tools/make_shards.py demo data/demo
Command: python tools/experiment.py configs/experiments/small_demo.py --out results/small_demo --jobs 2
One arm: ... --arm method --seed 0
Recipe: that of configs/experiments/small_cifar.py for 5 epochs, after which these scenes are all but learnt. They are
easy to segment by their colours: this experiment is about where the attention looks when nothing is unclear about the
object.
Hours and result: docs/results_exploration.md.
"""

from configs.experiments import small_tiny
from configs.experiments.arms import ARMS, attention_on_masks, control_arms
from sar_dist.config import RunConfig
from sar_dist.experiment import Experiment


def experiment() -> Experiment:
    return Experiment(
        name="small_demo",
        title="Generated scenes, 4 000 training images, 1 000 validation images with exact masks",
        base=base(),
        arms=(*ARMS, *control_arms(base())),
        seeds=(0, 1, 2),
        evaluations=attention_on_masks("demo", image_size=64),
    )


def base() -> RunConfig:
    """The model of the Tiny ImageNet experiment."""
    return small_tiny.base().vary(
        {"model.num_classes": 8, "data.train": "demo", "data.val": "demo", "optim.epochs": 5.0}
    )
