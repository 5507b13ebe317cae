"""Images from WebDataset tar shards: exact order, exact resume, exact validation. See docs/data.md.

``load_manifest`` -> ``check_shards`` -> ``TrainLoader`` / ``ValidationLoader``.
"""

from sar_dist.data.device_decoding import decoder_problem, device_batches
from sar_dist.data.loader import TrainLoader, ValidationLoader
from sar_dist.data.prefetch import prefetch_to_device
from sar_dist.data.shards import DamagedShard, Manifest, ShardEntry, check_shards, load_manifest
from sar_dist.data.workers import with_workers

__all__ = [
    "DamagedShard",
    "Manifest",
    "ShardEntry",
    "TrainLoader",
    "ValidationLoader",
    "check_shards",
    "decoder_problem",
    "device_batches",
    "load_manifest",
    "prefetch_to_device",
    "with_workers",
]
