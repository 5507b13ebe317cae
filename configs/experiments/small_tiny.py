"""Small, for two CPU cores: ten classes of Tiny ImageNet at 64 px, with object boxes; where the attention looks.

Classes: n01443537 goldfish, n02056570 king penguin, n02129165 lion, n02165456 ladybug, n02279972 monarch butterfly,
n04146614 school bus, n04285008 sports car, n04398044 teapot, n07747607 orange, n07873807 pizza.
Data, from a folder with train/CLASS/*.JPEG, val/CLASS/*.JPEG and boxes.csv (path,xmin,ymin,xmax,ymax, pixels, inclusive):
    python tools/make_shards.py imagefolder TINY data/tiny_imagenet_10
    cp -r TINY data/tiny_imagenet_10_images      # attention_boxes reads the images and boxes.csv themselves
Command: python tools/experiment.py configs/experiments/small_tiny.py --out results/small_tiny --jobs 2
One arm: ... --arm method --seed 0
Recipe: that of configs/experiments/small_cifar.py. 500 validation images have a standard error of 2 points of accuracy:
this experiment is about the attention.
Hours and result: docs/results_exploration.md.
"""

from configs.experiments import small_cifar
from configs.experiments.arms import ARMS, attention_on_boxes, control_arms, quick_features
from sar_dist.config import RunConfig
from sar_dist.experiment import Experiment


def experiment() -> Experiment:
    return Experiment(
        name="small_tiny",
        title="Ten classes of Tiny ImageNet, 5 000 training images, 500 validation images",
        base=base(),
        arms=(*ARMS, *control_arms(base())),
        seeds=(0, 1, 2),
        evaluations=(attention_on_boxes("tiny_imagenet_10_images"), *quick_features("tiny_imagenet_10")),
    )


def base() -> RunConfig:
    """The model of the CIFAR-10 experiment at twice the image and patch size: the same 8 x 8 patches."""
    return small_cifar.base().vary(
        {
            "model.image_size": 64,
            "model.patch_size": 8,
            "data.train": "tiny_imagenet_10",
            "data.val": "tiny_imagenet_10",
            "validation.every": "1ep",
        }
    )
