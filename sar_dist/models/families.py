"""Model families: what is known of a kind of Vision Transformer beyond timm's common interface, in one entry each.

The package handles every model as a timm ``VisionTransformer``: embedding, ``blocks``, ``norm``, ``forward_head``. What
differs between kinds is the class of their blocks: how their query and keys are tapped, and their sizes for planning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sar_dist.errors import UserError
from sar_dist.extensions import import_extension


@dataclass(frozen=True)
class BlockSizes:
    """What planning counts of a block.

    Attributes:
        hidden: hidden size of the MLP.
        heads: attention heads.
        layer_scale: the block scales its branches.
        normalized_keys: queries and keys pass a norm.
    """

    hidden: int
    heads: int
    layer_scale: bool
    normalized_keys: bool


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
    """

    block: type[nn.Module]
    tap: Callable[..., nn.Module]
    sizes: Callable[[Any], BlockSizes]


_FAMILIES: list[ModelFamily] = []


def register_family(family: ModelFamily) -> None:
    """Add a family, in place of an earlier one with the same class of blocks."""
    _FAMILIES[:] = [other for other in _FAMILIES if other.block is not family.block] + [family]


def family_of(block: nn.Module) -> ModelFamily:
    """The family that ``block``, or the tapped block made of one, belongs to.

    Raises:
        UserError: it belongs to none.
    """
    for family in _FAMILIES:
        if type(block) is family.block or (isinstance(family.tap, type) and type(block) is family.tap):
            return family
    known = ", ".join(family.block.__name__ for family in _FAMILIES)
    raise UserError(
        f"the model's blocks are of class {type(block).__name__}, which the attention tap does not know (it knows {known}); "
        "choose another model.name, or register a family as docs/extending.md shows"
    )


def import_model(name: str) -> str:
    """The timm name in ``model.name``; of "my_module:NAME", after ``my_module`` has been imported and registered it.

    Raises:
        UserError: the module cannot be imported.
    """
    return import_extension(name, "model.name")[1] if ":" in name else name
