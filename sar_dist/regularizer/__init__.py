"""The spatial-entropy regularizer: what this project exists for. Imports nothing else of sar_dist."""

from .backends import find_backend_problem
from .components import connected_components
from .entropy import SpatialEntropyLoss, component_labels, spatial_entropy, spatial_entropy_definition
from .query_key import SPATIAL_ENTROPY_OPERATORS, class_similarity, spatial_entropy_from_query_key
from .schedule import regularizer_weight

__all__ = [
    "SPATIAL_ENTROPY_OPERATORS",
    "SpatialEntropyLoss",
    "class_similarity",
    "component_labels",
    "connected_components",
    "find_backend_problem",
    "regularizer_weight",
    "spatial_entropy",
    "spatial_entropy_definition",
    "spatial_entropy_from_query_key",
]
