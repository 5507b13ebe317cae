"""timm Vision Transformers with the attention tap; importing this registers ``sar_vision_transformer`` with timm."""

import sar_dist.models.eva  # noqa: F401 - registers its family
from sar_dist.models.attention_tap import TapBlock, TappedVisionTransformer
from sar_dist.models.build import block_matrices, build_model, model_on_meta, parameter_groups
from sar_dist.models.drop_path import DropPaths
from sar_dist.models.export import DTYPES, export_run
from sar_dist.models.families import (
    BlockSizes,
    ModelFamily,
    Rotation,
    TimmViT,
    family_of,
    import_model,
    is_known_model,
    register_family,
)
from sar_dist.models.initialize import check_initial_weights, load_initial_weights
from sar_dist.models.model_spec import LoadedModel, load_model
from sar_dist.models.patch_projection import project_linearly
from sar_dist.models.registered import NO_SKIP_ARCHITECTURE
from sar_dist.models.weights import (
    LABEL_NAMES_KEY,
    PROVENANCE_KEY,
    WEIGHTS_FILE,
    NamedWeights,
    class_names,
    open_run,
    open_weights,
    read_export_config,
    timm_defaults,
)

__all__ = [
    "DTYPES",
    "LABEL_NAMES_KEY",
    "NO_SKIP_ARCHITECTURE",
    "PROVENANCE_KEY",
    "WEIGHTS_FILE",
    "BlockSizes",
    "DropPaths",
    "LoadedModel",
    "ModelFamily",
    "NamedWeights",
    "Rotation",
    "TapBlock",
    "TappedVisionTransformer",
    "TimmViT",
    "block_matrices",
    "build_model",
    "check_initial_weights",
    "class_names",
    "export_run",
    "family_of",
    "import_model",
    "is_known_model",
    "load_initial_weights",
    "load_model",
    "model_on_meta",
    "open_run",
    "open_weights",
    "parameter_groups",
    "project_linearly",
    "read_export_config",
    "register_family",
    "timm_defaults",
]
