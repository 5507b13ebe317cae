"""timm's ``Eva`` models: DINOv3 and RoPE ViTs, EVA, EVA-02, Perception Encoders.

Their blocks rotate the queries and keys of the patches by position (RoPE; Su et al., https://arxiv.org/abs/2104.09864; for
images: Heo et al., https://arxiv.org/abs/2403.13298) inside of the attention. The tap returns both after the rotation, as the
attention compares them.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from timm.layers import AttentionRope, GluMlp, Mlp, SwiGLU, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn
from torch.nn import functional

from sar_dist.errors import UserError
from sar_dist.models.attention_tap import Query, tapped
from sar_dist.models.families import BlockSizes, Embedding, ModelFamily, Rotation, register_family


class EvaTapBlock(nn.Module):
    """A timm ``EvaBlock`` that can also return the query and keys of its similarity map; arguments as of ``TapBlock``.

    Without a skip around the attention, ``norm2`` and the attention's LayerScale ``gamma_1`` do not exist.
    """

    def __init__(self, block: Any, *, num_prefix_tokens: int, query: Query = "cls", skip: bool = True) -> None:
        super().__init__()
        if type(block.attn) not in (EvaAttention, AttentionRope):
            raise UserError(
                f"the attention tap knows timm's EvaAttention and AttentionRope, not {type(block.attn).__name__}; "
                "choose another model.name"
            )
        self.num_prefix_tokens = num_prefix_tokens
        self.query = query
        self.skip = skip
        self.norm1 = block.norm1
        self.attn = block.attn
        if skip:
            self.gamma_1 = getattr(block, "gamma_1", None)
            self.drop_path1 = block.drop_path1
            self.norm2 = block.norm2
        self.mlp = block.mlp
        self.gamma_2 = getattr(block, "gamma_2", None)
        self.drop_path2 = block.drop_path2

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        tap: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Run the block on tokens ``x`` of shape (B, N, C).

        Args:
            x: see above.
            rope: sines and cosines (..., patches, 2 d) of the rotation; None leaves queries and keys as they are.
            attn_mask, is_causal: as of ``scaled_dot_product_attention``; timm passes them.
            tap: return the query and the keys too.

        Returns:
            The new tokens (B, N, C); with ``tap``, also the query (B, H, d) and the patch keys (B, H, gh * gw, d).
        """
        x, query, key = self._compute(x, rope, attn_mask, is_causal)
        return (x, query, key) if tap else x

    def _compute(self, x: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The new tokens, and what is tapped; ``how`` to attend is as of ``_attend``."""
        attended, query, key = self._attend(self.norm1(x), *how)
        if self.skip:
            x = x + self.drop_path1(_scaled(attended, self.gamma_1))
            x = x + self.drop_path2(_scaled(self.mlp(self.norm2(x)), self.gamma_2))
        else:
            x = attended + self.drop_path2(_scaled(self.mlp(attended), self.gamma_2))
        return x, query, key

    def _attend(
        self, x: Tensor, rope: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same operations as timm's attention, in the same order; also the tapped query and keys."""
        attention: Any = self.attn
        gate = None if attention.gate is None else attention.gate(x).sigmoid()
        q, k, v = _projections(attention, x)  # B H N d; of grouped queries, k and v have fewer heads
        q, k = attention.q_norm(q), attention.k_norm(k)
        if rope is not None:
            q, k = _rotated(attention, q, rope).type_as(v), _rotated(attention, k, rope).type_as(v)
        groups = getattr(attention, "num_kv_groups", 1)
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        out = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=attn_mask,
            dropout_p=attention.attn_drop.p if self.training else 0.0,
            is_causal=is_causal,
        )
        out = attention.norm(rearrange(out, "b h n d -> b n (h d)"))
        if gate is not None:
            out = out * gate
        return attention.proj_drop(attention.proj(out)), *tapped(q, k, self.num_prefix_tokens, self.query)


