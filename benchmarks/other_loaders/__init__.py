"""Loaders that a user may have besides: LitData and NVIDIA DALI on the CPU, where they are installed; for loader.py.

Crop and flip alone, as each library's documentation has it. ``missing`` says which ones cannot be measured here, and why.
"""

import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data.loader import fast_collate

Side = Callable[[int], Iterable[Any]]  # number of workers to batches

# Module that has to be importable, and what a side of it is called.
LIBRARIES = {
    "litdata": "LitData + timm uint8",
    "nvidia.dali": "DALI, CPU",
    "spdl.io.lib._libspdl": "SPDL",
    "ffcv": "FFCV",
}


def missing() -> dict[str, str]:
    """Why the other libraries cannot be measured, by the name of their side."""
    reasons = {
        "ffcv": "no wheel, and its C++ code did not build here",
        "spdl.io.lib._libspdl": "needs ffmpeg's libraries",
    }
    found = {}
    for module, name in LIBRARIES.items():
        try:
            import_module(module)
            found[name] = "installed, but there is no side for it" if module in reasons else ""
        except (ImportError, RuntimeError) as error:
            found[name] = f"{reasons.get(module, 'not installed')} ({type(error).__name__})"
    return {name: reason for name, reason in found.items() if reason}


def other_sides(
    folder: Path, jpegs: list[bytes], samples: int, size: int, batch: int, transform: Callable[[Any], Any]
) -> dict[str, Side]:
    """Those of the libraries that are installed. ``transform`` is timm's, to uint8."""
    sides: dict[str, Side] = {}
    absent = missing()
    if "LitData + timm uint8" not in absent:
        sides["LitData + timm uint8"] = litdata_side(folder, jpegs, samples, batch, transform)
    if "DALI, CPU" not in absent:
        sides["DALI, CPU"] = partial(_dali_batches, folder, samples, size, batch)
    return sides


def litdata_side(folder: Path, jpegs: list[bytes], samples: int, batch: int, transform: Callable[[Any], Any]) -> Side:
    """LitData's chunks of the encoded images; decoding and augmentation are timm's."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Any, int]:
            sample = super().__getitem__(index)
            return transform(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")), sample["cls"]

    chunks = folder / "litdata"
    chunks.mkdir()
    writer = BinaryWriter(str(chunks), chunk_bytes="64MB")
    for number in range(samples):
        writer[number] = {"jpg": jpegs[number % len(jpegs)], "cls": number % 1000}
    writer.done()
    writer.merge()

    def batches(workers: int) -> Iterator[Any]:
        shutil.rmtree(folder / "litdata-cache", ignore_errors=True)
        dataset = Decoded(str(chunks), cache_dir=str(folder / "litdata-cache"), shuffle=True)
        yield from StreamingDataLoader(
            dataset, batch_size=batch, num_workers=workers, collate_fn=fast_collate, shuffle=True
        )

    return batches


def _dali_batches(folder: Path, samples: int, size: int, batch: int, threads: int) -> Iterator[Any]:
    """NVIDIA DALI's reader, region decoder and resize in threads of this process, to uint8 (3, S, S)."""
    from nvidia.dali import fn, pipeline_def, types

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=None, seed=0)
    def pipeline() -> Any:
        jpeg, label = fn.readers.webdataset(paths=shards, ext=["jpg", "cls"], random_shuffle=True, initial_fill=500)
        image = fn.decoders.image_random_crop(
            jpeg, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        image = fn.resize(image, size=[size, size], interp_type=types.INTERP_CUBIC, antialias=True)
        image = fn.flip(image, horizontal=fn.random.coin_flip())
        return fn.transpose(image, perm=[2, 0, 1]), label

    built = pipeline()
    built.build()
    for _ in range(samples // batch):
        images, labels = built.run()
        images.as_tensor()
        yield {"label": labels}
