"""Exporting a run's weights in the layout of timm's model hub: ``model.safetensors`` and ``config.json``.

The weights go from the checkpoint's shards to the file tensor by tensor, so that a model's size in memory does not
matter. The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sar_dist import __version__
from sar_dist.checkpoint import (
    CheckpointReader,
    DamagedCheckpoint,
    FileRecord,
    TensorKind,
)
from sar_dist.config import ModelSettings, RunConfig, height_and_width
from sar_dist.errors import UserError
from sar_dist.files import atomic_folder, check_space, remove_leftovers
from sar_dist.models.build import model_on_meta
from sar_dist.models.families import TimmViT, import_model
from sar_dist.models.registered import NO_SKIP_ARCHITECTURE
from sar_dist.models.weights import (
    CONFIG_FILE,
    LABEL_NAMES_KEY,
    PROVENANCE_KEY,
    WEIGHTS_FILE,
    open_run,
    read_export_config,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_SPARE_BYTES = 1 << 20  # for the header and config.json
_MAPPED_BYTES = 1 << 27  # read from the checkpoint before its files are opened anew


@dataclass(frozen=True)
class Export:
    """An export that is on disk.

    Attributes:
        folder: where.
        config: the content of its config.json.
        written: False if the same export was there already.
    """

    folder: Path
    config: dict[str, Any]
    written: bool


def export_run(
    run: Path, out: Path, *, step: int | None = None, ema: bool | None = None, dtype: torch.dtype = torch.float32
) -> Export:
    """Write the weights of a run, saved under any ZeRO stage by any number of processes, to the folder ``out``.

    Args:
        run: run directory, or one of its checkpoint folders.
        out: folder to create; one that holds the same export already is left as it is.
        step: the checkpoint after this optimizer step; None takes the newest intact one.
        ema: the moving average of the weights rather than the live ones; None takes the average if the run kept one.
        dtype: of the stored tensors: one of ``DTYPES``.

    Raises:
        UserError: no such run, step or average; ``out`` holds something else; weights that are not finite, or not in
            ``dtype``; no room.
    """
    config, reader = open_run(run, step)
    use_ema = reader.has_ema if ema is None else ema
    if use_ema and not reader.has_ema:
        raise UserError(f"{run} kept no moving average of its weights (optim.ema); export the live ones with --live")
    vit = model_on_meta(config.model, config.regularizer).vit
    hub = hub_config(config, vit) | {PROVENANCE_KEY: _provenance(config, reader, use_ema, dtype)}
    names = reader.manifest.classes
    if names is not None:
        every = range(config.model.num_classes)
        hub[LABEL_NAMES_KEY] = [names[label] if label < len(names) else f"class {label}" for label in every]
    hub = json.loads(json.dumps(hub))  # tuples become lists, as in an export that is read back
    try:
        reader.check_shapes({name: tuple(tensor.shape) for name, tensor in vit.state_dict().items()})
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            return Export(out, _existing_export(out, hub), written=False)
        needed = sum(map(math.prod, reader.shapes.values())) * dtype.itemsize + _SPARE_BYTES
        check_space(out.absolute().parent, needed, "the export takes", "free some space or choose another folder")
        remove_leftovers(out.resolve())
        with atomic_folder(out) as folder:
            digest = _write_safetensors(folder / WEIGHTS_FILE, reader, "ema" if use_ema else "master", dtype)
            hub[PROVENANCE_KEY]["weights_sha256"] = digest
            (folder / CONFIG_FILE).write_text(json.dumps(hub, indent=2) + "\n")
    except DamagedCheckpoint as damage:
        raise UserError(str(damage)) from damage
    except OSError as error:
        raise UserError(f"cannot export to {out}: {error.strerror or error}") from error
    return Export(out, hub, written=True)


def hub_config(config: RunConfig, vit: TimmViT) -> dict[str, Any]:
    """What timm needs to know to build and feed the model: its hub's ``config.json``.

    Args:
        config: of the run.
        vit: the model, which may be on the meta device.
    """
    augment, traits = config.augment, cast("dict[str, Any]", vit.pretrained_cfg)
    hub = hub_architecture(config.model, vit)
    hub["pretrained_cfg"] |= {
        "custom_load": False,
        "fixed_input_size": traits["fixed_input_size"],
        "interpolation": augment.interpolation,
        "crop_pct": augment.crop_fraction,
        "crop_mode": augment.crop_mode,
        "mean": augment.mean,
        "std": augment.std,
        "pool_size": None,
        "first_conv": traits["first_conv"],
        "classifier": traits["classifier"],
    }
    return hub


def hub_architecture(model: ModelSettings, vit: TimmViT) -> dict[str, Any]:
    """The part of ``hub_config`` that says what the weights are of, from the model's settings and the model they build."""
    base = import_model(model.name).split(".")[0]  # without the tag of pretrained weights
    arguments = {name: value for name, value in model.options.items() if not name.endswith("drop_rate")}
    arguments["img_size"] = model.image_size  # not the number of classes: transformers passes it beside these
    if model.patch_size is not None:
        arguments["patch_size"] = model.patch_size
    if model.no_skip_last_block:
        arguments["base"] = base
    return {
        "architecture": NO_SKIP_ARCHITECTURE if model.no_skip_last_block else base,
        "num_classes": model.num_classes,
        "num_features": vit.num_features,
        "global_pool": vit.global_pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, *height_and_width(model.image_size)],
            "num_classes": model.num_classes,
        },
    }


