"""The arms that every experiment about the method compares.

The method has two parts, an entropy term in the loss and a last block without skip, so each of them also stands alone:
what the method changes against the baseline may come from the block and not from the entropy.

And the evaluations that several experiments share.
"""

from sar_dist.config import RunConfig
from sar_dist.experiment import Arm, Evaluation, term_arm

_CONTROLS = {
    "total_variation": "total variation of the [CLS] map",
    "head_diversity": "similarity of the heads' outputs",
    "attention_entropy": "entropy of the softmaxed [CLS] map",
}

ARMS = (
    Arm(
        name="baseline",
        what="plain ViT, no entropy term",
        changes={"regularizer.weight": 0.0, "model.no_skip_last_block": False},
    ),
    Arm(
        name="no_skip",
        what="last block without skip, no entropy term",
        changes={"regularizer.weight": 0.0, "model.no_skip_last_block": True},
    ),
    Arm(
        name="method",
        what="last block without skip, entropy weight .01",
        changes={"regularizer.weight": 0.01, "model.no_skip_last_block": True},
        against=("no_skip",),
    ),
    Arm(
        name="entropy",
        what="plain ViT, entropy weight .01",
        changes={"regularizer.weight": 0.01, "model.no_skip_last_block": False},
    ),
    Arm(
        name="method_05",
        what="last block without skip, entropy weight .05",
        changes={"regularizer.weight": 0.05, "model.no_skip_last_block": True},
        against=("no_skip",),
        optional=True,
    ),
    Arm(
        name="method_10",
        what="last block without skip, entropy weight .1",
        changes={"regularizer.weight": 0.1, "model.no_skip_last_block": True},
        against=("no_skip",),
        optional=True,
    ),
    Arm(
        name="entropy_10",
        what="plain ViT, entropy weight .1",
        changes={"regularizer.weight": 0.1, "model.no_skip_last_block": False},
        optional=True,
    ),
)


def arms_named(*names: str) -> tuple[Arm, ...]:
    """These of ``ARMS``, in this order, each of them run without being asked for."""
    by_name = {arm.name: arm for arm in ARMS}
    return tuple(by_name[name].model_copy(update={"optional": False}) for name in names)


def control_arms(base: RunConfig, method: str = "method") -> tuple[Arm, ...]:
    """The other terms in the place of the spatial entropy, with its weight of .01, which was tuned for none of them.

    Optional arms, compared with the block alone and with the arm ``method``. The first two are the ablations of the method's
    authors, the third makes attention narrow only.
    """
    onto = arms_named("no_skip")[0]
    return tuple(
        term_arm(base, onto, name, 0.01).model_copy(
            update={
                "name": name,
                "what": f"{onto.what.partition(',')[0]}, {what}, weight .01",
                "against": ("no_skip", method),
                "optional": True,
            }
        )
        for name, what in _CONTROLS.items()
    )


def distillation_arm(teacher: str) -> Arm:
    """The baseline taught by ``teacher``, with DeiT's hard distillation into the logits; optional."""
    return Arm(
        name="distillation",
        what=f"plain ViT, no entropy term, hard distillation from {teacher}",
        changes={
            "regularizer.weight": 0.0,
            "model.no_skip_last_block": False,
            "terms": [{"name": "distillation", "weight": 1.0, "teacher": teacher}],
        },
        optional=True,
    )


def attention_on_boxes(data: str) -> Evaluation:
    """Where the attention looks, against object boxes."""
    shown = ("mass", "mass.best_head", "pointing", "pointing.mean_map", "box_iou", "box_iou.mean_map")
    return Evaluation(name="boxes", task="attention_boxes", data=data, metrics=shown)


def attention_on_masks(data: str, image_size: int) -> tuple[Evaluation, ...]:
    """Where the attention looks, against exact masks: the method's own Jaccard index, and that of other thresholds."""
    return (
        Evaluation(
            name="masks",
            task="voc_attention",
            data=data,
            settings={"image_size": image_size, "workers": 0},
            metrics=("jaccard", "jaccard_single_head", "jaccard_mean_attention"),
        ),
        Evaluation(
            name="regions",
            task="attention_boxes",
            data=data,
            settings={"workers": 0},
            metrics=("mass", "mass.best_head", "jaccard", "jaccard.mean_map", "pointing.mean_map"),
        ),
    )


def quick_features(data: str) -> tuple[Evaluation, ...]:
    """Frozen features for small images on a CPU: neighbours, and linear heads on features that are computed once."""
    return (
        Evaluation(name="knn", task="knn", data=data, settings={"workers": 0}),
        Evaluation(name="linear", task="linear", data=data, settings={"workers": 0, "cached": True, "iterations": 500}),
    )
