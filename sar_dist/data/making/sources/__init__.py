"""Where the samples of new shards come from, one function or class for each format of ``tools/make_shards.py``."""

from sar_dist.data.making.sources.base import FileSample, FileSource, Source, read_bytes
from sar_dist.data.making.sources.command import SourceCommand, positive
from sar_dist.data.making.sources.copied_shards import CopiedShards
from sar_dist.data.making.sources.demo_scenes import DemoScenes
from sar_dist.data.making.sources.image_folder import imagefolder_sources
from sar_dist.data.making.sources.image_lists import list_sources
from sar_dist.data.making.sources.imagenet import ImageNetSource, imagenet_sources
from sar_dist.data.making.sources.other_layouts import how_it_is_read, nested_splits
from sar_dist.data.making.sources.parquet_files import ParquetSource, parquet_sources
from sar_dist.data.making.sources.registry import COMMANDS
from sar_dist.data.making.sources.segmentation import SEGMENTATION_EXTENSION, VOC_CLASSES, ade20k_sources, voc_sources
from sar_dist.data.making.sources.shared_files import shared_files
from sar_dist.data.making.sources.subsets import Subset
from sar_dist.data.making.sources.table_rows import TableRows, read_rows
from sar_dist.data.making.sources.tables import CsvColumns, csv_sources
from sar_dist.data.making.sources.tars import TarSource, tar_sources
from sar_dist.data.making.sources.tiny_imagenet import tiny_imagenet_sources
from sar_dist.data.making.sources.torchvision_sets import (
    TorchvisionSource,
    open_torchvision_source,
    torchvision_sources,
)

__all__ = [
    "COMMANDS",
    "SEGMENTATION_EXTENSION",
    "VOC_CLASSES",
    "CopiedShards",
    "CsvColumns",
    "DemoScenes",
    "FileSample",
    "FileSource",
    "ImageNetSource",
    "ParquetSource",
    "Source",
    "SourceCommand",
    "Subset",
    "TableRows",
    "TarSource",
    "TorchvisionSource",
    "ade20k_sources",
    "csv_sources",
    "how_it_is_read",
    "imagefolder_sources",
    "imagenet_sources",
    "list_sources",
    "nested_splits",
    "open_torchvision_source",
    "parquet_sources",
    "positive",
    "read_bytes",
    "read_rows",
    "shared_files",
    "tar_sources",
    "tiny_imagenet_sources",
    "torchvision_sources",
    "voc_sources",
]
