"""Fine-tuning of the run of configs/vit_b_in1k.py at 384 pixels; its position embedding is resampled to the larger grid.

Command: deepspeed tools/train.py --config configs/vit_b_in1k_384.py data.train=/data/imagenet-1k-wds data.val=/data/imagenet-1k-wds
It starts from runs/vit_b_in1k; model.init_from=PATH names another run, export or file.
Recipe: the command in DeiT's README_deit.md ("To finetune a DeiT-base on 384 resolution images"): 30 epochs, batch 32 on each
of 16 GPUs, learning rate 5e-6 that stays (--lr and --min-lr are equal), weight decay 1e-8, and main.py's warm-up of 5
epochs from 1e-6, AdamW's own betas. Augmentation, drop path and the entropy's weight are those that the run was trained with; that the weight
does not rise again from 0, and the weight average, which spans fewer steps, are choices of ours.
Cost: `python tools/plan.py --config configs/vit_b_in1k_384.py --nodes 1 --gpus-per-node 8` estimates 9 GPU hours,
1.1 h, at an assumed utilisation of 40 % of 8 H100.
Hours: not measured. Result: not measured.
"""

from configs import vit_b_in1k
from sar_dist.config import RunConfig


def config() -> RunConfig:
    return vit_b_in1k.config().vary(
        {
            "run.name": "vit_b_in1k_384",
            "model.image_size": 384,
            "model.init_from": "runs/vit_b_in1k",
            "regularizer.ramp_epochs": 0,
            "optim.global_batch": 512,
            "optim.lr": 5e-6,
            "optim.lr_reference_batch": 512,
            "optim.weight_decay": 1e-8,
            "optim.betas": (0.9, 0.999),
            "optim.epochs": 30,
            "optim.warmup_epochs": 5,
            "optim.warmup_lr": 1e-6,
            "optim.min_lr": 5e-6,
            "optim.ema": 0.999,
            "engine.micro_batch": 64,
        }
    )
