"""A few minutes on a laptop: a small regularized ViT on generated scenes, two processes, no GPU.

Command: make demo    (deepspeed --num_accelerators 2 tools/train.py --config configs/demo.py)
Time and result: see docs/benchmarks.md.
"""

from sar_dist import config as c


def config() -> c.RunConfig:
    return c.RunConfig(
        run=c.RunSettings(name="demo"),
        model=c.ModelSettings(
            name="vit_tiny_patch16_224",
            image_size=64,
            patch_size=8,
            num_classes=8,
            no_skip_last_block=True,
            options={"embed_dim": 128, "depth": 6, "num_heads": 4},
        ),
        regularizer=c.RegularizerSettings(weight=0.01, ramp_epochs=2),
        data=c.DataSettings(train="demo/train", val="demo/val", workers=0),
        augment=c.AugmentSettings(scale=(0.5, 1.0), label_smoothing=0.1),
        optim=c.OptimSettings(
            global_batch=64, lr=1e-3, lr_reference_batch=None, epochs=10, warmup_epochs=1, clip=1.0, ema=0.99
        ),
        engine=c.EngineSettings(zero_stage=2, precision="bf16", micro_batch=32),
        validation=c.ValidationSettings(every="2ep"),
        checkpoint=c.CheckpointSettings(every="2ep"),
        log=c.LogSettings(every=20, figures_every="5ep"),
    )
