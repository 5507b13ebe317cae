"""The numbers of a Vision Transformer that decide what training it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sar_dist.config import ImageSize, RunConfig, height_and_width
from sar_dist.models import BlockSizes, Rotation, block_matrices, family_of, model_on_meta
from sar_dist.observe import BACKWARD_PER_FORWARD
from sar_dist.terms import TermCosts, term_costs


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a timm ViT.

    Attributes:
        parameter_sizes: elements of each parameter.
        block_matrices: elements of the weights of linear layers in blocks, which Muon treats as matrices.
        matrix_parameters: elements of the linear and convolution layers' parameters, which autocast casts.
        image_values: numbers in one input image.
        tokens: patches and prefix tokens.
        width: D, size of a token.
        depth: blocks.
        block: sizes of the first block, by which memory is planned.
        rotation: of queries and keys, see ``ModelFamily``.
        tapped: blocks whose query and keys leave the model.
        skip_last: the last block has its attention skip and second LayerNorm.
        forward_macs: multiply-accumulates of the forward pass on one image.
        training_macs: likewise in training, where stochastic depth may leave some out.
        computed_blocks: how many of the blocks training computes for an image on average (``model.skip_dropped``).
        terms: what the terms of the loss take beside it.
    """

    parameter_sizes: tuple[int, ...]
    block_matrices: int
    matrix_parameters: int
    image_values: int
    tokens: int
    width: int
    depth: int
    block: BlockSizes
    rotation: Rotation | None
    tapped: int
    skip_last: bool
    forward_macs: int
    training_macs: float
    computed_blocks: float
    terms: TermCosts

    @property
    def training_flops(self) -> float:
        """FLOPs of forward and backward on one image, of model and terms."""
        return 2 * (1 + BACKWARD_PER_FORWARD) * self.training_macs + self.terms.total_flops

    @property
    def parameters(self) -> int:
        """Elements of all parameters."""
        return sum(self.parameter_sizes)

    @property
    def matrix_parameters_per_block(self) -> int:
        """Elements of the weights of one block's linear layers."""
        return self.block.matrix_parameters(self.width)

    def small_parameters(self, threshold: int) -> int:
        """Elements of the parameters below ``threshold``, which ZeRO-3 keeps whole on every process."""
        return sum(size for size in self.parameter_sizes if size < threshold)

    @classmethod
    def of(cls, config: RunConfig) -> ModelShape:
        """Read the shape from the configured model, built without memory for its weights.

        With ``model.train_sizes`` what memory follows from is of the largest, and operations are the mean over them.

        Raises:
            UserError: the model or a term cannot be built, or the model's blocks belong to no registered family, whose sizes the formulas need.
        """
        sides = config.model.train_sizes
        if sides is not None:
            return cls._of_sizes(config, sides)
        model = model_on_meta(config.model, config.regularizer)
        vit = model.vit
        blocks: list[Any] = list(vit.blocks)
        sizes = [family_of(block).sizes(block) for block in blocks]
        tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
        outside, of_each = _macs_outside(vit), [size.macs(tokens, vit.embed_dim) for size in sizes]
        shares = model.computed_shares(config.engine.micro_batch)
        matrices = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        return cls(
            parameter_sizes=tuple(parameter.numel() for parameter in model.parameters()),
            block_matrices=sum(matrix.numel() for matrix in block_matrices(vit).values()),
            matrix_parameters=sum(p.numel() for module in matrices for p in module.parameters(recurse=False)),
            image_values=3 * math.prod(height_and_width(config.model.image_size)),
            tokens=tokens,
            width=vit.embed_dim,
            depth=len(blocks),
            block=sizes[0],
            rotation=family_of(blocks[0]).rotation(vit),
            tapped=len(model.tapped),
            skip_last=getattr(blocks[-1], "skip", True),
            forward_macs=outside + sum(of_each),
            training_macs=outside + sum(share * macs for share, macs in zip(shares, of_each, strict=True)),
            computed_blocks=sum(shares),
            terms=term_costs(config, model),
        )

    @classmethod
    def _of_sizes(cls, config: RunConfig, sides: Sequence[int]) -> ModelShape:
        model_on_meta(config.model, config.regularizer)  # which refuses sizes that it cannot take

        def of_size(side: ImageSize) -> ModelShape:
            return cls.of(config.vary({"model.image_size": side, "model.train_sizes": None}))

        own, by_side = of_size(config.model.image_size), {side: of_size(side) for side in set(sides)}
        shapes = [by_side[side] for side in sides]

        def mean(values: Iterable[float]) -> float:
            return sum(values) / len(shapes)

        return replace(
            by_side[max(sides)],
            parameter_sizes=own.parameter_sizes,
            training_macs=mean(shape.training_macs for shape in shapes),
            terms=replace(
                own.terms,
                flops={name: mean(shape.terms.flops[name] for shape in shapes) for name in own.terms.flops},
            ),
        )


def _macs_outside(vit: Any) -> int:
    """Multiply-accumulates on one image outside of the blocks: patch embedding, attention pooling, classifiers."""
    patches, width = vit.patch_embed.num_patches, vit.embed_dim
    heads = [head for head in (vit.head, getattr(vit, "head_dist", None)) if isinstance(head, nn.Linear)]
    macs = patches * vit.patch_embed.proj.weight.numel() + sum(head.weight.numel() for head in heads)
    pool = vit.attn_pool
    if pool is None:
        return int(macs)
    # One latent query looks at all tokens.
    tokens = patches + vit.num_prefix_tokens
    of_latent = (pool.q, pool.proj, pool.mlp.fc1, pool.mlp.fc2)
    macs += tokens * pool.kv.weight.numel() + 2 * tokens * width + sum(layer.weight.numel() for layer in of_latent)
    return int(macs)
