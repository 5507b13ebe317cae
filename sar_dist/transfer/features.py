"""Frozen features of a whole split, each sample exactly once, the same bits for any number of processes.

The split is cut into chunks of consecutive samples, and a chunk into the same batches whoever computes it: matrix
products give other last bits for other batch sizes, and a result must not depend on how many processes made it. Chunks
are files, so that a killed evaluation goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from sar_dist import distributed
from sar_dist.config import height_and_width
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, make_folder
from sar_dist.progress import Progress
from sar_dist.transfer.backbone import Backbone
from sar_dist.transfer.samples import LabelledImages, SampleSet

BATCHES_IN_A_CHUNK = 8

Compute = Callable[[Backbone, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Features:
    """What was computed of each sample of a split, in the order of the split.

    Attributes:
        values: name -> (n, ...), what the function gave.
        labels: int64 (n,); -1 where a sample has none.
        bad: bool (n,): the sample could not be read, its values are those of a black image.
    """

    values: dict[str, NDArray[Any]]
    labels: NDArray[np.int64]
    bad: NDArray[np.bool_]

    def good(self) -> Features:
        """Without the samples that could not be read; for training."""
        keep = ~self.bad
        return Features({name: value[keep] for name, value in self.values.items()}, self.labels[keep], self.bad[keep])


def last_block_tokens(last_blocks: int) -> Compute:
    """A function for ``extract``: ``tokens`` (L, C) and ``patch_mean`` (C,), see ``Backbone.tokens``."""

    def compute(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
        tokens, patch_mean = backbone.tokens(images, last_blocks)
        return {"tokens": tokens, "patch_mean": patch_mean}

    return compute


def logits_of(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """A function for ``extract``: ``logits`` (classes,)."""
    return {"logits": backbone.logits(images)}


def similarity_of(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """A function for ``extract``: ``similarity`` (H, gh, gw), see ``Backbone.similarity``."""
    return {"similarity": backbone.similarity(images)}


def extract(
    backbone: Backbone,
    samples: SampleSet,
    compute: Compute,
    *,
    name: str,
    folder: Path,
    batch: int,
    workers: int,
    say: Callable[[str], None],
    transform: Callable[[bytes], Tensor] | None = None,
) -> Features:
    """Run ``compute`` on every sample, sharing chunks among the processes; all of them get all values.

    Args:
        backbone: what computes; its fingerprint and precision are part of the key of what is stored.
        samples: the split.
        compute: (backbone, normalised images (B, 3, S, S)) to tensors (B, ...) by name.
        name: of ``compute`` and the split, such as "val tokens 4"; part of the key.
        folder: below it the chunks are stored; every process must see it.
        batch: images per forward pass.
        workers: data-loader processes.
        say: prints progress.
        transform: bytes to uint8 (3, S, S); by default the backbone's validation transform.

    Raises:
        UserError: the folder cannot be written, or lacks chunks of other processes afterwards.
    """
    transform = transform or backbone.eval_transform()
    blank = torch.zeros(3, *height_and_width(backbone.image_size), dtype=torch.uint8)
    images = LabelledImages(samples, transform, blank)
    key = _key(backbone, samples, name, batch, transform)
    store = folder / f"{name.replace(' ', '_')}_{key}"
    if distributed.is_main():
        make_folder(store)
    distributed.barrier()
    size = batch * BATCHES_IN_A_CHUNK
    starts = list(range(0, len(samples), size))
    mine = starts[distributed.rank() :: distributed.world_size()]
    missing = [start for start in mine if _read_chunk(_chunk_file(store, start), start, size, len(samples)) is None]
    if missing:
        _compute_chunks(backbone, images, compute, store, missing, batch, workers, say, name)
    distributed.barrier()
    return _merge(store, starts, size, len(samples))


def _compute_chunks(
    backbone: Backbone,
    images: LabelledImages,
    compute: Compute,
    store: Path,
    starts: list[int],
    batch: int,
    workers: int,
    say: Callable[[str], None],
    name: str,
) -> None:
    size = batch * BATCHES_IN_A_CHUNK
    numbers = [number for start in starts for number in range(start, min(start + size, len(images)))]
    # A chunk is a whole number of batches but for the last one of the split, so batches never cross chunks.
    loader = DataLoader(Subset(images, numbers), batch_size=batch, num_workers=workers, shuffle=False)
    batches = iter(loader)
    done, progress = 0, Progress(name, len(numbers), "images", say)
    for start in starts:
        count = -(-min(size, len(images) - start) // batch)
        parts = list(_computed(backbone, compute, batches, count))
        merged = {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
        with atomic_write(_chunk_file(store, start)) as file:
            file.write(save(merged))
        done += len(merged["numbers"])
        progress.show(done)


def _computed(
    backbone: Backbone, compute: Compute, batches: Iterator[list[Tensor]], count: int
) -> Iterator[dict[str, NDArray[Any]]]:
    for _ in range(count):
        numbers, pixels, labels, bad = next(batches)
        values = compute(backbone, backbone.normalise(pixels))
        check_finite(values, backbone)
        yield {
            "numbers": numbers.numpy(),
            "labels": labels.numpy().astype(np.int64),
            "bad": bad.numpy(),
            **{f"value.{name}": np.ascontiguousarray(value.cpu().numpy()) for name, value in values.items()},
        }


def check_finite(values: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Raise UserError if a value is NaN or infinite: whatever were made of it would look like a measurement."""
    for name, value in values.items():
        if not bool(value.isfinite().all()):
            raise UserError(
                f"{backbone.spec} gives {name} that are not finite; its weights are damaged, or {backbone.precision} is "
                "too narrow for them: try precision=fp32, or another checkpoint"
            )


def _merge(store: Path, starts: list[int], size: int, total: int) -> Features:
    """All chunks in order. Every sample must be there once and only once."""
    chunks = []
    for start in starts:
        chunk = _read_chunk(_chunk_file(store, start), start, size, total)
        if chunk is None:
            raise UserError(
                f"{_chunk_file(store, start)} is missing or damaged; every process must see this folder: set --out to "
                "a shared file system, remove the folder, and start again"
            )
        chunks.append(chunk)
    merged = {field: np.concatenate([chunk[field] for chunk in chunks]) for field in chunks[0]}
    assert np.array_equal(merged["numbers"], np.arange(total)), "every sample must be evaluated exactly once"
    values = {field.removeprefix("value."): array for field, array in merged.items() if field.startswith("value.")}
    return Features(values, merged["labels"], merged["bad"].astype(bool))


def _read_chunk(file: Path, start: int, size: int, total: int) -> dict[str, NDArray[Any]] | None:
    try:
        chunk = load_file(file)
    except (OSError, SafetensorError):
        return None
    numbers = np.arange(start, min(start + size, total))
    whole = (
        chunk.keys() >= {"numbers", "labels", "bad"}
        and any(name.startswith("value.") for name in chunk)
        and all(array.shape[:1] == numbers.shape for array in chunk.values())
        and np.array_equal(chunk["numbers"], numbers)
    )
    return chunk if whole else None


def _chunk_file(store: Path, start: int) -> Path:
    return store / f"{start:08d}.safetensors"


def _key(backbone: Backbone, samples: SampleSet, name: str, batch: int, transform: object) -> str:
    """What the stored values depend on, in 12 hexadecimal digits."""
    content = [
        backbone.fingerprint,
        backbone.precision,
        backbone.image_size,
        backbone.augment.model_dump(mode="json"),
        samples.fingerprint,
        name,
        batch,
        type(transform).__name__,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
