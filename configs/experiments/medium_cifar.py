"""Medium, for one GPU: all of CIFAR-10, ViT-Ti with 4-pixel patches.

Data, from any copy of CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg:
    python tools/make_shards.py imagefolder CIFAR/train data/cifar10/train --split train
    python tools/make_shards.py imagefolder CIFAR/test data/cifar10/val --split val
Command: python tools/experiment.py configs/experiments/medium_cifar.py --out results/medium_cifar --arm method --seed 0
Recipe: ours, the same for every arm; sized for 10 minutes of an H100 for one run (2.5 million images, 4 200 a second).
Hours: not measured. Result: not measured.
"""

from configs.experiments import small_cifar
from configs.experiments.arms import ARMS, control_arms, quick_features
from sar_dist.config import RunConfig
from sar_dist.experiment import Experiment


def experiment() -> Experiment:
    return Experiment(
        name="medium_cifar",
        title="CIFAR-10, 50 000 training images, 10 000 test images, ViT-Ti/4",
        base=base(),
        arms=(*ARMS, *control_arms(base())),
        seeds=(0, 1, 2),
        evaluations=quick_features("cifar10"),
    )


def base() -> RunConfig:
    """ViT-Ti, 5.4 M parameters, 8 x 8 patches."""
    return small_cifar.base().vary(
        {
            "model.options": {},
            "model.drop_path": 0.1,
            "regularizer.ramp_epochs": 5,
            "data.train": "cifar10",
            "data.val": "cifar10",
            "data.workers": 14,
            "augment.rand_augment": "rand-m9-mstd0.5-inc1",
            "optim.global_batch": 512,
            "optim.epochs": 50,
            "optim.warmup_epochs": 5,
            "engine.precision": "bf16",
            "engine.micro_batch": 512,
            "validation.every": "5ep",
            "checkpoint.every": "10ep",
            "log.every": "49st",
            "log.figure_images": 6,
        }
    )
