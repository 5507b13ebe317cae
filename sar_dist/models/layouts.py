"""Where a checkpoint of others keeps the weights of its Vision Transformer, and under which names.

Training codes save more than a backbone: a teacher beside a student, a text tower, projection heads, decoders. What is
known here is found by its names: which part is the backbone, and what of the rest may be left. Renaming inside of the
backbone (DINOv2, DINOv3, CLIP, EVA) is done by timm's own conversion. Nothing else is dropped: a name that is unknown stays,
and a strict load refuses it.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sar_dist.errors import UserError
from sar_dist.output import warn

# Sub-dictionaries, in the order of preference: timm's; DINO's and DINOv2's, of which both evaluate the teacher; EVA's.
_FEW = 12
PARTS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "module")
# Prefixes of a backbone: MoCo v3, which evaluates base_encoder; DINO and DINOv2/3.
PREFIXES = ("base_encoder.", "momentum_encoder.", "backbone.")
_LIVE = ("state_dict", "model")
_AVERAGE = re.compile(r"(^|_)(ema|swa|average|averaged)(_|$)", re.IGNORECASE)
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile

# What pre-training needs and a backbone does not, by the project that saves it.
_LEFT = re.compile(
    r"head\.(mlp|last_layer)\.|(dino|ibot)_head\."  # DINO, DINOv2, DINOv3: projection heads
    r"|decoder_|local_cls_norm\.|rope_embed\.periods$|.*\.attn\.qkv\.bias_mask$"  # MAE, DINOv3
    r"|head\.\d+\.|predictor\."  # MoCo v3: projector and predictor
    r"|n_averaged$"  # torch.optim.swa_utils.AveragedModel: how many models the average is of
)
_TEXT = re.compile(
    r"logit_scale$|logit_bias$|transformer\.|token_embedding\.|ln_final\.|text|positional_embedding$"
    r"|input_resolution$|context_length$|vocab_size$"
)  # CLIP
# Names that timm's own conversion changes or drops.
_CONVERTED = re.compile(
    r"storage_tokens$|register_tokens$|mask_token$|visual\.|conv1\.weight$|.*\.ls1\.gamma$|.*\.mlp\.w\d+\."
)


def find_part(content: Any, part: str, source: str) -> tuple[dict[str, Tensor], str]:
    """The state dict in what a checkpoint file holds, and the names of the dictionaries that it lies in.

    Args:
        content: dictionaries in dictionaries, with tensors at the end.
        part: what the user chose, dictionaries and prefixes separated by dots, such as "teacher" or
            "state_dict.momentum_encoder"; "" to find it.
        source: of the file, for messages.

    Raises:
        UserError: there is no such part, or no state dict.
    """
    path: list[str] = []
    there: list[str] = []
    wanted = [name for name in part.split(".") if name]
    while isinstance(content, dict):
        dictionaries = [name for name, value in content.items() if isinstance(value, dict)]
        there += [".".join([*path, str(name)]) for name in dictionaries]
        if wanted and wanted[0] in dictionaries:
            name = wanted.pop(0)
        else:
            name = next((known for known in PARTS if known in dictionaries), "")
        if not name:
            break
        averages = [other for other in dictionaries if other != name and _AVERAGE.search(str(other))]
        if averages and name in _LIVE and not part:
            warn(
                f"warning: {source}: {name} is taken, not {averages[0]}, which is called like an average; {source}#{averages[0]} takes that"
            )
        path.append(name)
        content = content[name]
    if not isinstance(content, dict) or not all(map(_is_entry, content, content.values())):
        parts = f"; {source}#PART takes another of its parts: {', '.join(there[:_FEW])}" if there else ""
        raise UserError(f"{source} holds no state dict: neither at its top nor as {', '.join(PARTS)}{parts}")
    for key, value in content.items():
        if value.layout is not torch.strided or value.is_meta:
            raise UserError(
                f"{source}: {key} holds no plain tensor ({value.layout}, on {value.device}); save it as one"
            )
    return with_part(content, ".".join(wanted), source, there), ".".join(path)


def _is_entry(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def with_part(names: Mapping[str, Any], part: str, source: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """Only the entries below the prefix that the user chose, if they chose one, without wrappers' prefixes.

    ``others`` are what could have been chosen besides, for the message.

    Raises:
        UserError: there is no such prefix; the message says which there are.
    """
    if part and any(name.startswith(f"{part}.") for name in names):
        return _distinct(
            ((name[len(part) + 1 :], v) for name, v in names.items() if name.startswith(f"{part}.")), source
        )
    unwrapped = _distinct(names.items(), source)
    if not part:
        return unwrapped
    found = _distinct(
        ((name[len(part) + 1 :], v) for name, v in unwrapped.items() if name.startswith(f"{part}.")), source
    )
    if not found:
        there = [*others, *sorted({name.partition(".")[0] for name in unwrapped})]
        raise UserError(f"{source} has no part {part!r}; it has {', '.join(there[:_FEW])}")
    return found


def _distinct(entries: Iterable[tuple[str, Any]], source: str) -> dict[str, Any]:
    """The entries without wrappers' prefixes. Raises UserError if two have one name then: one would replace the other."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in entries:
        first, _ = found.setdefault(_unwrapped(name), (name, value))
        if first != name:
            raise UserError(_twice(source, first, name))
    return {name: value for name, (_, value) in found.items()}


