"""Model families: what is known of a kind of Vision Transformer beyond timm's common interface, in one entry each.

The package uses what timm's ``VisionTransformer`` and ``Eva`` have in common: ``patch_embed``, ``blocks``, ``norm``,
``forward_head``, ``forward_intermediates``, ``set_input_size``. What differs is in an entry: how images become tokens, how
a block's query and keys are tapped, and a block's sizes for planning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sar_dist.errors import UserError
from sar_dist.extensions import import_extension

TimmViT = VisionTransformer | Eva
Embedding = tuple[Tensor, list[tuple[Any, ...]]]
Rotation = Literal["fixed", "learned"]


@dataclass(frozen=True)
class BlockSizes:
    """What planning counts of a block.

    Attributes:
        hidden: hidden size of the MLP.
        heads: attention heads.
        layer_scale: the block scales its branches.
        normalized_keys: queries and keys pass a norm.
        gated: the MLP is a gated one (SwiGLU), with a third matrix.
        normalized_hidden: the MLP has a norm before its last matrix.
        normalized_attention: the attention has a norm before its projection.
        separate_projections: query, key and value are three tensors from the beginning.
        attention_width: of the queries of all heads; None: that of the tokens.
        key_value_width: of the keys of all heads; None: that of the queries.
    """

    hidden: int
    heads: int
    layer_scale: bool
    normalized_keys: bool
    gated: bool = False
    normalized_hidden: bool = False
    normalized_attention: bool = False
    separate_projections: bool = False
    attention_width: int | None = None
    key_value_width: int | None = None

    def matrix_parameters(self, width: int) -> int:
        """Elements of the weights of the linear layers, on tokens of ``width``; each is one multiply-accumulate a token."""
        queries = self.attention_width or width
        keys = self.key_value_width or queries
        return width * (2 * queries + 2 * keys) + (3 if self.gated else 2) * width * self.hidden

    def macs(self, tokens: int, width: int) -> int:
        """Multiply-accumulates of a forward pass on one image of ``tokens`` tokens."""
        products = 2 * tokens**2 * (self.attention_width or width)
        return tokens * self.matrix_parameters(width) + products


def embed(vit: Any, images: Tensor) -> Embedding:
    """Tokens (B, N, C) of a ``VisionTransformer``, whose blocks take nothing else."""
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
    return tokens, [()] * len(vit.blocks)


@dataclass(frozen=True)
class ModelFamily:
    """One kind of Vision Transformer.

    Attributes:
        block: class of its blocks, exactly: a subclass may compute something else.
        tap: makes of a block one that can be tapped, ``tap(block, num_prefix_tokens=..., query=..., skip=...)``, with the
            sub-modules under their own names. Its ``forward(x, tap=True)`` returns the tokens (B, N, C), the query
            (B, H, d), the patch keys (B, H, gh * gw, d) and, if it can, the heads' outputs (B, H, N, d). It raises UserError
            for what it cannot tap.
        sizes: the sizes of a block, or of the block that ``tap`` made of it.
        model: class of the whole models, or of those it is derived from.
        embed: ``embed(model, images)`` gives the tokens (B, N, C) that enter the first block, and for each block what it
            takes beside the tokens, such as a rotation.
        check_training: raises UserError for a model that can be evaluated, but not trained so that a run can be repeated.
        rotation: of the queries and keys of a model: None, "fixed", or "learned" by parameters.
    """

    block: type[nn.Module]
    tap: Callable[..., nn.Module]
    sizes: Callable[[Any], BlockSizes]
    model: type[nn.Module] = VisionTransformer
    embed: Callable[[Any, Tensor], Embedding] = embed
    check_training: Callable[[Any], None] = lambda model: None
    rotation: Callable[[Any], Rotation | None] = lambda model: None


_FAMILIES: list[ModelFamily] = []


def register_family(family: ModelFamily) -> None:
    """Add a family, in place of an earlier one with the same class of blocks."""
    _FAMILIES[:] = [other for other in _FAMILIES if other.block is not family.block] + [family]


def family_of(block: nn.Module) -> ModelFamily:
    """The family that ``block``, or the tapped block made of one, belongs to.

    Raises:
        UserError: it belongs to none.
    """
    family = _find_family(block)
    if family is None:
        known = ", ".join(family.block.__name__ for family in _FAMILIES)
        raise UserError(
            f"the model's blocks are of class {type(block).__name__}, which the attention tap does not know (it knows "
            f"{known}); choose another model.name, or register a family as docs/extending.md shows"
        )
    return family


def _find_family(block: nn.Module) -> ModelFamily | None:
    for family in _FAMILIES:
        if type(block) is family.block or (isinstance(family.tap, type) and type(block) is family.tap):
            return family
    return None


def is_tappable(model: object) -> TypeGuard[TimmViT]:
    """Whether ``model`` is of a family's class, as its blocks are."""
    return is_known_model(model) and len(model.blocks) > 0 and all(_find_family(block) for block in model.blocks)


def is_known_model(model: object) -> TypeGuard[TimmViT]:
    """Whether ``model`` is of a class that a family has. Its blocks may still belong to none."""
    return isinstance(model, tuple(family.model for family in _FAMILIES))


def import_model(name: str) -> str:
    """The timm name in ``model.name``; of "my_module:NAME", after ``my_module`` has been imported and registered it.

    Raises:
        UserError: the module cannot be imported.
    """
    return import_extension(name, "model.name")[1] if ":" in name else name
