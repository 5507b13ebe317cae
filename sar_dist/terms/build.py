"""The terms of a run from its configuration, and the proof that they work, before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sar_dist.config import RunConfig, apply_overrides, height_and_width
from sar_dist.errors import UserError, described, text_of
from sar_dist.terms.registry import TERMS, term_class
from sar_dist.terms.term import Term, TermScores, TermSetup

_BATCH = 2  # images of the trial
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = {"cls"}  # loss_cls is the cross-entropy


@dataclass(frozen=True)
class TermCosts:
    """What the terms of a run take beside the model.

    Attributes:
        flops: of each term that is trained, by its name: forward and backward on one image.
        held_bytes: what they keep on every process's device, such as a teacher's weights.
    """

    flops: dict[str, float]
    held_bytes: int

    @property
    def total_flops(self) -> float:
        """Of all terms, on one image."""
        return sum(self.flops.values())


def build_terms(config: RunConfig, grid: tuple[int, int], device: torch.device) -> tuple[Term, ...]:
    """The spatial entropy of ``regularizer.*``, then the entries of ``terms`` in their order.

    Args:
        config: the run.
        grid: rows and columns of the model's patches.
        device: where micro-batches are.

    Raises:
        UserError: there is no such term, its settings do not fit, or two have the same name.
    """
    setup = TermSetup(
        grid,
        config.optim.epochs,
        config.model.num_classes,
        device,
        config.engine.precision,
        config.augment.mean,
        config.augment.std,
    )
    terms: list[Term] = [TERMS["spatial_entropy"](config.regularizer, setup)]
    for number, entry in enumerate(config.terms):
        term = _build(number, entry, setup)
        if term.name in {*_TAKEN, *(other.name for other in terms)}:
            hint = "; the spatial entropy is set by regularizer.*" if term.name == terms[0].name else ""
            raise UserError(f"terms[{number}]: the run has a {term.name!r} already; leave one out{hint}")
        terms.append(term)
    return tuple(terms)


def _build(number: int, entry: Mapping[str, Any], setup: TermSetup) -> Term:
    """One entry of ``terms``."""
    name, where = entry["name"], f"terms[{number}] {entry['name']}"
    try:
        kind = term_class(name)
        if not isinstance(kind, type) or not hasattr(kind, "settings_class"):
            raise UserError("it is not a class with settings; derive it from sar_dist.terms.WeightedTerm")
        values = {key: value for key, value in entry.items() if key != "name"}
        settings = apply_overrides(kind.settings_class, (), values)
    except UserError as error:
        raise UserError(f"{where}: {text_of(error)}") from error
    try:
        term = kind(settings, setup)
    except UserError as error:
        raise UserError(f"{where}: {text_of(error)}") from error
    except Exception as error:
        raise UserError(f"{where} cannot be built: {_place(error)}") from error
    if not isinstance(term, Term):
        parts = ("name", "region", "quantities", "is_trained", "weight", "prepare", "training_flops", "held_bytes")
        lacking = [part for part in parts if not hasattr(term, part)]
        raise UserError(f"{where} lacks {', '.join(lacking) or '__call__'}; derive it from sar_dist.terms.WeightedTerm")
    if not _NAME.fullmatch(term.name):
        raise UserError(f"{where}: its name {term.name!r} must be lower-case letters, digits and underscores")
    return term


def check_terms(config: RunConfig, model: torch.nn.Module) -> None:
    """Build every term and run it forward and backward on two random images' outputs on the CPU.

    Args:
        config: the run.
        model: on the meta device, with a ``grid``; it gives the shapes.

    Raises:
        UserError: a term fails, has no gradient, or measures what cannot be logged.
    """
    terms = build_terms(config, model.grid, torch.device("cpu"))  # type: ignore[arg-type]
    if not config.terms:
        return  # the spatial entropy has its own tests
    measured: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, term in enumerate(terms):
            where = "regularizer" if number == 0 else f"terms[{number - 1}] {config.terms[number - 1]['name']}"
            try:
                term.prepare(model)
                scores = _trial(term, random_output(config, model), config.optim.epochs)
            except UserError as error:
                raise UserError(f"{where}: {text_of(error)}") from error
            except Exception as error:
                raise UserError(f"{where} fails on a batch of {_BATCH} images: {_place(error)}") from error
            for name in scores.per_sample:
                if name in measured:
                    raise UserError(f"{where} and {measured[name]} both measure {name!r}; rename one")
                measured[name] = where


def random_output(config: RunConfig, model: torch.nn.Module) -> dict[str, Any]:
    """Normally distributed CPU tensors in the shapes of ``model``'s output for two images, ready for a gradient.

    Args:
        config: the run.
        model: on the meta device; its mode decides as usual.
    """
    images = torch.empty(_BATCH, 3, *height_and_width(config.model.image_size), device="meta")
    with torch.no_grad():
        shapes = {**model(images), "images": images}
    made: dict[str, Any] = _random_like(shapes)
    return made


def term_costs(config: RunConfig, model: torch.nn.Module) -> TermCosts:
    """What the terms of a run take beside the model.

    Args:
        config: the run.
        model: on the meta device, with a ``grid``.

    Raises:
        UserError: as ``build_terms``.
    """
    flops: dict[str, float] = {}
    terms = build_terms(config, model.grid, torch.device("cpu"))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for term in terms:
            if term.is_trained:
                term.prepare(model)
                flops[term.name] = term.training_flops(random_output(config, model))
    return TermCosts(flops, sum(term.held_bytes for term in terms))


def _trial(term: Term, output: dict[str, Any], epochs: float) -> TermScores:
    """Run a term forward and backward, and look at what it gives."""
    scores = term(output)
    if not isinstance(scores, TermScores):
        raise UserError(f"it must return TermScores, not {type(scores).__name__}")
    if scores.loss.ndim or not scores.loss.is_floating_point():
        raise UserError(
            f"its loss must be a floating-point scalar, not {scores.loss.dtype} of shape {tuple(scores.loss.shape)}"
        )
    if term.is_trained:
        leaves = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        gradients = torch.autograd.grad(scores.loss, leaves, allow_unused=True) if scores.loss.requires_grad else ()
        if all(gradient is None for gradient in gradients):
            raise UserError("its loss has no gradient; compute it from the model's output without detach() or item()")
    blocks = len(output["queries"])
    for name, values in scores.per_sample.items():
        shape = tuple(values.shape)
        if not _NAME.fullmatch(name):
            raise UserError(f"per_sample[{name!r}]: a name is lower-case letters, digits and underscores")
        if shape != (_BATCH,) and (shape[:2] != (_BATCH, blocks) or len(shape) != 3):
            raise UserError(f"per_sample[{name!r}] has shape {shape}; give (B,) or (B, blocks, heads)")
    for epoch in (0.0, epochs / 2, epochs):
        weight = term.weight(epoch)
        if not isinstance(weight, int | float) or not weight >= 0:
            raise UserError(f"its weight after {epoch:g} epochs is {weight!r}; give a number that is not negative")
    return scores


def _random_like(shapes: Any) -> Any:
    """Normally distributed CPU tensors in the shapes of an output, float32, ready for a gradient."""
    if isinstance(shapes, Tensor):
        return torch.randn(shapes.shape, requires_grad=True)
    if isinstance(shapes, tuple):  # the grid
        return shapes
    if isinstance(shapes, Mapping):
        return {name: _random_like(value) for name, value in shapes.items()}
    return [_random_like(value) for value in shapes]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
        return
    for value in output.values() if isinstance(output, Mapping) else output:
        if not isinstance(value, tuple):
            yield from _tensors(value)


def _place(error: Exception) -> str:
    """An error of a user's code in one line: what, and in which line of which file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
    return f"{described(error)}{at}"
