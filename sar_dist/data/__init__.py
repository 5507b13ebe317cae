"""Images from WebDataset tar shards: exact order, exact resume, exact validation. See docs/data.md.

``load_manifest`` -> ``check_shards`` -> ``TrainLoader`` / ``ValidationLoader``; of several training sets ``match_classes``.
"""

from typing import TYPE_CHECKING

from sar_dist.faces import lazy_face

if TYPE_CHECKING:
    from sar_dist.data.device_decoding import DeviceDecoder, DeviceRefused, decoder_problem, device_batches
    from sar_dist.data.fingerprint import fingerprint_changes
    from sar_dist.data.loader import TrainLoader, ValidationLoader
    from sar_dist.data.prefetch import prefetch_to_device
    from sar_dist.data.shards import DamagedShard, Manifest, ShardEntry, check_shards, load_manifest
    from sar_dist.data.train_sizes import SizedTransforms, TrainSizes
    from sar_dist.data.training_sets import TrainingSet, match_classes, set_names, warn_of_validation_labels
    from sar_dist.data.workers import with_workers
else:
    __getattr__ = lazy_face(
        __name__,
        {
            ".device_decoding": "DeviceDecoder DeviceRefused decoder_problem device_batches",
            ".fingerprint": "fingerprint_changes",
            ".loader": "TrainLoader ValidationLoader",
            ".prefetch": "prefetch_to_device",
            ".shards": "DamagedShard Manifest ShardEntry check_shards load_manifest",
            ".train_sizes": "SizedTransforms TrainSizes",
            ".training_sets": "TrainingSet warn_of_validation_labels match_classes set_names",
            ".workers": "with_workers",
        },
    )

__all__ = [
    "DamagedShard",
    "DeviceDecoder",
    "DeviceRefused",
    "Manifest",
    "ShardEntry",
    "SizedTransforms",
    "TrainLoader",
    "TrainSizes",
    "TrainingSet",
    "ValidationLoader",
    "check_shards",
    "decoder_problem",
    "device_batches",
    "fingerprint_changes",
    "load_manifest",
    "match_classes",
    "prefetch_to_device",
    "set_names",
    "warn_of_validation_labels",
    "with_workers",
]