class PostNormEvaTapBlock(EvaTapBlock):
    """The same of ``EvaBlockPostNorm``, which normalises what its branches add."""

    def __init__(self, block: Any, *, num_prefix_tokens: int, query: Query = "cls", skip: bool = True) -> None:
        if not skip:
            raise UserError(
                "the method's last block has no LayerNorm after its attention, and this model's blocks have theirs only "
                "there; set model.no_skip_last_block=false, or choose eva_giant_patch14_224"
            )
        super().__init__(block, num_prefix_tokens=num_prefix_tokens, query=query)

    def _compute(self, x: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
        attended, query, key = self._attend(x, *how)
        x = x + self.drop_path1(self.norm1(attended))
        x = x + self.drop_path2(self.norm2(self.mlp(x)))
        return x, query, key


def embed(vit: Any, images: Tensor) -> Embedding:
    """Tokens (B, N, C) of an ``Eva``, and the rotation for each block: one for all, or learned ones of each."""
    tokens, rope = vit._pos_embed(vit.patch_embed(images))
    rotations = rope if vit.rope_mixed and rope is not None else [rope] * len(vit.blocks)
    return vit.norm_pre(tokens), [(rotation,) for rotation in rotations]


def _scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
    return branch if gamma is None else gamma * branch


def _projections(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, N, d) of tokens (B, N, C)."""
    if attention.qkv is None:
        heads, of_keys = attention.num_heads, getattr(attention, "num_kv_heads", attention.num_heads)
        q = rearrange(attention.q_proj(x), "b n (h d) -> b h n d", h=heads)
        k = rearrange(attention.k_proj(x), "b n (h d) -> b h n d", h=of_keys)
        v = rearrange(attention.v_proj(x), "b n (h d) -> b h n d", h=of_keys)
        return q, k, v
    if getattr(attention, "q_bias", None) is None:
        qkv = attention.qkv(x)
    else:  # EvaAttention, whose keys have none
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        if attention.qkv_bias_separate:
            qkv = attention.qkv(x)
            qkv += bias
        else:
            qkv = functional.linear(x, weight=attention.qkv.weight, bias=bias)
    q, k, v = rearrange(qkv, "b n (qkv h d) -> qkv b h n d", qkv=3, h=attention.num_heads)
    return q, k, v


def _rotated(attention: Any, x: Tensor, rope: Tensor) -> Tensor:
    """Queries or keys (B, H, N, d) with those of the patches rotated."""
    prefix = attention.num_prefix_tokens
    turned = apply_rot_embed_cat(x[:, :, prefix:], rope, half=attention.rotate_half)
    return torch.cat([x[:, :, :prefix], turned], dim=2)


def _sizes(block: Any) -> BlockSizes:
    mlp, attention = block.mlp, block.attn
    if type(mlp) not in (Mlp, GluMlp, SwiGLU):
        raise UserError(
            f"planning knows timm's Mlp, GluMlp and SwiGLU, not {type(mlp).__name__}; choose another model.name"
        )
    return BlockSizes(
        hidden=mlp.fc2.in_features,
        heads=attention.num_heads,
        layer_scale=getattr(block, "gamma_1", None) is not None or getattr(block, "gamma_2", None) is not None,
        normalized_keys=not isinstance(attention.k_norm, nn.Identity),
        gated=not isinstance(mlp, Mlp),
        normalized_hidden=not isinstance(mlp.norm, nn.Identity),
        normalized_attention=not isinstance(attention.norm, nn.Identity),
        separate_projections=attention.qkv is None,
        attention_width=attention.proj.in_features,
        key_value_width=None if attention.qkv is not None else attention.k_proj.out_features,
    )


def rotation(vit: Any) -> Rotation | None:
    """How an ``Eva`` turns queries and keys."""
    if vit.rope is None:
        return None
    return "learned" if vit.rope_mixed else "fixed"


def check_training(vit: Any) -> None:
    """Refuse moved coordinates: timm draws them from each process's own generator, one for all images of a micro-batch."""
    neutral = {"shift": 0.0, "jitter": 1.0, "rescale": 1.0}
    drawn = {name: getattr(vit.rope, f"{name}_coords", None) for name in neutral}
    off = [
        f"model.options.rope_{name}_coords={neutral[name]:g}"
        for name in neutral
        if drawn[name] not in (None, neutral[name])
    ]
    if off:
        raise UserError(
            "moving the coordinates of the rotation in training depends on how a batch is split over processes and could "
            f"not be resumed; set {' '.join(off)}"
        )


for _block, _tap in ((EvaBlock, EvaTapBlock), (EvaBlockPostNorm, PostNormEvaTapBlock)):
    register_family(
        ModelFamily(_block, _tap, _sizes, model=Eva, embed=embed, check_training=check_training, rotation=rotation)
    )
