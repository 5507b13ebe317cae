"""Checkpoints that are committed atomically, verified before use, and independent of the topology that wrote them."""

from sar_dist.checkpoint.layout import (
    MANIFEST,
    DamagedCheckpoint,
    complete_checkpoints,
    describe_file,
    read_manifest,
    step_name,
    step_of,
    sync_directory,
    verify,
    write_durably,
)
from sar_dist.checkpoint.reading import CheckpointReader, TensorKind
from sar_dist.checkpoint.store import CheckpointStore

__all__ = [
    "MANIFEST",
    "CheckpointReader",
    "CheckpointStore",
    "DamagedCheckpoint",
    "TensorKind",
    "complete_checkpoints",
    "describe_file",
    "read_manifest",
    "step_name",
    "step_of",
    "sync_directory",
    "verify",
    "write_durably",
]
