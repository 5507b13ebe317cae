"""Medium, for one GPU: all 200 classes of Tiny ImageNet at 64 px, ViT-S with 8-pixel patches.

Data, from Tiny ImageNet-200 as train/CLASS/*.JPEG, val/CLASS/*.JPEG and boxes.csv (path,xmin,ymin,xmax,ymax):
    python tools/make_shards.py imagefolder TINY data/tiny_imagenet_200
    cp -r TINY data/tiny_imagenet_200_images     # attention_boxes reads the images and boxes.csv themselves
Command: python tools/experiment.py configs/experiments/medium_tiny.py --out results/medium_tiny --arm method --seed 0
Recipe: ours, the same for every arm; sized for 10 minutes of an H100 for one run (4 million images, 6 700 a second).
Hours: not measured. Result: not measured.
"""

from configs.experiments import medium_cifar
from configs.experiments.arms import ARMS, attention_on_boxes, control_arms, quick_features
from sar_dist.config import RunConfig
from sar_dist.experiment import Experiment


def experiment() -> Experiment:
    return Experiment(
        name="medium_tiny",
        title="Tiny ImageNet-200, 100 000 training images, 10 000 validation images, ViT-S/8",
        base=base(),
        arms=(*ARMS, *control_arms(base())),
        seeds=(0, 1, 2),
        evaluations=(attention_on_boxes("tiny_imagenet_200_images"), *quick_features("tiny_imagenet_200")),
    )


def base() -> RunConfig:
    """ViT-S, 21.5 M parameters, 8 x 8 patches."""
    return medium_cifar.base().vary(
        {
            "model.name": "vit_small_patch16_224",
            "model.image_size": 64,
            "model.patch_size": 8,
            "model.num_classes": 200,
            "regularizer.ramp_epochs": 4,
            "data.train": "tiny_imagenet_200",
            "data.val": "tiny_imagenet_200",
            "optim.epochs": 40,
            "optim.warmup_epochs": 4,
            "checkpoint.every": "5ep",
            "log.every": "97st",
        }
    )
