"""Confirmation, for two CPU cores: does the entropy term help more where there are fewer training images?

Data: those of configs/experiments/small_cifar.py, made as it says, and from the same copy of CIFAR-10
    python tools/make_shards.py imagefolder CIFAR/train data/cifar10-500/train --split train --per-class 50
    python tools/make_shards.py imagefolder CIFAR/train data/cifar10-1500/train --split train --per-class 150
Command: python tools/experiment.py configs/experiments/confirm_cifar_sizes.py --out results/confirm_cifar_sizes --jobs 2
One arm: ... --arm method_10_500 --seed 3
Recipe: that of configs/experiments/small_cifar.py with its 780 steps for every size: 10 epochs of 5 000 images, 34 of 1 500, 111 of
500. The weight of the entropy rises over the first tenth of the run.

Plan, written before the first of these runs.
- Question: the method is said to help small training sets. Is method_10 - no_skip larger, the fewer images there are?
- The comparisons that count: method_10 - no_skip at each of the three sizes, each its own family of two measures, paired by seed.
- Primary measures: top-1 and top-1 of 20 nearest neighbours, of all 10 000 test images; the neighbours are the same
  5 000 training images for every size, so that features are compared and not their bank. ``matters`` is 1 point.
- Decision: Analysis in sar_dist/experiment/specification.py, at six seeds. Tables of fewer seeds are interim: no verdict.
  The trend over the sizes is read from the three intervals: "more for fewer images" needs an established gain with 500 images whose
  interval lies above that with 5 000.
- Seeds: none was used by the exploration in small_cifar.py (0, 1, 2; weight .01 only).
- Secondary, intervals without verdict: entropy, components, cross-entropy, top-5, linear heads.
- A run counts when it came to its end. None is left out; one that diverged would be shown and would count.
Result: docs/results.md.
"""

from configs.experiments import small_cifar
from configs.experiments.arms import arms_named, quick_features
from sar_dist.experiment import Analysis, Arm, Experiment, Measure

STEPS = 780
SIZES = {500: "cifar10-500", 1500: "cifar10-1500", 5000: "cifar10-5k"}


def experiment() -> Experiment:
    return Experiment(
        name="confirm_cifar_sizes",
        title="CIFAR-10 with 500, 1 500 and 5 000 training images: what the entropy adds to the block without skip",
        base=small_cifar.base().vary({"validation.every": "390st", "checkpoint.every": "390st"}),
        arms=tuple(_of_size(arm, size) for size in SIZES for arm in arms_named("no_skip", "method_10")),
        seeds=(3, 4, 5, 6, 7, 8),
        evaluations=quick_features("cifar10-5k"),
        analysis=tuple(_analysis(size) for size in SIZES),
    )


def _of_size(arm: Arm, size: int) -> Arm:
    base = small_cifar.base().optim
    epochs = STEPS / (size // base.global_batch)  # the last, incomplete batch of an epoch is left out
    changes = {
        **arm.changes,
        "data.train": SIZES[size],
        "optim.epochs": epochs,
        "optim.warmup_epochs": epochs / 10,
        "regularizer.ramp_epochs": epochs / 10,
    }
    against = tuple(f"{other}_{size}" for other in arm.against)
    return Arm(name=f"{arm.name}_{size}", what=f"{arm.what}; {size} images", changes=changes, against=against)


def _analysis(size: int) -> Analysis:
    return Analysis(
        arm=f"method_10_{size}",
        reference=f"no_skip_{size}",
        primary=(
            Measure(metric="top-1, %", why="accuracy: higher is better", matters=1.0),
            Measure(metric="knn: top1", why="usefulness of the features: higher is better", matters=1.0),
        ),
    )
