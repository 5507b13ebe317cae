"""Which transfer tasks there are, and what they are about. A new one is a ``TransferTask`` in a module of its own and an
entry here.

A task that is a user's own needs no line: ``my_module:MyTask`` names it on the command line."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from sar_dist.errors import UserError
from sar_dist.extensions import import_extension

if TYPE_CHECKING:
    from sar_dist.transfer.task import TransferTask

_CLASSIFICATION = (
    "shards (tools/make_shards.py), folders train/CLASS/*.jpg and val/CLASS/*.jpg, or a data set as torchvision stores it: CIFAR "
    "(cifar-10-batches-py, cifar-100-python), MNIST (raw/*-ubyte), SVHN (train_32x32.mat), STL10, Flowers-102, Pets, Aircraft, Food-101, DTD, Stanford Cars"
)


class TaskEntry(NamedTuple):
    """Where a task is, below ``sar_dist.transfer.tasks``, and what its class says of itself (see ``TransferTask``)."""

    home: str
    summary: str
    data_help: str


# Modules are imported when a task of theirs is asked for: PyTorch, segmentation and scikit-learn are slow to import, and
# `--list` needs none of them.
TASKS = {
    "imagenet_val": TaskEntry(
        "classification:ImageNetValidation",
        "top-1 and top-5 of the model's own classifier on the validation split of its training set",
        f"the validation split as {_CLASSIFICATION}",
    ),
    "imagenet_linear": TaskEntry(
        "probes.linear.task:ImageNetLinearProbe",
        "linear classifier on frozen features of ImageNet-1k; the same as linear",
        f"train and val as {_CLASSIFICATION}",
    ),
    "linear": TaskEntry(
        "probes.linear.task:LinearProbe",
        "linear classifier on frozen features: the sweep of DINOv2, or the recipes of DINO and MAE (preset=)",
        f"train and val as {_CLASSIFICATION}",
    ),
    "knn": TaskEntry(
        "probes.knn:NearestNeighbours",
        "weighted k-nearest neighbours on frozen [CLS] features (DINO's protocol), no training",
        f"train and val as {_CLASSIFICATION}",
    ),
    "logreg": TaskEntry(
        "probes.logistic_regression:LogisticRegressionProbe",
        "logistic regression on frozen [CLS] features, C chosen on a tenth of the training split (DINOv2's protocol)",
        f"train and val as {_CLASSIFICATION}",
    ),
    "finetune": TaskEntry(
        "finetune:Finetune",
        "fine-tunes the whole model on a classification set with the training engine; top-1 and mean per class",
        f"train and val splits as {_CLASSIFICATION}",
    ),
    "ade20k": TaskEntry(
        "segmentation.tasks:Ade20k",
        "semantic segmentation, mIoU; heads linear, upernet, dpt; any set in ADE20K's layout",
        "{images,annotations}/{training,validation}/KEY.{jpg,png} and objectInfo150.txt of ADEChallengeData2016.zip "
        "(http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip), or shards of them made with "
        "`python tools/make_shards.py ade20k SRC OUT`",
    ),
    "voc_seg": TaskEntry(
        "segmentation.tasks:VocSegmentation",
        "semantic segmentation on Pascal VOC 2012 train/val, mIoU; heads linear, upernet, dpt",
        "VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt} of VOCtrainval_11-May-2012.tar "
        "(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/), or shards of them made with "
        "`python tools/make_shards.py voc SRC OUT`",
    ),
    "voc_attention": TaskEntry(
        "attention.masks:AttentionMasks",
        "how well the [CLS] attention of the last block covers objects (Jaccard index), as the method's authors score it",
        "VOCdevkit/VOC2012 with ImageSets/Segmentation/val.txt, JPEGImages and SegmentationClass (python -c 'from "
        'torchvision.datasets import VOCSegmentation; VOCSegmentation("data", "2012", "val", download=True)\'), a '
        "folder in ADE20K's layout, or shards of tools/make_shards.py voc, ade20k or demo",
    ),
    "attention_boxes": TaskEntry(
        "attention.boxes:AttentionBoxes",
        "[CLS] attention against object boxes (boxes.csv) or exact masks (mask.png in shards): mass inside, box IoU, "
        "pointing game",
        "a folder with boxes.csv (path,xmin,ymin,xmax,ymax) and the images it names in train/ and val/, Tiny ImageNet as "
        "downloaded, or shards with mask.png members (tools/make_shards.py demo)",
    ),
    "imagenet_a": TaskEntry(
        "robustness.tasks:ImageNetA",
        "top-1 on ImageNet-A, natural adversarial images, among its 200 classes",
        "imagenet-a/nXXXXXXXX/*.jpg, 200 folders with 7500 images, unpacked from imagenet-a.tar of "
        "https://github.com/hendrycks/natural-adv-examples, or shards of tools/make_shards.py imagefolder",
    ),
    "imagenet_r": TaskEntry(
        "robustness.tasks:ImageNetR",
        "top-1 on ImageNet-R, renditions, among its 200 classes",
        "imagenet-r/nXXXXXXXX/*.jpg, 200 folders with 30000 images, unpacked from imagenet-r.tar of "
        "https://github.com/hendrycks/imagenet-r, or shards of tools/make_shards.py imagefolder",
    ),
    "imagenet_real": TaskEntry(
        "robustness.tasks:ImageNetReal",
        "top-1 on ImageNet's validation images with the ReaL labels, several of which may be right",
        "the 50000 ImageNet validation images under their original names, as val/CLASS/ILSVRC2012_val_00000001.JPEG, in "
        "one folder val/, or as shards of tools/make_shards.py imagefolder; the labels come with timm",
    ),
    "imagenet_v2": TaskEntry(
        "robustness.tasks:ImageNetV2",
        "top-1 and top-5 on ImageNetV2, a second test set (matched frequency)",
        "imagenetv2-matched-frequency-format-val/{0..999}/*.jpeg, 10000 images, unpacked from "
        "imagenetv2-matched-frequency.tar.gz of https://huggingface.co/datasets/vaishaal/ImageNetV2, or shards of "
        "tools/make_shards.py imagefolder",
    ),
    "imagenet_sketch": TaskEntry(
        "robustness.tasks:ImageNetSketch",
        "top-1 and top-5 on ImageNet-Sketch, drawings of all 1000 classes",
        "sketch/nXXXXXXXX/*.JPEG, 1000 folders with 50889 images, unpacked from ImageNet-Sketch.zip of "
        "https://github.com/HaohanWang/ImageNet-Sketch, or shards of tools/make_shards.py imagefolder",
    ),
    "imagenet_c": TaskEntry(
        "robustness.corruptions:ImageNetC",
        "mean corruption error (mCE) on ImageNet-C, 15 corruptions at 5 severities",
        "CORRUPTION/SEVERITY/nXXXXXXXX/*.JPEG for 15 corruptions and severities 1 to 5, unpacked from noise.tar, blur.tar, "
        "weather.tar and digital.tar of https://zenodo.org/records/2235448",
    ),
}


def described(name: str) -> tuple[str, str]:
    """``summary`` and ``data_help`` of a task of the package, for its class."""
    return TASKS[name].summary, TASKS[name].data_help


def find_task(name: str) -> type[TransferTask[Any, Any]]:
    """The task called ``name``, or that of the user's own "my_module:MyTask". Raises UserError with the nearest names."""
    if ":" in name:
        return _own_task(name)
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "; --list shows all"
        raise UserError(f"there is no task {name!r}{hint}")
    module, _, attribute = TASKS[name].home.partition(":")
    task: type[TransferTask[Any, Any]] = getattr(
        importlib.import_module(f"sar_dist.transfer.tasks.{module}"), attribute
    )
    return task


def _own_task(name: str) -> type[TransferTask[Any, Any]]:
    from sar_dist.transfer.task import TransferTask

    module, attribute = import_extension(name, "--task")
    task = getattr(module, attribute, None)
    if not (isinstance(task, type) and issubclass(task, TransferTask)):
        raise UserError(f"--task={name}: {module.__name__} has no class {attribute} that is a TransferTask")
    return task
