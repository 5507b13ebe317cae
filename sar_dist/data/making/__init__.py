"""Making and verifying shards: sources of samples, the writer, the demo data."""

from typing import TYPE_CHECKING

from sar_dist.faces import lazy_face

if TYPE_CHECKING:
    from sar_dist.data.making.demo import demo_class_names, demo_samples
    from sar_dist.data.making.resizing import ResizedSource, resized_image
    from sar_dist.data.making.verify import verify_folder
    from sar_dist.data.making.writing import SAMPLES_PER_SHARD, WritingOptions, write_shards, write_splits
else:
    __getattr__ = lazy_face(
        __name__,
        {
            ".demo": "demo_class_names demo_samples",
            ".resizing": "ResizedSource resized_image",
            ".verify": "verify_folder",
            ".writing": "SAMPLES_PER_SHARD WritingOptions write_shards write_splits",
        },
    )

__all__ = [
    "SAMPLES_PER_SHARD",
    "ResizedSource",
    "WritingOptions",
    "demo_class_names",
    "demo_samples",
    "resized_image",
    "verify_folder",
    "write_shards",
    "write_splits",
]
