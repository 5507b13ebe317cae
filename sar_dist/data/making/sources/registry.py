"""The formats that shards are made from, in the order of the tool's help. A new one is a module and a line here."""

from __future__ import annotations

from sar_dist.data.making.sources import (
    copied_shards,
    demo_scenes,
    image_folder,
    image_lists,
    imagenet,
    inaturalist,
    parquet_files,
    segmentation,
    tables,
    tars,
    tiny_imagenet,
    torchvision_sets,
)
from sar_dist.data.making.sources.command import SourceCommand

COMMANDS: tuple[SourceCommand, ...] = (
    imagenet.COMMAND,
    image_folder.COMMAND,
    tables.COMMAND,
    image_lists.COMMAND,
    parquet_files.COMMAND,
    tars.COMMAND,
    copied_shards.COMMAND,
    inaturalist.COMMAND,
    tiny_imagenet.COMMAND,
    torchvision_sets.COMMAND,
    segmentation.ADE20K_COMMAND,
    segmentation.VOC_COMMAND,
    demo_scenes.COMMAND,
)
