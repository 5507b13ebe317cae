"""The method with a teacher: DeiT-S with a distillation token on ImageNet-100, taught by a ViT-B of the same classes.

Teacher: deepspeed tools/train.py --config configs/vit_s_in100_baseline.py run.name=vit_b_in100 model.name=vit_base_patch16_224 ...
Command: deepspeed tools/train.py --config configs/vit_s_in100_distilled.py data.train=/data/in100/train data.val=/data/in100/val
Recipe: that of configs/vit_s_in100.py, and the hard distillation of DeiT (Touvron et al., arXiv:2012.12877, section 4)
into the distillation token: half the loss each, which is a weight of 1. DeiT's teacher is a RegNetY-16GF, which is no Vision
Transformer; the paper's table 2 has DeiT-B as a teacher too.
Cost: tools/plan.py --nodes 1 --gpus-per-node 8 --train-images 126689, where the teacher is there, at an assumed 40 % of an H100's
peak: .2 h, 2 GPU hours, 2.2 GiB a GPU; the teacher's forward pass is 1.27 times the student's training.
Hours: not measured. Result: not measured.
"""

from configs import vit_s_in100
from sar_dist.config import RunConfig


def config() -> RunConfig:
    return vit_s_in100.config().vary(
        {
            "run.name": "vit_s_in100_distilled",
            "model.name": "deit_small_distilled_patch16_224",
            "terms": [
                {
                    "name": "distillation",
                    "weight": 1.0,
                    "teacher": "runs/vit_b_in100",
                    "kind": "hard",
                    "student": "token",
                }
            ],
        }
    )
