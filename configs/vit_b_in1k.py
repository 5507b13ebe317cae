"""ViT-B/16 on ImageNet-1k, regularized, last block without skip.

Command: deepspeed tools/train.py --config configs/vit_b_in1k.py data.train=/data/imagenet-1k-wds data.val=/data/imagenet-1k-wds
Recipe: supervised ViT from scratch as in the appendix of "Masked autoencoders are scalable vision learners" (He et al.,
arXiv:2111.06377): AdamW, learning rate 1e-4 x batch 4096 / 256, betas .9/.95, weight decay .3, 300 epochs, 20 of
warm-up, RandAugment 9/.5, smoothing .1, mixup .8, cutmix 1, drop path .1, weight average .9999. Its values were read in
mmpretrain's configs/vision_transformer/vit-base-p16_32xb128-mae_in1k.py, which reports 82.37 % top-1 for it without
the regularizer.
Engine: what tools/plan.py calls the fastest setting for 8 or 16 GPUs of 80 GiB, docs/gpu.md says why.
Hours: not measured. Result: not measured.
"""

from sar_dist import config as c


def config() -> c.RunConfig:
    return c.RunConfig(
        run=c.RunSettings(name="vit_b_in1k"),
        model=c.ModelSettings(name="vit_base_patch16_224", drop_path=0.1, no_skip_last_block=True),
        regularizer=c.RegularizerSettings(weight=0.01, ramp_epochs=10, unit="epoch"),
        data=c.DataSettings(train="imagenet-1k-wds", val="imagenet-1k-wds"),
        augment=c.AugmentSettings(
            rand_augment="rand-m9-mstd0.5-inc1",
            mixup=0.8,
            cutmix=1.0,
            label_smoothing=0.1,
        ),
        optim=c.OptimSettings(
            global_batch=4096,
            lr=1e-4,
            lr_reference_batch=256,
            weight_decay=0.3,
            betas=(0.9, 0.95),
            epochs=300,
            warmup_epochs=20,
            warmup_lr=0.0,
            min_lr=0.0,
            ema=0.9999,
        ),
        engine=c.EngineSettings(zero_stage=1, precision="bf16_parameters", compile=True, micro_batch=256),
    )
