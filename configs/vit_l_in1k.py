"""ViT-L/16 on ImageNet-1k, regularized, last block without skip.

Command: deepspeed tools/train.py --config configs/vit_l_in1k.py data.train=/data/imagenet-1k-wds data.val=/data/imagenet-1k-wds
Recipe: that of configs/vit_b_in1k.py (source there). Twice the drop path and gradients clipped at norm 1 are choices of
ours, not taken from a source.
Engine: what tools/plan.py calls the fastest setting for 8 or 16 GPUs of 80 GiB, docs/gpu.md says why.
Hours: not measured. Result: not measured.
"""

from configs import vit_b_in1k
from sar_dist.config import RunConfig


def config() -> RunConfig:
    base = vit_b_in1k.config()
    return base.vary(
        {
            "run.name": "vit_l_in1k",
            "model.name": "vit_large_patch16_224",
            "model.drop_path": 0.2,
            "optim.clip": 1.0,
            "engine.micro_batch": 256,
        }
    )
