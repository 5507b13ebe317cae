"""What JPEG decoders take for an image, and how far their pixels are from Pillow's.

    python benchmarks/decoders.py --images DIR                    the JPEGs under DIR, and the same with a short side of 256
    python benchmarks/decoders.py --images DIR --max-short-side 256 320 --rounds 5 --out F.json

CPU milliseconds of one process from the bytes of a file to 8-bit RGB in memory, medians of rounds in which the decoders
take turns; difference in grey levels. "region" decodes only what a random resized crop keeps, and is compared with that part.
Libraries that are not installed are named; pip install simplejpeg imagecodecs 'pyvips[binary]' PyTurboJPEG
nvidia-nvimgcodec-cu13 nvidia-dali-cuda130 spdl.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.io import ImageReadMode, decode_jpeg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from jpegs import jpeg_files

from sar_dist.data.images import decode_box, decode_image, jpeg_size, turbojpeg
from sar_dist.data.images.augment import random_crop_box
from sar_dist.data.making import resized_image
from sar_dist.data.shards import Resizing

MAX_PIXELS = 10**9
Box = tuple[int, int, int, int]  # top, left, height, width
Decode = Callable[[bytes, Box], np.ndarray]
REGIONS = OURS_REGION, OURS_ROWS, NVIMGCODEC_REGION = (
    "ours, region",
    "ours, first rows",
    "nvImageCodec on the CPU, region",
)


def ours(data: bytes, _box: Box) -> np.ndarray:
    return decode_image(data, MAX_PIXELS).permute(1, 2, 0).numpy()


def ours_region(data: bytes, box: Box) -> np.ndarray:
    top, left, height, width = box
    size = jpeg_size(data)
    part = None if size is None else decode_box(data, MAX_PIXELS, size, box)
    return ours(data, box)[top : top + height, left : left + width] if part is None else part


def ours_rows(data: bytes, box: Box) -> np.ndarray:
    """As on a machine without TurboJPEG 3."""
    is_there, turbojpeg.is_there = turbojpeg.is_there, lambda: False
    try:
        return ours_region(data, box)
    finally:
        turbojpeg.is_there = is_there


def pillow(data: bytes, _box: Box) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def torchvision(data: bytes, _box: Box) -> np.ndarray:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()


def make_simplejpeg() -> Decode:
    import simplejpeg

    return lambda data, _box: simplejpeg.decode_jpeg(data, "RGB", strict=True)


def make_imagecodecs() -> Decode:
    import imagecodecs

    return lambda data, _box: imagecodecs.jpeg8_decode(data, outcolorspace="RGB")


def make_pyvips() -> Decode:
    import pyvips

    return lambda data, _box: pyvips.Image.jpegload_buffer(data).colourspace("srgb").numpy()[..., :3]


def make_opencv() -> Decode:
    import cv2

    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data, _box: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def make_pyturbojpeg() -> Decode:
    import turbojpeg

    jpeg = turbojpeg.TurboJPEG()  # RuntimeError without libturbojpeg 3 on the system
    return lambda data, _box: jpeg.decode(data, pixel_format=turbojpeg.TJPF_RGB)


def make_spdl() -> Decode:
    import spdl.io

    spdl.io.demux_image  # noqa: B018 - RuntimeError without ffmpeg's libraries

    def decode(data: bytes, _box: Box) -> np.ndarray:
        return np.asarray(spdl.io.to_numpy(spdl.io.load_image(data)))

    return decode


def _nvimgcodec() -> tuple[Any, Any, Any]:
    from nvidia import nvimgcodec

    backends = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
    device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
    decoder = nvimgcodec.Decoder(device_id=device, max_num_cpu_threads=1, backends=backends)
    return nvimgcodec, decoder, nvimgcodec.DecodeParams(apply_exif_orientation=False)


def make_nvimgcodec() -> Decode:
    library, decoder, parameters = _nvimgcodec()
    return lambda data, _box: np.asarray(decoder.decode(library.CodeStream(data), params=parameters))


def make_nvimgcodec_region() -> Decode:
    library, decoder, parameters = _nvimgcodec()

    def decode(data: bytes, box: Box) -> np.ndarray:
        top, left, height, width = box
        region = library.Region(top, left, top + height, left + width)
        part = library.CodeStream(data).get_sub_code_stream(region=region)
        return np.asarray(decoder.decode(part, params=parameters))

    return decode


def make_dali() -> Decode:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False)
    def pipeline() -> Any:
        return fn.decoders.image(fn.external_source(name="jpeg"), output_type=types.RGB, adjust_orientation=False)

    built = pipeline()
    built.build()

    def decode(data: bytes, _box: Box) -> np.ndarray:
        built.feed_input("jpeg", [np.frombuffer(data, np.uint8)])
        return np.array(built.run()[0].at(0))

    return decode


MAKERS: dict[str, Callable[[], Decode]] = {
    "ours": lambda: ours,
    OURS_REGION: lambda: ours_region,
    OURS_ROWS: lambda: ours_rows,
    "Pillow": lambda: pillow,
    "torchvision": lambda: torchvision,
    "simplejpeg": make_simplejpeg,
    "imagecodecs": make_imagecodecs,
    "OpenCV": make_opencv,
    "pyvips": make_pyvips,
    "nvImageCodec on the CPU": make_nvimgcodec,
    NVIMGCODEC_REGION: make_nvimgcodec_region,
    "DALI on the CPU": make_dali,
    "PyTurboJPEG": make_pyturbojpeg,
    "SPDL": make_spdl,
}


def installed(sample: bytes) -> tuple[dict[str, Decode], dict[str, str]]:
    """The decoders that decode a sample, and why the others do not."""
    found, missing = {}, {}
    for name, make in MAKERS.items():
        try:
            decode = make()
            decode(sample, (0, 0, 16, 16))
            found[name] = decode
        except Exception as error:  # noqa: BLE001 - each library fails in its own way
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return found, missing


def difference(decode: Decode, images: list[bytes], boxes: list[Box], region: bool) -> float:
    """Mean absolute difference from Pillow, grey levels, over all images."""
    means = []
    for data, box in zip(images, boxes, strict=True):
        wanted = pillow(data, box).astype(np.float32)
        top, left, height, width = box
        wanted = wanted[top : top + height, left : left + width] if region else wanted
        means.append(np.abs(wanted - decode(data, box)).mean())
    return float(np.mean(means))


def measure(decoders: dict[str, Decode], images: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds an image (median of rounds), and the mean difference from Pillow."""
    random.seed(0)
    sizes = [Image.open(io.BytesIO(data)).size for data in images]
    boxes = [random_crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3)) for width, height in sizes]
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decode in decoders.items():
            begin = time.process_time()
            for data, box in zip(images, boxes, strict=True):
                decode(data, box)
            taken[name].append((time.process_time() - begin) / len(images) * 1e3)
    return {
        name: {
            "cpu_ms": statistics.median(values),
            "difference": difference(decoders[name], images, boxes, name in REGIONS),
        }
        for name, values in taken.items()
    }


def smaller(images: list[bytes], side: int) -> list[bytes]:
    return [resized_image(data, Resizing(side), MAX_PIXELS) or data for data in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--count", type=int, default=200, help="images at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-short-side", type=int, nargs="*", default=[256])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["VIPS_CONCURRENCY"] = "1"
    paths = jpeg_files(arguments.images)
    images = [path.read_bytes() for path in paths[:: max(1, len(paths) // arguments.count)]]
    if not images:
        parser.error(f"no JPEGs under {arguments.images}")
    decoders, missing = installed(images[0])
    sets = {"original": images, **{f"{side} px": smaller(images, side) for side in arguments.max_short_side}}
    results = {name: measure(decoders, files, arguments.rounds) for name, files in sets.items()}
    table = Table(title=f"{len(images)} images, CPU ms an image (mean difference from Pillow)")
    for column in ("decoder", *results):
        table.add_column(column, justify="right" if column in results else "left")
    for name in decoders:
        cells = (f"{result[name]['cpu_ms']:.3f} ({result[name]['difference']:.4f})" for result in results.values())
        table.add_row(name, *cells)
    Console().print(table)
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"results": results, "missing": missing}, indent=1))


if __name__ == "__main__":
    main()
