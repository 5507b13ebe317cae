"""Medium, for one GPU: all 200 classes of Tiny ImageNet at 64 px, ViT-S with 8-pixel patches.

Data, from Tiny ImageNet-200 as it is downloaded, unpacked:
    python tools/make_shards.py tiny_imagenet tiny-imagenet-200 data/tiny_imagenet_200
    cp -r tiny-imagenet-200 data/tiny_imagenet_200_images     # attention_boxes reads the images and their boxes themselves
Command: python tools/experiment.py configs/experiments/medium_tiny.py --out results/medium_tiny --jobs 2 --minutes 9 \
    --records docs/results/medium_tiny --arm no_skip --arm method_10 --seed 0
It runs both arms of one seed side by side; nothing but the records has to be carried from one lease of a GPU to the next.
What 9 minutes do not finish is saved, and the same command goes on while results/medium_tiny is there. Without --arm and
--seed it goes through all runs that have no record.
Recipe: ours, the same for every arm. Sized for 10 minutes of an H100 and 16 cores, start-up included: 1.5 million images, which is 6
minutes at an assumed 4 200 a second. 14 workers decode more: 1 800 a second each by tools/plan.py. No GPU has run it yet.
Plan: that of configs/experiments/confirm_tiny.py on this data, with eight seeds.
Hours: not measured. Result: not measured.
"""

from configs.experiments import medium_cifar
from configs.experiments.arms import arms_named, attention_on_boxes, control_arms, quick_features
from sar_dist.config import RunConfig
from sar_dist.experiment import Analysis, Experiment, Measure


def experiment() -> Experiment:
    return Experiment(
        name="medium_tiny",
        title="Tiny ImageNet-200, 100 000 training images, 10 000 validation images, ViT-S/8",
        base=base(),
        arms=(*arms_named("baseline", "no_skip", "method_10", "entropy_10"), *control_arms(base(), method="method_10")),
        seeds=tuple(range(8)),
        evaluations=(attention_on_boxes("tiny_imagenet_200_images"), *quick_features("tiny_imagenet_200")),
        analysis=(
            Analysis(
                arm="method_10",
                reference="no_skip",
                primary=(
                    Measure(metric="boxes: box_iou", why="attention on the object: higher is better", matters=1.0),
                    Measure(metric="knn: top1", why="usefulness of the features: higher is better", matters=0.5),
                    Measure(metric="components of a map", why="what the term is for: fewer", matters=0.05),
                ),
            ),
        ),
    )


def base() -> RunConfig:
    """ViT-S, 21.5 M parameters, 8 x 8 patches."""
    return medium_cifar.base().vary(
        {
            "model.name": "vit_small_patch16_224",
            "model.image_size": 64,
            "model.patch_size": 8,
            "model.num_classes": 200,
            "regularizer.ramp_epochs": 1.5,
            "data.train": "tiny_imagenet_200",
            "data.val": "tiny_imagenet_200",
            "optim.epochs": 15,
            "optim.warmup_epochs": 1.5,
            "checkpoint.every": "5ep",
            "log.every": "97st",
        }
    )
