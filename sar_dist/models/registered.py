"""The model without the last block's skip as an architecture of timm's registry: ``sar_vision_transformer``.

timm has no such Vision Transformer, and its own ones cannot load the weights. Importing ``sar_dist.models`` registers
the name, after which ``timm.create_model("local-dir:EXPORT", pretrained=True)`` builds and strictly loads an export.
Where it is not registered, timm refuses the unknown name instead of computing another function.
"""

from __future__ import annotations

import sys
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from sar_dist.errors import UserError
from sar_dist.models.families import TimmViT, family_of, is_known_model

NO_SKIP_ARCHITECTURE = "sar_vision_transformer"

default_cfgs = generate_default_cfgs(  # timm looks for this name in the module of a registered model
    {NO_SKIP_ARCHITECTURE: {"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head"}}
)


@register_model
def sar_vision_transformer(pretrained: bool = False, *, base: str, **arguments: Any) -> TimmViT:
    """A timm ``VisionTransformer`` or ``Eva`` whose last block has no skip around its attention and no second LayerNorm.

    Args:
        pretrained: load the weights that ``pretrained_cfg`` names, as any timm model does.
        base: the timm model that is changed, such as "vit_base_patch16_224".
        arguments: constructor arguments of ``base``, and those of timm's model factory.

    Raises:
        UserError: ``base`` is no model of a registered family.
    """

    def construct(**model_arguments: Any) -> TimmViT:
        vit: Any = timm.create_model(base, **model_arguments)
        if not is_known_model(vit):
            raise UserError(f"{NO_SKIP_ARCHITECTURE}: base={base!r} is a {type(vit).__name__}, not a VisionTransformer")
        vit.blocks[-1] = family_of(vit.blocks[-1]).tap(
            vit.blocks[-1], num_prefix_tokens=vit.num_prefix_tokens, skip=False
        )
        return vit

    return build_model_with_cfg(
        construct,
        NO_SKIP_ARCHITECTURE,
        pretrained,
        pretrained_filter_fn=_fit_weights,
        feature_cfg={"out_indices": arguments.pop("out_indices", 3), "feature_cls": "getter"},
        **arguments,
    )


def _fit_weights(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What timm does to weights on their way into ``model``: the function of this name beside the model's class."""
    fit = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return state if fit is None else fit(state, model)
