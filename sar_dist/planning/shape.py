"""The numbers of a Vision Transformer that decide what training it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sar_dist.config import RunConfig
from sar_dist.models import family_of, model_on_meta
from sar_dist.observe import BACKWARD_PER_FORWARD, vit_forward_macs
from sar_dist.terms import TermCosts, term_costs


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a timm ViT.

    Attributes:
        parameter_sizes: elements of each parameter.
        matrix_parameters: elements of the linear and convolution layers' parameters, which autocast casts.
        image_values: numbers in one input image.
        tokens: patches and prefix tokens.
        width: D, size of a token.
        hidden: M, hidden size of the MLP.
        heads: attention heads.
        depth: blocks.
        tapped: blocks whose query and keys leave the model.
        skip_last: the last block has its attention skip and second LayerNorm.
        layer_scale: blocks scale their branches.
        normalized_keys: queries and keys pass a norm.
        forward_macs: multiply-accumulates of the forward pass on one image.
        terms: what the terms of the loss take beside it.
    """

    parameter_sizes: tuple[int, ...]
    matrix_parameters: int
    image_values: int
    tokens: int
    width: int
    hidden: int
    heads: int
    depth: int
    tapped: int
    skip_last: bool
    layer_scale: bool
    normalized_keys: bool
    forward_macs: int
    terms: TermCosts

    @property
    def training_flops(self) -> float:
        """FLOPs of forward and backward on one image, of model and terms."""
        return 2 * (1 + BACKWARD_PER_FORWARD) * self.forward_macs + self.terms.total_flops

    @property
    def parameters(self) -> int:
        """Elements of all parameters."""
        return sum(self.parameter_sizes)

    @property
    def matrix_parameters_per_block(self) -> int:
        """Elements of the weights of one block's linear layers."""
        return 4 * self.width**2 + 2 * self.width * self.hidden

    def small_parameters(self, threshold: int) -> int:
        """Elements of the parameters below ``threshold``, which ZeRO-3 keeps whole on every process."""
        return sum(size for size in self.parameter_sizes if size < threshold)

    @classmethod
    def of(cls, config: RunConfig) -> ModelShape:
        """Read the shape from the configured model, built without memory for its weights.

        Raises:
            UserError: the model or a term cannot be built, or the model's blocks belong to no registered family, whose sizes the formulas need.
        """
        model = model_on_meta(config.model, config.regularizer)
        vit = model.vit
        blocks: list[Any] = list(vit.blocks)
        sizes, *_ = [family_of(block).sizes(block) for block in blocks]  # of each, so that each is checked
        size, patch = config.model.image_size, vit.patch_embed.patch_size[0]
        matrices = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        return cls(
            parameter_sizes=tuple(parameter.numel() for parameter in model.parameters()),
            matrix_parameters=sum(p.numel() for module in matrices for p in module.parameters(recurse=False)),
            image_values=3 * size**2,
            tokens=vit.patch_embed.num_patches + vit.num_prefix_tokens,
            width=vit.embed_dim,
            hidden=sizes.hidden,
            heads=sizes.heads,
            depth=len(vit.blocks),
            tapped=len(model.tapped),
            skip_last=getattr(blocks[-1], "skip", True),
            layer_scale=sizes.layer_scale,
            normalized_keys=sizes.normalized_keys,
            forward_macs=vit_forward_macs(
                image_size=size,
                patch_size=patch,
                embed_dim=vit.embed_dim,
                depth=len(vit.blocks),
                num_classes=config.model.num_classes,
                mlp_ratio=sizes.hidden / vit.embed_dim,
                prefix_tokens=vit.num_prefix_tokens,
            ),
            terms=term_costs(config, model),
        )
