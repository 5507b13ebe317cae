"""sar_dist: Vision Transformer pretraining with the spatial-entropy regularizer, on DeepSpeed and WebDataset shards.

The names of ``__all__`` are the public face, for use from Python (docs/python.md). Each is imported when it is first used, for
PyTorch takes seconds. Everything else may change between versions.
"""

from typing import TYPE_CHECKING

from sar_dist.faces import lazy_face

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sar_dist.config import RunConfig, load_config
    from sar_dist.errors import UserError
    from sar_dist.models import build_model, export_run, register_family
    from sar_dist.regularizer import SpatialEntropyLoss, spatial_entropy, spatial_entropy_from_query_key
    from sar_dist.terms import Term, TermScores, WeightedTerm
    from sar_dist.training import build_trainer
    from sar_dist.transfer import TransferTask, load_model, read_result
else:
    __getattr__ = lazy_face(
        __name__,
        {
            ".config": "RunConfig load_config",
            ".errors": "UserError",
            ".models": "build_model export_run register_family",
            ".regularizer": "SpatialEntropyLoss spatial_entropy spatial_entropy_from_query_key",
            ".terms": "Term TermScores WeightedTerm",
            ".training": "build_trainer",
            ".transfer": "TransferTask load_model read_result",
        },
    )

__all__ = [
    "RunConfig",
    "SpatialEntropyLoss",
    "Term",
    "TermScores",
    "TransferTask",
    "UserError",
    "WeightedTerm",
    "build_model",
    "build_trainer",
    "export_run",
    "load_config",
    "load_model",
    "read_result",
    "register_family",
    "spatial_entropy",
    "spatial_entropy_from_query_key",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
