"""Reading a checkpoint without DeepSpeed: any stretch of any parameter, or whole parameters by name."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sar_dist.checkpoint.layout import DamagedCheckpoint, cannot_read, shard_file
from sar_dist.checkpoint.manifest import CheckpointManifest, RankIndex, read_index, verify

TensorKind = str
"""What a stored tensor is: "master", "ema", or a moment of the optimizer, such as "exp_avg"."""


class _Piece(NamedTuple):
    start: int  # first element, in the flattened parameter
    numel: int
    rank: int
    shard: int
    offset: int  # first element, in the flat shard


class CheckpointReader:
    """A verified checkpoint folder, opened for reading; tensors stay on disk until they are asked for.

    Args:
        folder: such as ``runs/NAME/checkpoints/step_00001000``.
        manifest: its verified manifest; None verifies it here, which reads every byte once.

    Raises:
        DamagedCheckpoint: the folder does not agree with its manifest.
        UnsupportedFormat: another version of the format.
    """

    def __init__(self, folder: Path, manifest: CheckpointManifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest or verify(folder)
        self.step = self.manifest.step
        self.shapes: dict[str, tuple[int, ...]] = self.manifest.engine.shapes
        self.has_ema = self.manifest.engine.ema_updates is not None
        self.indices: list[RankIndex] = [read_index(folder, rank) for rank in range(self.manifest.world_size)]
        self._pieces: dict[str, list[_Piece]] = defaultdict(list)
        self._files: dict[int, Any] = {}
        for rank, index in enumerate(self.indices):
            for entry in index.fragments:
                self._pieces[entry.name].append(_Piece(entry.start, entry.numel, rank, entry.shard, entry.offset))
        steps = {step for index in self.indices for step in index.adam_steps}
        if len(steps) != 1:
            raise DamagedCheckpoint(f"{folder}: the optimizer shards disagree on their step: {sorted(steps)}")
        self.adam_step = steps.pop()
        if self.adam_step > self.step:
            raise DamagedCheckpoint(
                f"{folder}: adam_steps says {self.adam_step:g}, but the checkpoint is of step {self.step}"
            )

    def indices_for(self, rank: int, world_size: int) -> list[RankIndex]:
        """Those of the processes that wrote it of which process ``rank`` of now ``world_size`` takes over what each had counted."""
        return self.indices[rank::world_size]

    def check_shapes(self, expected: dict[str, tuple[int, ...]]) -> None:
        """Compare parameter names and shapes with a model's.

        Raises:
            DamagedCheckpoint: they differ; the message names the first difference.
        """
        if expected == self.shapes:
            return
        for name in [*expected, *self.shapes]:
            if expected.get(name) != self.shapes.get(name):
                raise DamagedCheckpoint(
                    f"{self.folder}: {name} is {self.shapes.get(name, 'absent')} in the checkpoint and "
                    f"{expected.get(name, 'absent')} in the model"
                )

    def read(self, kind: TensorKind, name: str, start: int, numel: int) -> Tensor:
        """Elements ``start`` to ``start + numel`` of the flattened parameter ``name``, float32 (numel,).

        Raises:
            DamagedCheckpoint: they are not where the index says.
        """
        out = torch.empty(numel)
        filled = 0
        for piece in self._pieces[name]:
            first, last = max(start, piece.start), min(start + numel, piece.start + piece.numel)
            if first < last:
                offset = piece.offset + first - piece.start
                file = self._open(piece.rank)
                try:
                    stored = file.get_slice(f"{piece.shard}/{kind}")
                    out[first - start : last - start] = stored[offset : offset + last - first]
                except (SafetensorError, RuntimeError, OverflowError) as error:
                    path = self.folder / shard_file(piece.rank)
                    raise DamagedCheckpoint(f"{path} does not hold what the checkpoint says of {name}") from error
                filled += last - first
        if filled != numel:
            raise DamagedCheckpoint(f"{self.folder} holds {filled} of {numel} elements of {name}")
        return out

    def parameter(self, name: str, kind: TensorKind = "master") -> Tensor:
        """A whole parameter by timm's name, float32, in its own shape."""
        shape = self.shapes[name]
        return self.read(kind, name, 0, math.prod(shape)).reshape(shape)

    def state_dict(self, ema: bool = False) -> dict[str, Tensor]:
        """Every parameter by timm's name: live weights, or their moving average.

        Raises:
            DamagedCheckpoint: ``ema`` was asked for and the run kept no average.
        """
        if ema and not self.has_ema:
            raise DamagedCheckpoint(f"{self.folder} has no moving average (optim.ema was not set)")
        return {name: self.parameter(name, "ema" if ema else "master") for name in self.shapes}

    def _open(self, rank: int) -> Any:
        if rank not in self._files:
            path = self.folder / shard_file(rank)
            try:
                self._files[rank] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise cannot_read(path, error) from error
        return self._files[rank]
