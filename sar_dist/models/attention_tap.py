"""The attention tap: what the regularizer needs of a block's attention, while the attention itself stays fused.

The spatial entropy (Peruzzo et al., "Spatial entropy as an inductive bias for vision transformers", Machine Learning
2024, section 3) looks at one row of the attention: the [CLS] query against the patch keys. ``TapBlock`` returns that
query and those keys next to the block's output, so the N x N attention matrix is never materialised. They travel as
ordinary return values, not through hooks: hooks lose the gradient or fire twice under activation checkpointing.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from einops import rearrange
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sar_dist.errors import UserError
from sar_dist.keys import seed_of
from sar_dist.models.drop_path import DropPaths
from sar_dist.models.families import BlockSizes, ModelFamily, TimmViT, family_of, register_family

Query = Literal["cls", "mean"]


class TapBlock(nn.Module):
    """A timm ``Block`` that can also return the query and keys of its similarity map, and its heads' outputs.

    It takes over the block's sub-modules under their own names, so state-dict names do not change; without a skip
    around the attention, ``norm2`` and ``ls1`` do not exist, and their names are absent.

    Args:
        block: the timm block to take over.
        num_prefix_tokens: tokens before the patches ([CLS], distillation, registers).
        query: "cls" taps the query of the first token, "mean" the mean of the patch queries.
        skip: False drops the skip connection around the attention and the second LayerNorm (and a LayerScale of the
            attention, which would scale the whole signal to nearly nothing), as the regularized model of the paper does.
    """

    def __init__(self, block: Any, *, num_prefix_tokens: int, query: Query = "cls", skip: bool = True) -> None:
        super().__init__()
        attention = block.attn
        if type(attention) is not Attention or attention.gate is not None:
            raise UserError(
                f"the attention tap supports timm's plain Attention without a gate, not {type(attention).__name__}; "
                "choose another model.name"
            )
        self.num_prefix_tokens = num_prefix_tokens
        self.query = query
        self.skip = skip
        self.norm1 = block.norm1
        self.attn = block.attn
        if skip:
            self.ls1 = block.ls1
            self.drop_path1 = block.drop_path1
            self.norm2 = block.norm2
        self.mlp = block.mlp
        self.ls2 = block.ls2
        self.drop_path2 = block.drop_path2

    def forward(self, x: Tensor, tap: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Run the block on tokens ``x`` of shape (B, N, C).

        Returns:
            The new tokens (B, N, C); with ``tap``, also the query (B, H, d), the patch keys (B, H, gh * gw, d) and what
            each head adds up of the values (B, H, N, d).
        """
        attended, query, key, heads = self._attend(self.norm1(x))
        if self.skip:
            x = x + self.drop_path1(self.ls1(attended))
            x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        else:
            x = attended
            x = x + self.drop_path2(self.ls2(self.mlp(x)))
        return (x, query, key, heads) if tap else x

    def _attend(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same operations as timm's ``Attention.forward``, in the same order; also what is tapped."""
        attention: Any = self.attn
        q, k, v = rearrange(attention.qkv(x), "b n (qkv h d) -> qkv b h n d", qkv=3, h=attention.num_heads)
        q, k = attention.q_norm(q), attention.k_norm(k)
        dropout = attention.attn_drop.p if self.training else 0.0
        heads = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # B H N d
        out = attention.norm(rearrange(heads, "b h n d -> b n (h d)"))
        return attention.proj_drop(attention.proj(out)), *tapped(q, k, self.num_prefix_tokens, self.query), heads


def tapped(q: Tensor, k: Tensor, prefix: int, query: Query) -> tuple[Tensor, Tensor]:
    """The tapped query (B, H, d) and patch keys (B, H, N - prefix, d) of all queries and keys (B, H, N, d)."""
    return q[:, :, 0] if query == "cls" else q[:, :, prefix:].mean(dim=2), k[:, :, prefix:]


def _sizes(block: Any) -> BlockSizes:
    if type(block.mlp) is not Mlp:
        raise UserError(f"planning knows timm's plain Mlp, not {type(block.mlp).__name__}; choose another model.name")
    first: Any = block.mlp.fc1
    return BlockSizes(
        hidden=first.out_features,
        heads=block.attn.num_heads,
        layer_scale=not isinstance(block.ls2, nn.Identity),
        normalized_keys=not isinstance(block.attn.k_norm, nn.Identity),
    )


register_family(ModelFamily(Block, TapBlock, _sizes))


class TappedVisionTransformer(nn.Module):
    """A timm ``VisionTransformer`` or ``Eva`` whose forward also returns the taps of chosen blocks.

    ``vit`` remains a working timm model: ``vit(images)``, ``vit.forward_intermediates`` and ``vit.state_dict()``
    (timm's names) behave as ever. Logits equal ``vit(images)`` bit for bit.

    Args:
        vit: the timm model; its blocks are replaced in place where they are tapped or lose their skip.
        blocks: indices of the tapped blocks; negative ones count from the end.
        query: see ``TapBlock``.
        no_skip_last_block: see ``TapBlock.skip``.
        activation_checkpointing: recompute each block's activations in the backward pass.
        drop_path: stochastic depth rate of the last block, see ``DropPaths``; replaces timm's.
        skip_dropped: blocks that are not tapped and have their skip do not compute the samples that they drop.
        seed: of what stochastic depth drops.
    """

    def __init__(
        self,
        vit: TimmViT,
        *,
        blocks: tuple[int, ...] = (-1,),
        query: Query = "cls",
        no_skip_last_block: bool = False,
        activation_checkpointing: bool = False,
        drop_path: float = 0.0,
        skip_dropped: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        depth = len(vit.blocks)
        if any(not -depth <= block < depth for block in blocks):
            raise UserError(
                f"regularizer.blocks={list(blocks)}: the model has blocks 0 to {depth - 1} (or -1 to -{depth})"
            )
        if query == "cls" and vit.cls_token is None:
            raise UserError("the model has no [CLS] token; set regularizer.query=mean")
        self.vit = vit
        self._embed = family_of(vit.blocks[0]).embed
        self.tapped = sorted({block % depth for block in blocks})
        self.activation_checkpointing = activation_checkpointing
        whole = {*self.tapped, *([depth - 1] if no_skip_last_block else [])}
        for index in whole:
            block = vit.blocks[index]
            vit.blocks[index] = family_of(block).tap(
                block,
                num_prefix_tokens=vit.num_prefix_tokens,
                query=query,
                skip=not (no_skip_last_block and index == depth - 1),
            )
        partial = set(range(depth)) - whole if skip_dropped else set()
        self.drop_paths = DropPaths(vit.blocks, drop_path, seed_of("drop path", seed), partial) if drop_path else None

    def computed_shares(self, batch: int) -> list[float]:
        """Of each block the share of a micro-batch's ``batch`` samples that it computes in training."""
        depth = len(self.vit.blocks)
        return [
            1.0 if self.drop_paths is None else self.drop_paths.kept(block, batch) / batch for block in range(depth)
        ]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid of images of the model's own size."""
        return self.vit.patch_embed.grid_size

    def forward(self, images: Tensor, sample_keys: tuple[Tensor, ...] | None = None) -> dict[str, Any]:
        """Classify normalised ``images`` of shape (B, 3, H, W).

        Args:
            images: see above.
            sample_keys: int64 (B,) each, what stochastic depth is a function of in training, such as epoch and sample;
                without them it draws from torch's global generator.

        Returns:
            ``logits`` (B, classes); ``queries``, ``keys`` and ``heads``: one (B, heads, d), one (B, heads, gh * gw, d)
            and one (B, heads, N, d) for each tapped block, in the order of the blocks (no ``heads`` of families whose
            blocks do not give them); ``grid``, the rows and columns gh, gw of the images' patches. With ``vit.distilled_training`` also ``distillation_logits`` (B, classes) of the
            distillation token, and in training the ``logits`` are those of [CLS] alone, as in DeiT.
        """
        vit: Any = self.vit
        if self.training and self.drop_paths is not None:
            self.drop_paths.draw_at_random(len(images)) if sample_keys is None else self.drop_paths.draw(*sample_keys)
        x, further = self._embed(vit, images)  # B N C
        grid = vit.patch_embed.dynamic_feat_size(images.shape[-2:])
        output: dict[str, Any] = {"grid": grid, "queries": [], "keys": [], "heads": []}
        for index, (block, arguments) in enumerate(zip(vit.blocks, further, strict=True)):
            if index in self.tapped:
                x, query, key, *heads = self._run(block, x, *arguments, tap=True)
                output["queries"].append(query)
                output["keys"].append(key)
                output["heads"] += heads
            elif self.training and self.drop_paths is not None and index in self.drop_paths.partial:
                x = self.drop_paths.compute(index, functools.partial(self._run, block), x, *arguments)
            else:
                x = self._run(block, x, *arguments)
        x = vit.norm(x)
        if getattr(vit, "distilled_training", False):
            output["distillation_logits"] = vit.head_dist(vit.head_drop(x[:, 1]))
            if self.training:  # afterwards timm's mean of both
                return {"logits": vit.head(vit.head_drop(x[:, 0])), **output}
        return {"logits": vit.forward_head(x), **output}

    def _run(self, block: nn.Module, *arguments: Any, **options: Any) -> Any:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False, **options)
        return block(*arguments, **options)
