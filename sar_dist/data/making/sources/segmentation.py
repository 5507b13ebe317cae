"""Images with a map of labels: ADE20K's and Pascal VOC's folders.

The maps are kept as they are, in members ``seg.png``; whoever reads them remaps the labels. These samples have no class,
hence no ``cls`` member.
"""

from __future__ import annotations

import csv
from pathlib import Path

from sar_dist.data.layout import Split
from sar_dist.data.making.sources.base import FileSample, FileSource, read_bytes
from sar_dist.data.making.sources.command import SourceCommand, no_arguments
from sar_dist.errors import UserError

SEGMENTATION_EXTENSION = "seg.png"
_ADE20K_SPLITS: dict[Split, str] = {"train": "training", "val": "validation"}
VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


def ade20k_sources(root: Path) -> list[FileSource]:
    """Both splits of ``ADEChallengeData2016`` or a data set in its layout.

    ``images/{training,validation}/KEY.jpg`` with ``annotations/{training,validation}/KEY.png``, whose labels are 0 for
    "other" and k for the k-th class of ``objectInfo*.txt``. Raises UserError, also if an image or a map lacks the other.
    """
    classes = _ade20k_classes(root)
    sources = []
    for split, folder in _ADE20K_SPLITS.items():
        images = {path.stem for path in (root / "images" / folder).glob("*.jpg")}
        maps = {path.stem for path in (root / "annotations" / folder).glob("*.png")}
        if not images:
            raise UserError(f"no images in {root / 'images' / folder}; expected the layout of ADEChallengeData2016")
        if images != maps:
            lonely = sorted(images ^ maps)
            raise UserError(f"{len(lonely)} of {root}'s {folder} images and maps lack the other, such as {lonely[0]}")
        samples = [
            FileSample(
                key,
                {"jpg": f"images/{folder}/{key}.jpg", SEGMENTATION_EXTENSION: f"annotations/{folder}/{key}.png"},
                None,
            )
            for key in sorted(images)
        ]
        sources.append(FileSource("ade20k", root, split, samples, classes, prefix=f"ade20k-{split}"))
    return sources


def _ade20k_classes(root: Path) -> tuple[str, ...] | None:
    tables = sorted(root.glob("objectInfo*.txt"))
    if not tables:
        return None
    rows = list(csv.DictReader(tables[0].read_text().splitlines(), delimiter="\t", skipinitialspace=True))
    names = [(row.get("Name") or "").strip() for row in rows]
    if not names or not all(names):
        raise UserError(f"{tables[0]} is not a table with a Name for each class; repair or remove it")
    return tuple(names)


def voc_sources(root: Path) -> list[FileSource]:
    """The segmentation splits of Pascal VOC.

    ``root`` is VOC2012 or a folder above it: ``ImageSets/Segmentation/{train,val}.txt``, ``JPEGImages/KEY.jpg`` and
    ``SegmentationClass/KEY.png`` (labels 0..20 and 255 for void as palette indices). Raises UserError.
    """
    candidates = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
    base = next((folder for folder in candidates if (folder / "ImageSets" / "Segmentation").is_dir()), None)
    if base is None:
        raise UserError(f"{root} has no ImageSets/Segmentation; give the folder VOCdevkit/VOC2012")
    sources = []
    for split in _ADE20K_SPLITS:
        keys = read_bytes(base / "ImageSets" / "Segmentation" / f"{split}.txt").decode().split()
        samples = [
            FileSample(
                key, {"jpg": f"JPEGImages/{key}.jpg", SEGMENTATION_EXTENSION: f"SegmentationClass/{key}.png"}, None
            )
            for key in keys
        ]
        sources.append(FileSource("voc", base, split, samples, tuple(VOC_CLASSES), prefix=f"voc-{split}"))
    return sources


ADE20K_COMMAND: SourceCommand = SourceCommand(
    name="ade20k",
    usage="ade20k SRC OUT",
    summary="ADEChallengeData2016: images with label maps",
    add_arguments=no_arguments,
    sources=lambda given: ade20k_sources(given.source),
    chooses_split=False,
)
VOC_COMMAND: SourceCommand = SourceCommand(
    name="voc",
    usage="voc SRC OUT",
    summary="VOCdevkit/VOC2012: images with label maps",
    add_arguments=no_arguments,
    sources=lambda given: voc_sources(given.source),
    chooses_split=False,
)
