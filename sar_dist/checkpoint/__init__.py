"""Checkpoints that are committed atomically, verified before use, and independent of the topology that wrote them."""

from sar_dist.checkpoint.layout import (
    LATEST,
    MANIFEST,
    RUN_ID,
    DamagedCheckpoint,
    ForbiddenCheckpoint,
    UnsupportedFormat,
    complete_checkpoints,
    recorded_run_id,
    step_name,
    step_of,
)
from sar_dist.checkpoint.manifest import (
    CheckpointManifest,
    EngineState,
    FileRecord,
    Fragment,
    LoaderState,
    RankIndex,
    SharedState,
    read_manifest,
    verify,
    verify_own,
)
from sar_dist.checkpoint.reading import CheckpointReader, TensorKind
from sar_dist.checkpoint.store import CheckpointStore

__all__ = [
    "LATEST",
    "MANIFEST",
    "RUN_ID",
    "CheckpointManifest",
    "CheckpointReader",
    "CheckpointStore",
    "DamagedCheckpoint",
    "EngineState",
    "FileRecord",
    "ForbiddenCheckpoint",
    "Fragment",
    "LoaderState",
    "RankIndex",
    "SharedState",
    "TensorKind",
    "UnsupportedFormat",
    "complete_checkpoints",
    "read_manifest",
    "recorded_run_id",
    "step_name",
    "step_of",
    "verify",
    "verify_own",
]
