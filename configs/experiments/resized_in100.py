"""What training on smaller images changes: ViT-S/16 on ImageNet-100, its shards as they are and resized to a short side of 256 px.

Data: shards of ImageNet-100 at data/imagenet-100-wds (tools/make_shards.py imagefolder), and the resized ones by
          python tools/make_shards.py shards data/imagenet-100-wds data/imagenet-100-wds-256 --max-short-side 256
Command: python tools/experiment.py configs/experiments/resized_in100.py --out results/resized_in100 \
             --launcher "deepspeed --num_gpus 8"
Recipe: that of configs/vit_s_in100.py. With one seed both arms take the same samples in the same batches, with the same random
numbers. The arm resized_val trains on the originals and is validated on resized images.
Cost: that of three times three runs of configs/vit_s_in100.py. Hours: not measured. Result: not measured.
"""

from configs import vit_s_in100
from sar_dist.experiment import Arm, Experiment

RESIZED = "imagenet-100-wds-256"


def experiment() -> Experiment:
    return Experiment(
        name="resized_in100",
        title="ImageNet-100, ViT-S/16, 300 epochs, images of two sizes",
        base=vit_s_in100.config(),
        arms=(
            Arm(name="original", what="trained and validated on the original images"),
            Arm(name="resized", what="trained on images of 256 px", changes={"data.train": RESIZED}),
            Arm(name="resized_val", what="validated on images of 256 px", changes={"data.val": RESIZED}),
        ),
        seeds=(0, 1, 2),
    )
