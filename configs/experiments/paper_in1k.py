"""Paper scale: ViT-B/16 on ImageNet-1k.

Data: shards of ImageNet-1k at data/imagenet-1k-wds, and for the attention VOC 2012 at data/VOCdevkit.
Command: python tools/experiment.py configs/experiments/paper_in1k.py --out results/paper_in1k \
             --launcher "deepspeed --num_gpus 8"
ViT-L/16 instead: paper_in1k_vit_l.py. On a Slurm cluster train each run's own file, DIR/configs/ARM_seedN.json, with
`sbatch slurm/multinode.sh`; this command then goes on with what is finished.
Recipe: that of configs/vit_b_in1k.py.
Cost: computed in docs/experiments.md. Hours: not measured. Result: not measured.
"""

from configs import vit_b_in1k
from configs.experiments.arms import ARMS, control_arms
from sar_dist.experiment import Evaluation, Experiment


def experiment() -> Experiment:
    return Experiment(
        name="paper_in1k",
        title="ImageNet-1k, ViT-B/16, 300 epochs",
        base=vit_b_in1k.config(),
        arms=(*ARMS, *control_arms(vit_b_in1k.config())),
        seeds=(0, 1, 2),
        evaluations=evaluations(),
    )


def evaluations() -> tuple[Evaluation, ...]:
    """Attention on VOC, and frozen features on ImageNet-1k itself."""
    return (
        Evaluation(name="voc_attention", task="voc_attention", data="VOCdevkit"),
        Evaluation(name="knn", task="knn", data="imagenet-1k-wds"),
        Evaluation(name="linear", task="linear", data="imagenet-1k-wds"),
    )