def _provenance(config: RunConfig, reader: CheckpointReader, ema: bool, dtype: torch.dtype) -> dict[str, Any]:
    """Where the weights come from; timm does not look at it."""
    return {
        "version": __version__,
        "run": config.run.name,
        "step": reader.step,
        "ema": ema,
        "dtype": str(dtype).removeprefix("torch."),
        "checkpoint_digest": reader.manifest.digest,
        "model": config.model.model_dump(mode="json", exclude={"init_from"}),  # which may be a private path
        "regularizer": config.regularizer.model_dump(mode="json"),
    }


def _existing_export(out: Path, hub: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the export in ``out``, if it is the one that ``hub`` describes."""
    if not (out / CONFIG_FILE).is_file() or not (out / WEIGHTS_FILE).is_file():
        raise UserError(f"{out} exists and is no export; choose another folder")
    present = read_export_config(out)
    provenance = present.get(PROVENANCE_KEY)
    digest = provenance.get("weights_sha256") if isinstance(provenance, dict) else None
    if present != hub | {PROVENANCE_KEY: hub[PROVENANCE_KEY] | {"weights_sha256": digest}}:
        raise UserError(f"{out} holds another export; choose another folder or remove it")
    if FileRecord.of(out / WEIGHTS_FILE).sha256 != digest:
        raise UserError(f"{out / WEIGHTS_FILE} has changed since it was exported; remove {out}")
    return present


def _write_safetensors(path: Path, reader: CheckpointReader, kind: TensorKind, dtype: torch.dtype) -> str:
    """Write every parameter and return the file's SHA-256.

    The library's own writer needs all tensors at once. The format: length of the header (8 bytes, little-endian), a
    JSON header padded to a multiple of 8 bytes, then the tensors without gaps (documentation of safetensors).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in reader.shapes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    digest = hashlib.sha256()
    with path.open("xb") as stream:

        def write(data: Any) -> None:
            stream.write(data)
            digest.update(data)

        write(len(encoded).to_bytes(8, "little"))
        write(encoded)
        for name, parameter in _parameters(reader, kind):
            tensor = parameter.to(dtype)
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{name} of {reader.folder} has values that are not finite in {dtype}; export an earlier --step, "
                    "or float32 or bfloat16 if it is finite there"
                )
            write(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _parameters(reader: CheckpointReader, kind: TensorKind) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name. What was read of a mapped file counts as memory of this process until it is closed."""
    opened, mapped = reader, 0
    for name in reader.shapes:
        if mapped > _MAPPED_BYTES:
            opened, mapped = CheckpointReader(reader.folder, reader.manifest), 0
        parameter = opened.parameter(name, kind)
        mapped += parameter.nbytes
        yield name, parameter
