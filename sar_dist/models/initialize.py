"""Starting a model from weights that exist (``model.init_from``), with an account of every key."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from sar_dist.config import ModelSettings
from sar_dist.errors import UserError
from sar_dist.models.families import TimmViT
from sar_dist.models.origins import advice_on
from sar_dist.models.weights import NamedWeights, open_weights

_POSITION_EMBEDDING = "pos_embed"


@dataclass(frozen=True)
class InitialWeightsReport:
    """What becomes of every key of the source and of the model.

    Attributes:
        source: where the weights come from.
        loaded: copied as they are.
        resampled: position embeddings, interpolated to the model's patch grid.
        reinitialised: classifier parameters that keep the model's own initialisation, as the source has another number
            of classes, or no classifier, or ``model.new_classifier`` wants it so.
        missing: in the model only. Those that are not reinitialised too are an error.
        unexpected: in the source only; always an error.
        left_out: what the source holds beside a backbone, such as a projection head, in words; "" if nothing.
        mismatched: in both with different shapes, and not resampled or reinitialised; always an error.
    """

    source: str
    loaded: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    left_out: str = ""

    @property
    def problem(self) -> str | None:
        """Why the source does not fit the model, with the first names of each kind; None where it fits."""
        return self._problem(tuple(name for name in self.missing if name not in self.reinitialised), self.mismatched)

    @property
    def problem_of_exact(self) -> str | None:
        """As ``problem``, where no classifier may begin anew."""
        others = tuple(name for name in self.reinitialised if name not in self.missing)
        return self._problem(self.missing, (*self.mismatched, *others))

    def _problem(self, missing: tuple[str, ...], mismatched: tuple[str, ...]) -> str | None:
        kinds = {"missing": missing, "unexpected": self.unexpected, "of another shape": mismatched}
        found = [f"{_some(names)} {kind}" for kind, names in kinds.items() if names]
        return "; ".join(found) + advice_on((*missing, *self.unexpected)) if found else None

    def __str__(self) -> str:
        parts = [f"initial weights: {len(self.loaded)} tensors from {self.source}"]
        if self.resampled:
            parts.append(f"resampled {', '.join(self.resampled)}")
        if self.reinitialised:
            parts.append(f"newly initialised {', '.join(self.reinitialised)}")
        return "; ".join(parts) + self.left_out


@dataclass(frozen=True)
class InitialWeights:
    """Weights that were opened, verified and found to fit, and will be read when they are loaded."""

    weights: NamedWeights
    report: InitialWeightsReport

    @torch.no_grad()
    def load_into(self, vit: TimmViT) -> None:
        """Copy the weights into ``vit``, converted to its dtype.

        Raises:
            UserError: a tensor cannot be had, or holds NaN, infinity or no real numbers.
        """
        state = vit.state_dict()
        for name in (*self.report.loaded, *self.report.resampled):
            value = self.weights.floating(name).float().to(state[name].dtype)
            if not torch.isfinite(value).all():
                raise UserError(f"{name} of {self.weights.description} does not hold finite floating-point numbers")
            is_new_grid = name in self.report.resampled and value.shape != state[name].shape
            state[name].copy_(_resample(value.float(), vit) if is_new_grid else value)


def check_initial_weights(vit: TimmViT, settings: ModelSettings) -> InitialWeights | None:
    """Find out before training starts whether ``settings.init_from`` can be loaded; None where it is not set.

    Args:
        vit: the model, or the same model on the meta device: only names and shapes count.
        settings: the settings it was built from.

    Raises:
        UserError: the source does not exist, is damaged, could run code, or does not fit the model.
    """
    if settings.init_from is None:
        return None
    try:
        weights = open_weights(settings.init_from).fitted(vit)
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from error
    report = _compare(weights, vit, settings.new_classifier)
    if report.problem is not None:
        raise UserError(
            f"model.init_from={settings.init_from} does not fit {settings.name} "
            f"with no_skip_last_block={str(settings.no_skip_last_block).lower()}: {report.problem}"
        )
    return InitialWeights(weights, report)


def load_exactly(vit: TimmViT, weights: NamedWeights, architecture: str) -> InitialWeightsReport:
    """Load all weights into ``vit``, its classifier included, or none: anything left out would compute another function.

    Only a position embedding of another grid is resampled, which the report says. ``architecture`` is what the message calls the model.

    Raises:
        UserError: they do not fit, or a tensor cannot be had.
    """
    report = _compare(weights, vit, new_classifier=False)
    if report.problem_of_exact is not None:
        raise UserError(
            f"the weights of {weights.description} do not fit {architecture}: {report.problem_of_exact}; give the architecture that they "
            "were saved from, or another part of the file (FILE#PART)"
        )
    InitialWeights(weights, report).load_into(vit)
    return report


def load_initial_weights(vit: TimmViT, settings: ModelSettings) -> InitialWeightsReport | None:
    """Check and load ``settings.init_from`` into ``vit``; None where it is not set. Errors as for the check."""
    initial = check_initial_weights(vit, settings)
    if initial is None:
        return None
    initial.load_into(vit)
    return initial.report


def _compare(weights: NamedWeights, vit: TimmViT, new_classifier: bool) -> InitialWeightsReport:
    expected = {name: tuple(tensor.shape) for name, tensor in vit.state_dict().items()}
    found: dict[str, list[str]] = defaultdict(list)
    heads = _classifiers(vit)
    new_heads = heads if new_classifier else tuple(h for h in heads if _is_new(h, expected, weights.shapes))
    for name, shape in expected.items():
        other = weights.shapes.get(name)
        if other is None:
            found["missing"].append(name)
        if name.startswith(new_heads):
            found["reinitialised"].append(name)
        elif other == shape:
            found["resampled" if name in weights.resampled else "loaded"].append(name)
        elif other is not None and name == _POSITION_EMBEDDING and _can_resample(other, vit):
            found["resampled"].append(name)
        elif other is not None:
            found["mismatched"].append(f"{name} {other} (model: {shape})")
    found["unexpected"] = [name for name in weights.shapes if name not in expected]
    kinds: dict[str, Any] = {kind: tuple(names) for kind, names in found.items()}
    return InitialWeightsReport(weights.description, **kinds, left_out=weights.left_out)


def _classifiers(vit: TimmViT) -> tuple[str, ...]:
    """Prefixes of the classifier's parameters, such as "head."; a distilled model has two classifiers."""
    names = cast("dict[str, Any]", vit.pretrained_cfg)["classifier"]
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names or []))


def _is_new(head: str, expected: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> bool:
    """Whether a classifier has no counterpart with as many classes; its weight and bias belong together."""
    names = [name for name in {*expected, *given} if name.startswith(head)]
    return any(expected.get(name) != given.get(name) for name in names)


def _prefix_tokens(vit: TimmViT) -> int:
    """Tokens before the patches that have a position embedding."""
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def _can_resample(shape: tuple[int, ...], vit: TimmViT) -> bool:
    """Whether a position embedding of ``shape`` covers a square patch grid and has the model's width."""
    if len(shape) != 3 or shape[0] != 1 or shape[2] != vit.embed_dim:
        return False
    patches = shape[1] - _prefix_tokens(vit)
    return patches > 0 and math.isqrt(patches) ** 2 == patches


def _resample(position_embedding: Tensor, vit: TimmViT) -> Tensor:
    """Interpolate (1, prefix + N, C) bicubically to the model's patch grid, as timm does for its own weights."""
    return resample_abs_pos_embed(
        position_embedding, new_size=list(vit.patch_embed.grid_size), num_prefix_tokens=_prefix_tokens(vit)
    )


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"
