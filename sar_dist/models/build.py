"""A model from its settings, and its parameters in optimizer groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from sar_dist.config import ModelSettings, RegularizerSettings, height_and_width, size_text
from sar_dist.errors import UserError, first_line, shortened
from sar_dist.models.attention_tap import TappedVisionTransformer
from sar_dist.models.families import TimmViT, import_model, is_known_model, is_tappable
from sar_dist.models.nearest import nearest_models
from sar_dist.models.patch_projection import project_linearly

# Arguments of timm.create_model and its pretrained models, rather than of a model.
_OF_THE_BUILDER = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir"),
    *("scriptable", "exportable", "no_jit", "features_only", "out_indices", "feature_cfg"),
}
_SIZES = {"depth": 1000, "num_heads": 10_000, "embed_dim": 1_000_000}


def build_model(
    model: ModelSettings, regularizer: RegularizerSettings, *, activation_checkpointing: bool = False, seed: int = 0
) -> TappedVisionTransformer:
    """Construct the model with timm's own initialisation; the random state is the caller's.

    Args:
        model, regularizer: its settings.
        activation_checkpointing: recompute each block's activations in the backward pass.
        seed: of what stochastic depth drops in training.

    Raises:
        UserError: no such timm model, not a VisionTransformer, or settings that it does not accept.
    """
    vit = _build_vit(model)
    if model.patch_projection == "linear":
        project_linearly(vit.patch_embed)
    return TappedVisionTransformer(
        vit,
        blocks=regularizer.blocks,
        query=regularizer.query,
        no_skip_last_block=model.no_skip_last_block,
        activation_checkpointing=activation_checkpointing,
        drop_path=model.drop_path,
        skip_dropped=model.skip_dropped,
        seed=seed,
    )


def model_on_meta(model: ModelSettings, regularizer: RegularizerSettings) -> TappedVisionTransformer:
    """Build the model without memory for its weights and run it once, which finds the errors of its settings.

    Raises:
        UserError: as ``build_model``, or the built model does not classify images of this size.
    """
    with torch.device("meta"):
        built = build_model(model, regularizer)
        images = torch.empty(2, 3, *height_and_width(model.image_size))
    try:
        with torch.no_grad():
            shape = tuple(built.eval()(images)["logits"].shape)
    except Exception as error:  # the options reach any code of timm
        raise UserError(
            f"{model.name} with model.options={model.options} cannot classify colour images: {_reason(error)}"
        ) from error
    for side in sorted(set(model.train_sizes or ())):
        _check_size(built, side)
    if shape != (2, model.num_classes):
        raise UserError(
            f"{model.name} with model.options={model.options} gives logits of shape {shape} for 2 images, not "
            f"(2, {model.num_classes}); leave out model.options.global_pool"
        )
    return built.train()


def _check_size(model: TappedVisionTransformer, side: int) -> None:
    """Run a model on the meta device on images of another size than its own.

    Raises:
        UserError: it cannot take them.
    """
    patch: int = model.vit.patch_embed.patch_size[0]
    if side % patch:
        raise UserError(
            f"model.train_sizes: {side} is not divisible by the patch size {patch}; use {_multiples(side, patch)}"
        )
    try:
        with torch.no_grad(), torch.device("meta"):
            model(torch.empty(2, 3, side, side))
    except Exception as error:  # the options reach any code of timm
        raise UserError(
            f"model.train_sizes: the model cannot take images of {side} pixels: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong as one line, with the name of the exception: some of them hold a mere word."""
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def parameter_groups(vit: TimmViT, *, lr: float, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Optimizer groups: no decay on biases, norms, tokens and position embedding; learning rate decayed by depth.

    Args:
        vit: the plain timm model.
        lr: learning rate of the head; every group carries its own, pre-multiplied, ``lr``.
        weight_decay: decay of the matrices.
        layer_decay: block i of L has ``lr * layer_decay ** (L + 1 - i)`` with i counted from 1, the embeddings i = 0
            (BEiT, https://arxiv.org/abs/2106.08254, as in timm).
    """
    unregularized = vit.no_weight_decay()
    if layer_decay == 1.0:
        groups = param_groups_weight_decay(vit, weight_decay, no_weight_decay_list=unregularized)
    else:
        groups = param_groups_layer_decay(
            vit, weight_decay, no_weight_decay_list=unregularized, layer_decay=layer_decay
        )
    return [
        {"params": list(group["params"]), "weight_decay": group["weight_decay"], "lr": lr * group.get("lr_scale", 1.0)}
        for group in groups
        if group["params"]
    ]


def block_matrices(vit: TimmViT) -> dict[str, nn.Parameter]:
    """The weights of the linear layers in blocks, by name: what Muon treats as matrices."""
    weights = {id(layer.weight) for layer in vit.blocks.modules() if isinstance(layer, nn.Linear)}
    return {name: parameter for name, parameter in vit.named_parameters() if id(parameter) in weights}


def _known(name: str, model: nn.Module) -> TimmViT:
    """The model itself, if it can be tapped.

    Raises:
        UserError: it is no Vision Transformer of a registered family; the message names the nearest timm model that is.
    """
    if is_tappable(model):
        return model
    blocks: Any = getattr(model, "blocks", ())
    what = f"a {type(model).__name__}, which has no row of one attention over all patches to tap"
    if is_known_model(model) and len(blocks):
        what = f"made of {type(blocks[0]).__name__}, which the attention tap does not know"
    raise UserError(f"model.name={name!r} is {what}; the nearest that can be trained: {nearest_models(name)}")


def _build_vit(model: ModelSettings) -> TimmViT:
    name = import_model(model.name)
    if not timm.is_model(name):
        raise UserError(f"model.name={model.name!r} is not a timm model; did you mean {nearest_models(name)}?")
    _check_options(model.options)
    options = dict(model.options)
    if model.patch_size is not None:
        options["patch_size"] = model.patch_size
    if model.train_sizes is not None:  # the position embedding has the grid of image_size, and is resampled to others
        options["dynamic_img_size"] = True
    try:
        built = timm.create_model(
            name,
            pretrained=False,
            img_size=model.image_size,
            num_classes=model.num_classes,
            **options,
        )
    except Exception as error:  # the options reach any code of timm: KeyError, ZeroDivisionError, FileNotFoundError ...
        _refuse_other_kind(name)
        raise UserError(
            f"timm cannot build {model.name} with model.options={model.options}: {shortened(_reason(error))}"
        ) from error
    vit = _known(name, built)
    patch: int = vit.patch_embed.patch_size[0]
    for side in height_and_width(model.image_size):
        if side % patch:
            raise UserError(
                f"model.image_size={size_text(model.image_size)} is not divisible by the patch size {patch}; "
                f"use {_multiples(side, patch)}{'' if isinstance(model.image_size, int) else f' for {side}'}"
            )
    if not isinstance(getattr(vit, "patch_drop", None), nn.Identity | None):
        raise UserError(
            "model.options.patch_drop_rate drops patches, without which there is no map to regularize; leave it out"
        )
    return vit


def _multiples(side: int, patch: int) -> str:
    """The sizes next to ``side`` that patches of ``patch`` pixels fill."""
    below = side // patch * patch
    return f"{below} or {below + patch}" if below else str(patch)


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse what timm's builder would take for itself, and sizes that it would build without end.

    Raises:
        UserError: an option is no argument of an architecture, or not one that a model can have.
    """
    for name in _OF_THE_BUILDER & options.keys():
        raise UserError(
            f"model.options.{name} is no argument of an architecture; leave it out (weights come from model.init_from)"
        )
    for name, largest in _SIZES.items():
        value = options.get(name, 1)
        if type(value) is not int or not 1 <= value <= largest:
            raise UserError(f"model.options.{name}={value!r}: should be a whole number from 1 to {largest}")


def _refuse_other_kind(name: str) -> None:
    """What cannot be built with a ViT's arguments may be no ViT: say that, rather than what its constructor says."""
    with torch.device("meta"):
        try:
            model = timm.create_model(name)
        except Exception:  # noqa: BLE001 - it needs arguments; the caller's error says which
            return
    _known(name, model)
