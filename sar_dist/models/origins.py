"""What a checkpoint's names and shapes tell of the model that it was saved from, where a strict load would not notice.

Weights of equal names and shapes may compute something else: with another number of heads, another activation, other patches
that a conversion would resample, images normalised by other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN
from timm.layers import QuickGELU
from timm.models import get_arch_pretrained_cfgs, split_model_name_tag
from torch import nn

from sar_dist.errors import UserError

_PATCHES = ("patch_embed.proj.weight", "conv1.weight", "visual.conv1.weight", "visual.trunk.patch_embed.proj.weight")
# Numbers that OpenAI's own CLIP files hold beside the weights, and other codes' files do not.
_OPENAI_CLIP = ("input_resolution", "context_length", "vocab_size")
_MOCO = "MoCo v3"
_MOCO_HEADS = {384: 12}  # by width, where it is not timm's
# Projects that normalise images by ImageNet's mean and standard deviation, by what they save beside a backbone.
_BESIDE = {
    "MAE": re.compile(r"decoder_"),
    "DINO": re.compile(r"head\.(mlp|last_layer)\."),
    "DINOv2": re.compile(r"(dino|ibot)_head\."),
}
_ADVICE = {
    "dist_token": "a distilled model's: choose a deit_..._distilled_... of timm",
    "fc_norm.": "of a model that averages its patches, which timm's models of that name do not by default: give an architecture with fc_norm",
    ".attn.q.": "query, key and value apart: join them into attn.qkv",
    ".attn.q_proj.": "query, key and value apart: join them into attn.qkv",
}


def project_of(names: Iterable[str], part: str) -> str:
    """The project whose layout this is, going by all names below ``part``; "" where nothing tells.

    Args:
        names: of the backbone, and of what lies beside it.
        part: where in the file the backbone was found.
    """
    if {"base_encoder", "momentum_encoder"} & set(part.split(".")):
        return _MOCO
    listed = tuple(names)
    return next((project for project, beside in _BESIDE.items() if any(map(beside.match, listed))), "")


def heads_of(project: str, width: int) -> int | None:
    """The heads of a project's model of this width, where they are not those of timm's models of that width."""
    return _MOCO_HEADS.get(width) if project == _MOCO else None


def check_origin(
    project: str, shapes: Mapping[str, tuple[int, ...]], left: Collection[str], vit: nn.Module, source: str
) -> None:
    """Refuse a model that would take weights without a word and compute something else than what was trained.

    Args:
        project: see ``project_of``.
        shapes: of the tensors by name, before any conversion.
        left: names of what else the file holds.
        vit: the model that is to have them.
        source: where they are from, for messages.

    Raises:
        UserError: it has other patches, another number of heads, or another activation.
    """
    known: Any = vit
    projection = getattr(
        getattr(known.patch_embed, "proj", None), "weight", None
    )  # a stem of several convolutions has none
    wanted = None if projection is None else tuple(projection.shape)[-2:]
    found = next((shapes[name] for name in _PATCHES if name in shapes), ())
    if wanted is not None and len(found) == 4 and found[-2:] != wanted:
        raise UserError(
            f"{source} has patches of {found[-2]}x{found[-1]} pixels, and the model patches of {wanted[0]}x{wanted[1]}: choose an "
            f"architecture with patches of {found[-1]} (model.patch_size={found[-1]} in training)"
        )
    attention = known.blocks[0].attn
    heads = heads_of(project, known.embed_dim)
    if heads is not None and attention.num_heads != heads:
        raise UserError(
            f"{source} has the layout of {project}, whose model of width {known.embed_dim} has {heads} heads, and the model has "
            f"{attention.num_heads}: set model.options.num_heads={heads} (weights of another code: save them without the prefix)"
        )
    quick = isinstance(getattr(known.blocks[0].mlp, "act", None), QuickGELU)
    if set(_OPENAI_CLIP) <= set(left) and not quick:
        name = str(known.pretrained_cfg["architecture"])
        variant = name.replace("_clip_", "_clip_quickgelu_")
        advice = variant if timm.is_model(variant) else "an architecture of timm with quickgelu in its name"
        raise UserError(
            f"{source} is OpenAI's CLIP, which was trained with QuickGELU, and {name} has GELU: give {advice}"
        )


def remark_on_activation(shapes: Mapping[str, tuple[int, ...]], left: Collection[str], vit: nn.Module) -> str:
    """What to say of CLIP's weights, which do not tell by which activation they were trained; "" of others."""
    known: Any = vit
    if not any(name.startswith("visual.transformer.") for name in shapes) or set(_OPENAI_CLIP) <= set(left):
        return ""
    quick = isinstance(getattr(known.blocks[0].mlp, "act", None), QuickGELU)
    has, other = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    return f"; {has} as in {known.pretrained_cfg['architecture']}, though nothing in a file of CLIP says whether it was {other}"


def remark_on_normalisation(project: str, name: str, mean: tuple[float, ...]) -> str:
    """A warning where a project's images were normalised by ImageNet's mean and timm's model ``name`` has ``mean``; "" else."""
    if not project or tuple(mean) == IMAGENET_DEFAULT_MEAN:
        return ""
    other = _with_imagenet_mean(name, project)
    advice = f"give timm:{other}:FILE" if other else "give an architecture of timm with ImageNet's"
    return (
        f"warning: the layout is that of {project}, which normalises images by ImageNet's mean and standard deviation, and timm's {name} by "
        f"mean {', '.join(f'{value:g}' for value in mean)}: {advice}"
    )


def _with_imagenet_mean(name: str, project: str) -> str:
    """A name in timm of the same architecture whose images are normalised by ImageNet's mean; "" where there is none."""
    architecture, _ = split_model_name_tag(name)
    words = project.lower().split()
    tags = [
        name
        for name, config in get_arch_pretrained_cfgs(architecture).items()
        if tuple(config.mean) == IMAGENET_DEFAULT_MEAN
    ]
    tags.sort(key=lambda name: name.rpartition(".")[2] not in words)
    deit = architecture.replace("vit_", "deit_", 1)
    return next(iter([*tags, *([deit] if deit != architecture and timm.is_model(deit) else [])]), "")


def advice_on(names: Iterable[str]) -> str:
    """What to do about names that a model lacks or has too many of, as the end of a message; "" where nothing is known."""
    listed = tuple(names)
    return next((f" ({advice})" for part, advice in _ADVICE.items() if any(part in name for name in listed)), "")
