"""Where the samples of new shards come from, one function or class for each format of ``tools/make_shards.py``."""

from sar_dist.data.sources.base import FileSample, FileSource, Source
from sar_dist.data.sources.demo_scenes import DemoScenes
from sar_dist.data.sources.image_folder import Subset, imagefolder_sources
from sar_dist.data.sources.segmentation import ade20k_sources, voc_sources
from sar_dist.data.sources.tables import CsvColumns, ParquetSource, csv_sources, parquet_sources

__all__ = [
    "CsvColumns",
    "DemoScenes",
    "FileSample",
    "FileSource",
    "ParquetSource",
    "Source",
    "Subset",
    "ade20k_sources",
    "csv_sources",
    "imagefolder_sources",
    "parquet_sources",
    "voc_sources",
]
