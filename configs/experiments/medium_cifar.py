"""Medium, for one GPU: all of CIFAR-10, ViT-Ti with 4-pixel patches.

Data, from any copy of CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg:
    python tools/make_shards.py imagefolder CIFAR/train data/cifar10/train --split train
    python tools/make_shards.py imagefolder CIFAR/test data/cifar10/val --split val
Command: python tools/experiment.py configs/experiments/medium_cifar.py --out results/medium_cifar --jobs 2 --minutes 9 \
    --records docs/results/medium_cifar --arm no_skip --arm method_10 --seed 0
It runs both arms of one seed side by side; nothing but the records has to be carried from one lease of a GPU to the next.
What 9 minutes do not finish is saved, and the same command goes on while results/medium_cifar is there. Without --arm and
--seed it goes through all runs that have no record.
Recipe: ours, the same for every arm. Sized for 10 minutes of an H100 and 16 cores, start-up included: 1.5 million images, which is 6
minutes at an assumed 4 200 a second. 14 workers decode more: 1 800 a second each by tools/plan.py. No GPU has run it yet.
Plan: that of configs/experiments/confirm_tiny.py on this data, with eight seeds.
Hours: not measured. Result: not measured.
"""

from configs.experiments import small_cifar
from configs.experiments.arms import arms_named, control_arms, quick_features
from sar_dist.config import RunConfig
from sar_dist.experiment import Analysis, Experiment, Measure


def experiment() -> Experiment:
    return Experiment(
        name="medium_cifar",
        title="CIFAR-10, 50 000 training images, 10 000 test images, ViT-Ti/4",
        base=base(),
        arms=(*arms_named("baseline", "no_skip", "method_10", "entropy_10"), *control_arms(base(), method="method_10")),
        seeds=tuple(range(8)),
        evaluations=quick_features("cifar10"),
        analysis=(
            Analysis(
                arm="method_10",
                reference="no_skip",
                primary=(
                    Measure(metric="top-1, %", why="accuracy: higher is better", matters=0.5),
                    Measure(metric="knn: top1", why="usefulness of the features: higher is better", matters=0.5),
                    Measure(metric="components of a map", why="what the term is for: fewer", matters=0.05),
                ),
            ),
        ),
    )


def base() -> RunConfig:
    """ViT-Ti, 5.4 M parameters, 8 x 8 patches."""
    return small_cifar.base().vary(
        {
            "model.options": {},
            "model.drop_path": 0.1,
            "regularizer.ramp_epochs": 3,
            "data.train": "cifar10",
            "data.val": "cifar10",
            "data.workers": 7,
            "augment.rand_augment": "rand-m9-mstd0.5-inc1",
            "optim.global_batch": 512,
            "optim.epochs": 30,
            "optim.warmup_epochs": 3,
            "engine.precision": "bf16",
            "engine.micro_batch": 512,
            "validation.every": "5ep",
            "checkpoint.every": "5ep",
            "log.every": "49st",
            "log.figure_images": 6,
        }
    )
