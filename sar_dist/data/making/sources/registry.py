"""The formats that shards are made from, in the order of the tool's help. A new one is a module and a line here."""

from __future__ import annotations

from sar_dist.data.making.sources import (
    copied_shards,
    demo_scenes,
    image_folder,
    imagenet,
    inaturalist,
    parquet_files,
    segmentation,
    tables,
    tars,
    tiny_imagenet,
)
from sar_dist.data.making.sources.command import SourceCommand

COMMANDS: tuple[SourceCommand, ...] = (
    imagenet.COMMAND,
    image_folder.COMMAND,
    tables.COMMAND,
    parquet_files.COMMAND,
    tars.COMMAND,
    copied_shards.COMMAND,
    inaturalist.COMMAND,
    tiny_imagenet.COMMAND,
    segmentation.ADE20K_COMMAND,
    segmentation.VOC_COMMAND,
    demo_scenes.COMMAND,
)
