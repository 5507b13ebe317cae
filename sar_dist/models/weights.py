"""Named weights from a run, an export, a file of somebody else's or timm, read without running anything in it.

Runs, exports and .safetensors files hold numbers only and are read tensor by tensor. A .pth or .pt file is a pickle,
which is a program: it is read by torch's restricted unpickler, which builds tensors and plain containers and refuses
everything else.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg
from torch import Tensor, nn

from sar_dist.checkpoint import (
    MANIFEST,
    CheckpointReader,
    DamagedCheckpoint,
    FileRecord,
    complete_checkpoints,
    recorded_run_id,
    step_of,
    verify_own,
)
from sar_dist.config import RunConfig, load_config
from sar_dist.errors import UserError, in_brief, text_of
from sar_dist.models.hub_access import hub_asked_once
from sar_dist.models.layouts import backbone_of, check_layout, convert, find_part, needs_conversion, with_part
from sar_dist.models.origins import check_origin, project_of, remark_on_activation
from sar_dist.output import warn

SOURCE_HELP = "a run or export directory, a .safetensors, .pth or .pt file (or FILE#PART), or timm:NAME"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PROVENANCE_KEY = "sar_dist"
LABEL_NAMES_KEY = "label_names"  # in an export's config.json, where timm looks for them
_MAX_CONFIG_BYTES = 1 << 24  # with a million class names
_UNKNOWN_TYPE = re.compile(r"Unsupported global: GLOBAL (\S+)")  # in what torch.load says
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True)
class NamedWeights:
    """Weights by timm's parameter names.

    Attributes:
        description: where they come from, for messages.
        shapes: shape of each tensor by name.
        read: gives one tensor, on the CPU. It may raise UserError.
        left: names of what else the source holds, known not to belong to the backbone.
        project: whose layout it is, see ``project_of``; "" where nothing tells.
        resampled: names of what was interpolated to the model's grid of patches.
        remark: what else is to be said of them, as the end of a message.
    """

    description: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    left: tuple[str, ...] = ()
    project: str = ""
    resampled: tuple[str, ...] = ()
    remark: str = ""

    @property
    def left_out(self) -> str:
        """What was left, as the end of a message; "" if nothing was."""
        groups = sorted({name.rpartition(".")[0] or name for name in self.left})
        more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
        left = f"; left {len(self.left)} tensors: {', '.join(groups[:3])}{more}" if groups else ""
        return left + self.remark

    def floating(self, name: str) -> Tensor:
        """One tensor of floating-point numbers, as ``read`` gives it.

        Raises:
            UserError: it holds integers, as quantised weights do: without their scales they compute another function.
        """
        tensor = self.read(name)
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{name} of {self.description} does not hold floating-point numbers but {kind}: quantised weights "
                "cannot be used here, give those of float32, float16 or bfloat16"
            )
        return tensor

    def fitted(self, vit: nn.Module) -> NamedWeights:
        """These weights under the names of ``vit``, which may be on the meta device, by timm's own conversion.

        Raises:
            UserError: a tensor cannot be had, or has no place in the model; or the model would compute something else with them, see
                ``check_origin``.
        """
        own = vit.state_dict().keys()
        check_origin(self.project, self.shapes, self.left, vit, self.description)
        if not needs_conversion(self.shapes, own):
            check_layout(self.shapes.keys(), own, self.description)
            return self
        tensors, left, resampled = convert({name: self.read(name) for name in self.shapes}, vit, self.description)
        remark = remark_on_activation(self.shapes, self.left, vit)
        every = (*self.left, *left)
        return NamedWeights(
            self.description, _shapes(tensors), tensors.__getitem__, every, self.project, resampled, remark
        )


def open_weights(source: str) -> NamedWeights:
    """Open ``source``, one of ``SOURCE_HELP``, after a check that it is intact where it carries hashes.

    A run's newest intact checkpoint counts, with the moving average of the weights where it kept one. timm downloads
    when the first tensor is read.

    Raises:
        UserError: there is nothing such, it is damaged, or reading it would run code.
    """
    if source.startswith("timm:"):
        return _timm_weights(source.removeprefix("timm:"))
    path, part = Path(source), ""
    if not path.exists() and "#" in source:
        file, _, part = source.rpartition("#")
        path = Path(file)
        if path.is_dir():
            raise UserError(f"{source}: #{part} chooses a part of a weight file, and {path} is a folder; give {path}")
    if (path / WEIGHTS_FILE).is_file():
        _check_export(path)
        return _safetensors_weights(path / WEIGHTS_FILE)
    if path.is_dir():
        return _run_weights(path)
    if not path.is_file():
        raise UserError(f"there is no {path}; give {SOURCE_HELP}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors" or suffix in _PICKLES:
        _check_download(path)
        return _safetensors_weights(path, part) if suffix == ".safetensors" else _pickled_weights(path, part)
    raise UserError(f"{path} has no known kind of weights; give {SOURCE_HELP}")


def _check_download(path: Path) -> None:
    """Raise UserError if a file is what a failed download leaves in the place of weights."""
    with path.open("rb") as file:
        begin = file.read(64).lstrip()
    if not begin:
        raise UserError(f"{path} is empty; download it again")
    if begin.startswith(b"<"):
        raise UserError(f"{path} is a web page, not weights; download the file itself")
    if begin.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not weights; fetch the file with `git lfs pull`")


def open_run(path: Path, step: int | None = None) -> tuple[RunConfig, CheckpointReader]:
    """Configuration and checkpoint of a run, or of one of its checkpoint folders.

    Args:
        path: ``runs/NAME`` or ``runs/NAME/checkpoints/step_00001000``.
        step: the checkpoint after this optimizer step; None takes the newest intact one.

    Raises:
        UserError: no run there, no such checkpoint, or none that is intact and this run's own.
    """
    is_checkpoint = (path / MANIFEST).is_file()
    run = path.resolve().parent.parent if is_checkpoint else path
    if not (run / CONFIG_FILE).is_file() or (run / WEIGHTS_FILE).exists():
        raise UserError(f"{path} is no run directory (with a {CONFIG_FILE} and checkpoints)")
    config = load_config(run / CONFIG_FILE)
    folders = [path] if is_checkpoint else complete_checkpoints(run / "checkpoints")
    if not folders:
        raise UserError(f"{run} has no finished checkpoint yet")
    if step is not None:
        steps = {step_of(folder): folder for folder in folders}
        if step not in steps:
            raise UserError(f"{path} has no checkpoint of step {step}; it has {', '.join(map(str, sorted(steps)))}")
        folders = [steps[step]]
    root = path.resolve().parent if is_checkpoint else run / "checkpoints"
    try:
        run_id = recorded_run_id(root)
    except OSError as error:
        raise UserError(
            f"{root / 'run_id'}: {error.strerror or error}; repair it, or remove it to do without"
        ) from error
    problem = ""
    for folder in folders:
        try:
            return config, CheckpointReader(folder, verify_own(folder, run_id))
        except DamagedCheckpoint as damage:
            problem = str(damage)
            warn(f"warning: skipping a damaged checkpoint: {damage}")
    if step is not None:
        raise UserError(
            f"the checkpoint of step {step} of {path} is not intact: {problem}; give another step, or none for the newest one that is"
        )
    raise UserError(f"no checkpoint of {path} is intact: {problem}")


def is_weight_file(path: Path) -> bool:
    """Whether a file is called like weights that ``open_weights`` reads."""
    return path.is_file() and path.suffix.lower() in (".safetensors", *_PICKLES)


def class_names(recorded: Any) -> tuple[str, ...] | None:
    """The class names by label that a checkpoint or an export recorded; None where it did not."""
    known = isinstance(recorded, list) and all(isinstance(name, str) for name in recorded)
    return tuple(recorded) if known and recorded else None


def read_export_config(folder: Path) -> dict[str, Any]:
    """The config.json of an export, or of another folder in timm's layout.

    Raises:
        UserError: it cannot be read.
    """
    try:
        size = (folder / CONFIG_FILE).stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise UserError(f"{folder / CONFIG_FILE}: {size} bytes are no configuration (at most {_MAX_CONFIG_BYTES})")
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise UserError(f"{folder / CONFIG_FILE} is nested too deeply for the configuration of an export") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG_FILE} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG_FILE} is not the configuration of an export")
    return config


def _check_export(folder: Path) -> None:
    """Compare an export's weights with their hash; a folder that is not ours, or has no config, carries none."""
    if not (folder / CONFIG_FILE).is_file():
        return
    provenance = read_export_config(folder).get(PROVENANCE_KEY)
    expected = provenance.get("weights_sha256") if isinstance(provenance, dict) else None
    if expected is not None and FileRecord.of(folder / WEIGHTS_FILE).sha256 != expected:
        raise UserError(f"{folder / WEIGHTS_FILE} has changed since it was exported; export it again")


