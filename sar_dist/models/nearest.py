"""The timm model with the nearest name among those that can be tapped, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import timm
import torch

from sar_dist.models.families import is_tappable

_MODULES = ("vision_transformer", "deit", "eva")  # of timm, where such models are


def nearest_models(name: str, count: int = 3) -> str:
    """Up to ``count`` names, the nearest first; there is always one."""
    candidates = [
        other for module in _MODULES for other in timm.list_models(module=module) if not other.startswith("test_")
    ]
    found = [*difflib.get_close_matches(name, candidates, n=3 * count, cutoff=0.3), "vit_small_patch16_224"]
    return ", ".join(name for name, _ in zip(_tappable(found), range(count), strict=False))


def _tappable(names: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        with torch.device("meta"):
            if is_tappable(timm.create_model(name)):
                yield name
