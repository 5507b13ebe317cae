"""ViT-B/16 on ImageNet-1k by DeiT III's recipe, with the regularizer: 3-Augment, binary cross-entropy, LayerScale.

Command: deepspeed tools/train.py --config configs/vit_b_in1k_deit3.py data.train=/data/imagenet-1k-wds data.val=/data/imagenet-1k-wds
Without the regularizer: ... model.no_skip_last_block=false regularizer.weight=0
Recipe: Touvron et al., "DeiT III: Revenge of the ViT", arXiv:2204.07118, as its repository (facebookresearch/deit) runs it for
ViT-B on ImageNet-1k (README_revenge.md; a fine-tuning at 224 follows there): 192 pixels, 800 epochs, 8 x 256 images a step (here
8 x 258, which whole threes of copies fill), weight decay .05, 5 epochs of warm-up from 1e-6, drop path .2, mixup .8, cutmix 1, 3-Augment with colour jitter .3, repeated
augmentation (3 copies), no smoothing, no erasing, binary cross-entropy whose targets are all classes of a mixed image
(engine.py), and LayerScale from 1e-4 (models_v2.py). What differs: there drop path is the same in every block and here it
rises to .2, and LAMB runs at 3e-3, which is layer-wise and cannot run under ZeRO. Here AdamW does, with the learning rate of
DeiT (arXiv:2012.12877, table 9), 5e-4 x batch / 512, down to 1e-5, its code's. That pair has no published result.
Cost: tools/plan.py --nodes 1 --gpus-per-node 8, at an assumed 40 % of an H100's peak: 6.9 h, 55 GPU hours, 12.8 GiB a GPU.
Hours: not measured. Result: not measured.
"""

from sar_dist import config as c


def config() -> c.RunConfig:
    return c.RunConfig(
        run=c.RunSettings(name="vit_b_in1k_deit3"),
        model=c.ModelSettings(
            name="deit3_base_patch16_224",
            image_size=192,
            drop_path=0.2,
            no_skip_last_block=True,
            options={"init_values": 1e-4},
        ),
        regularizer=c.RegularizerSettings(weight=0.01, ramp_epochs=10, unit="epoch"),
        data=c.DataSettings(train="imagenet-1k-wds", val="imagenet-1k-wds", repeated_augmentation=3),
        augment=c.AugmentSettings(three_augment=True, color_jitter=0.3, mixup=0.8, cutmix=1.0, crop_fraction=1.0),
        optim=c.OptimSettings(
            global_batch=2064,
            lr=5e-4,
            lr_reference_batch=512,
            weight_decay=0.05,
            epochs=800,
            warmup_epochs=5,
            loss="binary_cross_entropy",
            target_threshold=0.0,
        ),
        engine=c.EngineSettings(zero_stage=1, precision="bf16_parameters", compile=True, micro_batch=258),
    )