def _run_weights(path: Path) -> NamedWeights:
    config, reader = open_run(path)
    kind = "moving average of the weights" if reader.has_ema else "weights"

    def read(name: str) -> Tensor:
        try:
            return reader.parameter(name, "ema" if reader.has_ema else "master")
        except DamagedCheckpoint as damage:
            raise UserError(str(damage)) from damage

    return NamedWeights(f"{config.run.name}, {kind} after step {reader.step}", reader.shapes, read)


# What training scripts store beside the weights: their arguments, and numbers of NumPy, such as the best accuracy.
_NUMBERS = [getattr(np.dtypes, f"{kind}DType") for kind in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64")]
_HARMLESS: list[Any] = [
    *(argparse.Namespace, np.dtype, *_NUMBERS),
    *(
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
    ),  # as NumPy 1 and 2 call it
]


def _safetensors_weights(path: Path, part: str = "") -> NamedWeights:
    try:
        file = safe_open(path, framework="pt")
        every = with_part({name: name for name in file.keys()}, part, str(path))  # noqa: SIM118 - it is no dictionary
        stored, left, prefix = backbone_of(every, str(path))
        shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in stored.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not an intact .safetensors file: {text_of(error)}") from error
    project = project_of((*shapes, *left), f"{part}.{prefix}")
    return NamedWeights(
        _described(path, part, prefix), shapes, lambda name: file.get_tensor(stored[name]), left, project
    )


def _pickled_weights(path: Path, part: str = "") -> NamedWeights:
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        held = _UNKNOWN_TYPE.search(text_of(error))
        if held is not None:
            raise UserError(
                f"{path} is a pickle that could run code: it holds a {held[1]}, and not tensors alone; save its weights alone where that "
                "cannot hurt: of a whole model torch.save(torch.load(..., weights_only=False).state_dict(), ...), of a dictionary the part "
                "with the weights"
            ) from error
        raise UserError(
            f"{path} is damaged, or a pickle that could run code ({_first_sentence(error)}); get its weights as .safetensors, or "
            "convert it where that cannot hurt: safetensors.torch.save_file(torch.load(..., weights_only=False), ...)"
        ) from error
    state, found = find_part(content, part, str(path))
    tensors, left, prefix = backbone_of(state, str(path))
    project = project_of((*tensors, *left), f"{part or found}.{prefix}")
    return NamedWeights(_described(path, part or found, prefix), _shapes(tensors), tensors.__getitem__, left, project)


def _check_archive(path: Path) -> None:
    """Raise UserError for an archive that PyTorch did not save weights in: it would take a program, or complain at length."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: {text_of(error)}; get it again") from error
    if "constants.pkl" in names:
        raise UserError(
            f"{path} is a program of TorchScript, not weights; save them where it is known to be safe: "
            "torch.save(torch.jit.load(...).state_dict(), ...)"
        )
    if "data.pkl" not in names:
        raise UserError(f"{path} is an archive without weights of PyTorch in it; unpack it and give the weight file")


def _described(path: Path, *parts: str) -> str:
    """The file, and where in it the weights were found."""
    chosen = ".".join(part for part in parts if part)
    return f"{path}#{chosen}" if chosen else str(path)


def timm_defaults(name: str) -> PretrainedCfg | None:
    """What timm says about the pretrained weights ``name``, such as "vit_tiny_patch16_224"; None if it knows none."""
    try:
        return timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the model exists without the tag after the dot
        return None


def _timm_weights(name: str) -> NamedWeights:
    defaults = timm_defaults(name)
    if defaults is None or not defaults.has_weights:
        raise UserError(f"timm has no pretrained weights {name!r}; timm.list_pretrained() names those it has")
    with torch.device("meta"):
        shapes = _shapes(timm.create_model(name).state_dict())

    @functools.cache
    def pretrained() -> dict[str, Tensor]:
        try:
            with torch.random.fork_rng(devices=[]), hub_asked_once():
                return timm.create_model(name, pretrained=True).state_dict()
        except (OSError, RuntimeError, ValueError) as error:
            # timm, its hub client and the sockets below raise these three for whatever keeps weights from being had.
            raise UserError(f"timm cannot provide the weights of {name}: {in_brief(error)}") from error

    return NamedWeights(f"timm:{name}", shapes, lambda key: pretrained()[key])


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _first_sentence(error: Exception) -> str:
    """What went wrong, without PyTorch's advice to load what could run code."""
    return in_brief(error).partition(". ")[0]
