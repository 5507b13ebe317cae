"""Paper scale: the method's own experiment, ViT-S/16 on ImageNet-100, with the arms that tell its two parts apart.

Data: shards of ImageNet-100 at data/imagenet-100-wds (tools/make_shards.py imagefolder), and for the attention
VOC 2012 at data/VOCdevkit.
Command: python tools/experiment.py configs/experiments/paper_in100.py --out results/paper_in100 \
             --launcher "deepspeed --num_gpus 8"
Recipe: that of configs/vit_s_in100.py. The arm `distillation` needs its teacher, see configs/vit_s_in100_distilled.py.
Cost: computed in docs/experiments.md. Hours: not measured. Result: not measured.
"""

from configs import vit_s_in100
from configs.experiments.arms import ARMS, control_arms, distillation_arm
from sar_dist.experiment import Evaluation, Experiment


def experiment() -> Experiment:
    return Experiment(
        name="paper_in100",
        title="ImageNet-100, ViT-S/16, 300 epochs",
        base=vit_s_in100.config(),
        arms=(*ARMS, *control_arms(vit_s_in100.config()), distillation_arm("runs/vit_b_in100")),
        seeds=(0, 1, 2),
        evaluations=(
            Evaluation(name="voc_attention", task="voc_attention", data="VOCdevkit"),
            Evaluation(name="knn", task="knn", data="imagenet-100-wds"),
            Evaluation(name="linear", task="linear", data="imagenet-100-wds"),
        ),
    )
