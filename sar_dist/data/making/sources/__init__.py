"""Where the samples of new shards come from, one function or class for each format of ``tools/make_shards.py``."""

from sar_dist.data.making.sources.base import FileSample, FileSource, Source, member_extension, read_bytes
from sar_dist.data.making.sources.demo_scenes import DemoScenes
from sar_dist.data.making.sources.image_folder import Subset, class_folders, imagefolder_sources
from sar_dist.data.making.sources.segmentation import SEGMENTATION_EXTENSION, VOC_CLASSES, ade20k_sources, voc_sources
from sar_dist.data.making.sources.tables import CsvColumns, ParquetSource, csv_sources, parquet_sources

__all__ = ["CsvColumns", "DemoScenes", "FileSample", "FileSource", "ParquetSource", "SEGMENTATION_EXTENSION", "Source", "Subset", "VOC_CLASSES", "ade20k_sources", "class_folders", "csv_sources", "imagefolder_sources", "member_extension", "parquet_sources", "read_bytes", "voc_sources"]
