"""What training on smaller images changes, small enough for two CPU cores: the ratios of 256 px for a crop of 224, on Tiny ImageNet.

Data: that of configs/experiments/small_tiny.py, and from its shards
    python tools/make_shards.py shards data/tiny_imagenet_10 data/tiny_imagenet_10_46 --max-short-side 46
Command: python tools/experiment.py configs/experiments/resized_tiny.py --out results/resized_tiny --jobs 2
Recipe: that of configs/experiments/small_tiny.py with crops of 40 px of the images of 64 px, as 224 px of 358 px, and of those of 46 px,
as 224 px of 258 px; the crop's range and the validation's share are ImageNet's. With one seed both arms take the same samples in the
same batches, with the same random numbers. Each model is validated on both sets. 500 validation images have a standard error
of 2 points, but both sets are of the same images.
A model of 1.2 M parameters, 10 epochs: what it shows of a ViT-B's hundreds of epochs on ImageNet is open, resized_in100.py measures nearer to it.
JPEG's blocks of 8 x 8 pixels cover a larger share of so small an image than of one of 256 px.
Result: docs/data.md. About 7 minutes a run and core.
"""

from configs.experiments import small_tiny
from sar_dist.experiment import Arm, Evaluation, Experiment

ORIGINAL = "tiny_imagenet_10"
RESIZED = "tiny_imagenet_10_46"


def experiment() -> Experiment:
    base = small_tiny.base().vary(
        {
            "model.image_size": 40,
            "model.patch_size": 5,
            "augment.scale": (0.08, 1.0),
            "augment.crop_fraction": 0.875,
            "validation.every": "5ep",
        }
    )
    return Experiment(
        name="resized_tiny",
        title="Ten classes of Tiny ImageNet, images of two sizes",
        base=base,
        arms=(
            Arm(name="original", what="trained on the images of 64 px"),
            Arm(name="resized", what="trained on images of 46 px", changes={"data.train": RESIZED}),
        ),
        seeds=(0, 1, 2),
        evaluations=(_validation("original_val", ORIGINAL), _validation("resized_val", RESIZED)),
    )


def _validation(name: str, data: str) -> Evaluation:
    return Evaluation(name=name, task="imagenet_val", data=data, settings={"workers": 0}, metrics=("top1",))
