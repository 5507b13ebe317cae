"""Small, for two CPU cores: 5 000 training images of CIFAR-10, all 10 000 test images; accuracy, entropy, transfer.

Data, from any copy of CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg:
    python tools/make_shards.py imagefolder CIFAR/train data/cifar10-5k/train --split train --per-class 500
    python tools/make_shards.py imagefolder CIFAR/test data/cifar10-5k/val --split val
Command: python tools/experiment.py configs/experiments/small_cifar.py --out results/small_cifar --jobs 2
One arm: ... --arm method --seed 0
Recipe: ours, the same for every arm, and short: 10 epochs are what two busy cores finish for many runs, so accuracies
are far from what the model can reach. The weight of the entropy rises over 1 epoch, a tenth of the run; the 10 epochs
of the long configurations would be all of it. Live weights, no average, so that one number is one model.
Hours and result: docs/results_exploration.md.
"""

from configs.experiments.arms import ARMS, control_arms, quick_features
from sar_dist import config as c
from sar_dist.experiment import Experiment


def experiment() -> Experiment:
    return Experiment(
        name="small_cifar",
        title="CIFAR-10, 5 000 training images, 10 000 test images",
        base=base(),
        arms=(*ARMS, *control_arms(base())),
        seeds=(0, 1, 2),
        evaluations=quick_features("cifar10-5k"),
    )


def base() -> c.RunConfig:
    """A ViT of 1.2 M parameters: 6 blocks, 128 wide, 4 heads, 8 x 8 patches."""
    return c.RunConfig(
        run=c.RunSettings(name="base"),
        model=c.ModelSettings(
            name="vit_tiny_patch16_224",
            image_size=32,
            patch_size=4,
            num_classes=10,
            options={"embed_dim": 128, "depth": 6, "num_heads": 4},
        ),
        regularizer=c.RegularizerSettings(ramp_epochs=1),
        data=c.DataSettings(train="cifar10-5k", val="cifar10-5k", workers=0),
        augment=c.AugmentSettings(scale=(0.5, 1.0), label_smoothing=0.1, crop_fraction=1.0),
        optim=c.OptimSettings(global_batch=64, lr=1e-3, lr_reference_batch=None, epochs=10, warmup_epochs=1, clip=1.0),
        engine=c.EngineSettings(precision="fp32", micro_batch=64),
        validation=c.ValidationSettings(every="5ep"),
        checkpoint=c.CheckpointSettings(every="5ep", keep_last=1),
        log=c.LogSettings(every="39st", figure_images=0),
    )
