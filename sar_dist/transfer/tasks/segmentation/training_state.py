"""The checkpoint of a segmentation training: one safetensors file, replaced atomically, never a pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, make_folder
from sar_dist.transfer.tasks.segmentation.model import SegmentationModel

CHECKPOINT_FILE = "training.safetensors"
_ITERATION = "iteration"
_MODEL = "model/"
_ADAM = "adam/"


def save(folder: Path, iteration: int, model: SegmentationModel, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after ``iteration`` steps, on the main process: it is the same on all. Raises UserError."""
    distributed.main_first(lambda: _write(folder, iteration, model, optimizer))


def restore(folder: Path, model: SegmentationModel, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint in ``folder`` where there is one.

    Returns:
        Iterations done; 0 without a checkpoint.

    Raises:
        UserError: the file is damaged or of another model, or not all processes see it.
    """
    file = folder / CHECKPOINT_FILE
    if not distributed.broadcast_object(file.is_file()):
        return 0
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot read {file} ({error}); every process must see it; remove it to start training again"
        ) from error
    try:
        model.load_trained_state(_below(tensors, _MODEL))
    except RuntimeError as error:
        raise UserError(f"{file} is of another model; remove it to start training again") from error
    _load_adam(optimizer, model, _below(tensors, _ADAM))
    return int(tensors[_ITERATION])


def _write(folder: Path, iteration: int, model: SegmentationModel, optimizer: torch.optim.Optimizer) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in model.trained_state().items()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"{_ADAM}{key}/{names[id(parameter)]}"] = value
    tensors[_ITERATION] = torch.tensor(iteration)
    make_folder(folder)
    with atomic_write(folder / CHECKPOINT_FILE) as stream:
        stream.write(to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _load_adam(optimizer: torch.optim.Optimizer, model: SegmentationModel, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        key, _, name = path.partition("/")
        # AdamW keeps its step counter on the CPU.
        place = value.device if key == "step" else parameters[name].device
        optimizer.state[parameters[name]][key] = value.to(place)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
