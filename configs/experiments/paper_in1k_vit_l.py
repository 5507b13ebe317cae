"""Paper scale: ViT-L/16 on ImageNet-1k; the rest as in paper_in1k.py.

Command: python tools/experiment.py configs/experiments/paper_in1k_vit_l.py --out results/paper_in1k_vit_l \
             --launcher "deepspeed --num_gpus 8"
Cost: computed in docs/experiments.md. Hours: not measured. Result: not measured.
"""

from configs import vit_l_in1k
from configs.experiments import paper_in1k
from configs.experiments.arms import ARMS, control_arms
from sar_dist.experiment import Experiment


def experiment() -> Experiment:
    return Experiment(
        name="paper_in1k_vit_l",
        title="ImageNet-1k, ViT-L/16, 300 epochs",
        base=vit_l_in1k.config(),
        arms=(*ARMS, *control_arms(vit_l_in1k.config())),
        seeds=(0, 1, 2),
        evaluations=paper_in1k.evaluations(),
    )
