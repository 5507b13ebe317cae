"""The method's own experiment: ViT-S/16 on ImageNet-100, regularized, last block without skip.

Command: deepspeed tools/train.py --config configs/vit_s_in100.py data.train=/data/in100/train data.val=/data/in100/val
Recipe: the supervised one of the method's authors (Peruzzo et al., "Spatial entropy as an inductive bias for vision
transformers", Machine Learning 2024), which is DeiT's (Touvron et al., arXiv:2012.12877) with the regularizer on top.
Engine: what tools/plan.py calls the fastest setting for 8 GPUs of 80 GiB, docs/gpu.md says why.
Hours: not measured. Result: not measured.
"""

from sar_dist import config as c


def config() -> c.RunConfig:
    return c.RunConfig(
        run=c.RunSettings(name="vit_s_in100"),
        model=c.ModelSettings(name="vit_small_patch16_224", num_classes=100, drop_path=0.1, no_skip_last_block=True),
        regularizer=c.RegularizerSettings(weight=0.01, ramp_epochs=10, unit="epoch"),
        data=c.DataSettings(train="imagenet-100-wds", val="imagenet-100-wds"),
        augment=c.AugmentSettings(
            rand_augment="rand-m9-mstd0.5-inc1",
            mixup=0.8,
            cutmix=1.0,
            label_smoothing=0.1,
            random_erasing=0.25,
        ),
        optim=c.OptimSettings(
            global_batch=512, lr=5e-4, lr_reference_batch=512, weight_decay=0.05, epochs=300, warmup_epochs=5
        ),
        engine=c.EngineSettings(zero_stage=1, precision="bf16_parameters", compile=True, micro_batch=64),
    )