def _twice(source: str, first: str, second: str) -> str:
    longer = max(first, second, key=len)
    prefix = longer.removesuffix(min(first, second, key=len)).rstrip(".")
    choice = f"; {source}#{prefix} takes the latter" if prefix and longer == second else ""
    return f"{source} has two sets of weights in one: {first} and {second}{choice}; save the wanted ones alone"


def backbone_of(names: Mapping[str, Any], source: str) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """The backbone's entries by their own names, the names of those that are left, and the prefix of the backbone.

    Raises:
        UserError: a tensor of the backbone is there twice, with the prefix and without.
    """
    prefix = next((known for known in PREFIXES if any(name.startswith(f"{known}patch_embed.") for name in names)), "")
    has_text = any(name.startswith("visual.") for name in names)
    taken: dict[str, Any] = {}
    left: list[str] = []
    for name, value in names.items():
        inner = name.removeprefix(prefix)
        another = inner == name and prefix != "" and name.startswith(PREFIXES)
        if another or _LEFT.match(inner) or (has_text and _TEXT.match(name)):
            left.append(name)
        elif inner in taken:
            raise UserError(_twice(source, *sorted((name, inner), key=len)))
        else:
            taken[inner] = value
    return taken, tuple(left), prefix.removesuffix(".")


def needs_conversion(names: Iterable[str], own: Collection[str]) -> bool:
    """Whether timm would rename or drop some of these before it loads them into a model whose own names are ``own``."""
    return any(_CONVERTED.match(name) for name in names if name not in own)


def check_layout(names: Collection[str], own: Collection[str], source: str) -> None:
    """Refuse names of which the model has none, as another library's, rather than list them all.

    Raises:
        UserError: the message names the nearest layout that is known, and the parts that the file has.
    """
    if not names or any(name in own for name in names):
        return
    known = {
        "timm, DeiT and MAE": "blocks.0.attn.qkv.weight",
        "CLIP": "visual.transformer.resblocks.0.attn.in_proj_weight",
    }
    known |= {f"a backbone below {prefix}": f"{prefix}blocks.0.attn.qkv.weight" for prefix in PREFIXES}
    example = max(names, key=lambda name: name.count("."))
    nearest = max(known, key=lambda layout: difflib.SequenceMatcher(None, example, known[layout]).ratio())
    parts = ", ".join(sorted({name.partition(".")[0] for name in names})[:6])
    raise UserError(
        f"{source} has no layout that is known here: it has {example} where {nearest}, the nearest, has {known[nearest]}; "
        f"rename its tensors, or choose another part with FILE#PART (there are {parts})"
    )


def convert(
    tensors: dict[str, Tensor], vit: nn.Module, source: str
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """timm's own conversion for the class of ``vit``, the names of the tensors that it leaves out, and of those that it resamples.

    Raises:
        UserError: it leaves out biases of the attention that the model lacks, and that are not zero.
    """
    fit = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    if fit is None:
        return tensors, (), ()
    with contextlib.redirect_stdout(io.StringIO()):  # where it prints that a bias has no place
        converted: dict[str, Tensor] = fit(dict(tensors), vit)
    used = {tensor.untyped_storage().data_ptr() for tensor in converted.values()}
    left = [n for n, value in tensors.items() if n not in converted and value.untyped_storage().data_ptr() not in used]
    # With registers, DINOv2's position of [CLS] is added to the token: both go on under other numbers.
    stored = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    resampled = tuple(
        name
        for name, value in converted.items()
        if name == "pos_embed" and value.untyped_storage().data_ptr() not in stored
    )
    left = [name for name in left if name.rpartition(".")[2] not in ("cls_token", "pos_embed", "positional_embedding")]
    for name in left:
        if name.endswith("qkv.bias") and tensors[name].count_nonzero():
            raise UserError(
                f"{source}: {name} is not zero and the model has no such bias; choose its variant with _qkvb"
            )
    return converted, tuple(left), resampled


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name
