"""The terms that an entry of ``terms`` may call by name, and those of a user's own file."""

from __future__ import annotations

import difflib
from typing import Any

from sar_dist.errors import UserError
from sar_dist.extensions import import_object
from sar_dist.quantities import Quantity
from sar_dist.terms.attention_entropy import AttentionEntropy
from sar_dist.terms.distillation import Distillation
from sar_dist.terms.head_diversity import HeadDiversity
from sar_dist.terms.spatial_entropy import SpatialEntropy
from sar_dist.terms.total_variation import TotalVariation

TERMS: dict[str, type[Any]] = {
    "spatial_entropy": SpatialEntropy,
    "total_variation": TotalVariation,
    "head_diversity": HeadDiversity,
    "attention_entropy": AttentionEntropy,
    "distillation": Distillation,
}


def term_class(name: str) -> type[Any]:
    """The class of a term by its registered name, or by import path, ``my_module:MyTerm``.

    Raises:
        UserError: there is no such term; the message has the nearest names.
    """
    if ":" in name:
        return import_object(name, "name")
    if name not in TERMS:
        nearest = difflib.get_close_matches(name, TERMS, n=3, cutoff=0.3) or sorted(TERMS)
        raise UserError(
            f"there is no term {name!r}; did you mean {' or '.join(nearest)}? A term of your own is my_module:MyTerm"
        )
    return TERMS[name]


def registered_quantities() -> tuple[Quantity, ...]:
    """What the registered terms log, term by term."""
    return tuple(quantity for kind in TERMS.values() for quantity in kind.quantities)
