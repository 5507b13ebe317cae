"""ViT-B/16 with rotary position embedding on ImageNet-1k, regularized, last block without skip.

Command: deepspeed tools/train.py --config configs/vit_b_rope_in1k.py data.train=/data/imagenet-1k-wds data.val=/data/imagenet-1k-wds
Model: timm's vit_base_patch16_rope_224, axial rotation of "Rotary position embedding for vision transformer" (Heo et al.,
arXiv:2403.13298) in place of a learned position embedding, with its LayerScale that begins at 1e-5. The last block's
attention loses its scale together with its skip.
Recipe: that of configs/vit_b_in1k.py (source there), so that the two differ in the position embedding and the LayerScale
alone; the paper trains with another, that of DeiT III.
Cost: `python tools/plan.py --config configs/vit_b_rope_in1k.py --nodes 1 --gpus-per-node 8` estimates 28 GPU hours, 3.5 h, at an
assumed utilisation of 40 % of 8 H100.
Hours: not measured. Result: not measured.
"""

from configs import vit_b_in1k
from sar_dist.config import RunConfig


def config() -> RunConfig:
    return vit_b_in1k.config().vary({"run.name": "vit_b_rope_in1k", "model.name": "vit_base_patch16_rope_224"})
