"""Decoding on the device: the images, substitutes and counts of decoding in a worker. The CPU stands in for the device."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shard_factory import REAL_DATA, tar_bytes, train_loader
from torch import Tensor

from sar_dist.config import AugmentSettings, load_config
from sar_dist.data import TrainLoader, device_batches
from sar_dist.data.batching import Batch
from sar_dist.data.device_decoding import DecodingCount, DeviceDecoder, decode_together, decoded_ahead, decoder_problem
from sar_dist.data.images import (
    EncodedTrainTransform,
    UndecodableImage,
    build_operation_draw,
    build_train_transform,
    canvas_of,
    crop_and_resize,
    decode_image,
    jpeg_size,
)
from sar_dist.data.images.augment import FastTrainTransform, random_crop_box
from sar_dist.data.images.cropped import resized
from sar_dist.data.images.sound_jpeg import NotSound, SoundJpeg, sound_jpeg
from sar_dist.errors import UserError
from sar_dist.training.checks import check_decoder

ROOT = Path(__file__).resolve().parents[3]
SIDE = 48
CPU = torch.device("cpu")
AUGMENT = AugmentSettings(where="device", rand_augment="rand-m9-mstd0.5-inc1")


def jpeg(seed: int, width: int = 90, height: int = 70, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    out = io.BytesIO()
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    image.save(out, options.pop("format", "JPEG"), **options)
    return out.getvalue()


def photographs(count: int) -> list[bytes]:
    files = sorted((REAL_DATA / "imagenet_samples").glob("*/*"))
    if len(files) < count:
        pytest.skip("no ImageNet photographs here")
    return [file.read_bytes() for file in files[:count]]


def odd_files() -> dict[str, bytes]:
    return {
        "progressive": jpeg(1, progressive=True),
        "CMYK": jpeg(2, mode="CMYK"),
        "not a JPEG": jpeg(3, format="PNG"),
        "unusual sampling": _sampled_otherwise(jpeg(4, subsampling=2)),
        "damaged": jpeg(5)[:300],
        "several scans, or damaged": jpeg(6)[:-2],
    }


def _sampled_otherwise(data: bytes) -> bytes:
    """Chrominance at twice the height of the luminance, as no camera makes it."""
    frame = data.index(b"\xff\xc0")
    return data[: frame + 14] + b"\x12" + data[frame + 15 :]


def shards(folder: Path) -> Path:
    """Plain files, grey ones, every kind that a worker decodes itself, and some that nothing can."""
    files = [jpeg(seed, 60 + seed, 100 - seed, quality=40 + seed) for seed in range(20)]
    files += [jpeg(20, mode="L"), *odd_files().values(), b"no image", jpeg(21)]
    members = [
        (f"s{number:03d}.{kind}", data)
        for number, file in enumerate(files)
        for kind, data in (("jpg", file), ("cls", b"0"))
    ]
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar_bytes(members))
    return folder


def loaders(folder: Path, **options: Any) -> tuple[TrainLoader, TrainLoader]:
    """The loader that decodes, and the one that leaves it to the device."""
    host = build_train_transform(AUGMENT, SIDE, 10**6)
    assert isinstance(host, FastTrainTransform)
    later = (build_operation_draw(AUGMENT, SIDE), canvas_of(AUGMENT))
    sizes = {"global_batch": 4, "micro_batch": 4, "later": later, "max_bad_fraction": 1, "workers": 0, **options}
    return tuple(train_loader(folder, transform=each, **sizes) for each in (host, EncodedTrainTransform(host)))  # type: ignore[return-value]


def assert_same(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys() - {"number"}
        for key, value in one.items():
            assert torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key], key


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resized_as_by_a_worker_to_the_last_level(interpolation: str) -> None:
    random.seed(0)
    images = [decode_image(data, 10**8) for data in photographs(12)]
    images += [decode_image(jpeg(seed, 30 + 7 * seed, 300 - 9 * seed), 10**8) for seed in range(12)]
    boxes = [random_crop_box(image.shape[1], image.shape[2], (0.05, 1), (0.5, 2)) for image in images]
    boxes[:3] = [(0, 0, 1, 7), (3, 4, SIDE, SIDE), (0, 0, 2 * SIDE, SIDE)]
    found = crop_and_resize(images, boxes, SIDE, interpolation)  # type: ignore[arg-type]
    for image, (top, left, height, width), ours in zip(images, boxes, found, strict=True):
        crop = image.permute(1, 2, 0).numpy()[top : top + height, left : left + width]
        expected = torch.from_numpy(resized(crop, (SIDE, SIDE), interpolation).copy()).permute(2, 0, 1)
        assert torch.equal(ours, expected), (top, left, height, width)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_decoding_in_a_worker(tmp_path: Path, workers: int) -> None:
    """Images, operations, labels, substitutes and their counts; over two epochs, and from the middle."""
    here, later = loaders(shards(tmp_path / "a"), workers=workers)
    for start in (0, 3):
        expected = list(here.iterate(start, 12))
        assert_same(expected, list(device_batches(later, start, 12, CPU)))
    assert here.bad_samples.keys == later.bad_samples.keys
    assert (here.bad_samples.seen, here.bad_samples.bad) == (later.bad_samples.seen, later.bad_samples.bad)
    assert here.bad_samples.bad > 0


def test_ranks_share_the_same_batch(tmp_path: Path) -> None:
    folder = shards(tmp_path / "a")
    whole = list(device_batches(loaders(folder)[1], 0, 5, CPU))
    halves = [
        list(device_batches(loaders(folder, micro_batch=2, rank=rank, world_size=2)[1], 0, 5, CPU)) for rank in (0, 1)
    ]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch["image"], torch.cat([part["image"] for part in parts]))


def decoded(loader: TrainLoader, stop: int, decoder: DeviceDecoder, count: DecodingCount) -> Iterator[Batch]:
    return loader.iterate(0, stop, on_the_way=lambda batches: decoded_ahead(batches, decoder, count, loader.made_here))


def test_a_batch_that_the_device_refuses_is_made_on_the_cpu(tmp_path: Path) -> None:
    """Also with a file that only the decoder finds to be bad: its substitute and its count are those of the CPU."""
    here, later = loaders(shards(tmp_path / "a"))
    expected = list(here.iterate(0, 6))
    calls = iter(range(100))

    def decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
        if next(calls) in (1, 4):
            raise RuntimeError("nvjpeg: 7")
        return decode_together(files, device)

    count = DecodingCount()
    found = list(decoded(later, 6, DeviceDecoder(CPU, decode), count))
    assert_same(expected, found)
    assert (count.refused, count.batches) == (2, 6)
    assert later.bad_samples.keys == here.bad_samples.keys
    assert "refused 2 of 6 batches" in str(count)


def test_what_only_decoding_finds_is_replaced_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shards(tmp_path / "a")
    here, later = loaders(folder)
    expected = list(here.iterate(0, 6))
    # As if the walk through the markers let everything pass that has a size.
    monkeypatch.setattr("sar_dist.data.images.encoded.sound_jpeg", lambda data: _sized(data))
    count = DecodingCount()
    found = list(decoded(later, 6, DeviceDecoder(CPU), count))
    assert_same(expected, found)
    assert count.refused > 0
    assert later.bad_samples.keys == here.bad_samples.keys
    assert later.bad_samples.bad == here.bad_samples.bad


def _sized(data: bytes) -> SoundJpeg:
    size = jpeg_size(data)
    if size is None:
        raise NotSound("not a JPEG")
    return SoundJpeg(data, *size, height_at=0, block_height=8, block_width=8)


def test_a_device_that_refuses_everything_ends_the_run() -> None:
    count = DecodingCount()
    for _ in range(19):
        count.batches += 1
        count.refuse("none")
    count.batches += 1
    with pytest.raises(UserError, match=r"refused 20 of 20 batches \(none\).*data\.decoder=cpu"):
        count.refuse("none")


def test_wrong_sizes_and_lack_of_memory_are_no_images(tmp_path: Path) -> None:
    _, later = loaders(shards(tmp_path / "a"))

    def small(files: list[Tensor], _device: torch.device) -> list[Tensor]:
        return [torch.zeros(3, 2, 2, dtype=torch.uint8) for _ in files]

    def full(_files: list[Tensor], _device: torch.device) -> list[Tensor]:
        raise torch.OutOfMemoryError("no memory")

    count = DecodingCount()
    next(decoded(later, 1, DeviceDecoder(CPU, small), count))
    assert count.refused == 1
    with pytest.raises(torch.OutOfMemoryError):
        next(decoded(later, 1, DeviceDecoder(CPU, full), count))


def test_each_kind_that_hardware_does_not_do_is_named() -> None:
    for mode in ("RGB", "L"):
        sound = sound_jpeg(jpeg(0, 90, 70, mode=mode))
        assert (sound.height, sound.width) == (70, 90)
    for reason, data in odd_files().items():
        with pytest.raises(NotSound, match=reason):
            sound_jpeg(data)
    with pytest.raises(NotSound, match="another colour space"):
        sound_jpeg(jpeg(0, keep_rgb=True))


def test_too_many_pixels_are_refused_as_by_the_worker() -> None:
    host = build_train_transform(AUGMENT, SIDE, 1000)
    assert isinstance(host, FastTrainTransform)
    with pytest.raises(UndecodableImage, match="exceed the limit"):
        EncodedTrainTransform(host)(jpeg(0))
    assert EncodedTrainTransform(replace(host, max_pixels=10**5))(jpeg(0)).pixels is None


@pytest.mark.timeout(120)
def test_whatever_is_left_to_the_device_the_cpu_decodes_too() -> None:
    """Damaged at random: what passes the walk never turns out to be undecodable, and has the size it says."""
    passed = 0
    for data in _damaged(3000):
        try:
            sound = sound_jpeg(data)
        except NotSound:
            continue
        size = sound.height, sound.width
        if size[0] * size[1] < 10**6:
            assert decode_image(data, 10**8).shape[1:] == size
            passed += 1
    assert passed > 500


def _damaged(count: int) -> Iterator[bytes]:
    generator = random.Random(0)
    files = [jpeg(seed, mode="L" if seed % 3 == 0 else "RGB", subsampling=seed % 3) for seed in range(9)]
    for _ in range(count):
        data = bytearray(generator.choice(files))
        for _ in range(generator.randrange(1, 4)):
            place = generator.randrange(len(data))
            data[place] = generator.choice([generator.randrange(256), 0xFF, data[place] ^ 1 << generator.randrange(8)])
        yield bytes(data[: generator.randrange(len(data))] if generator.random() < 0.1 else data)


@pytest.mark.parametrize(
    ("place", "device", "message"),
    [("device", "cpu", "data.decoder=gpu needs a GPU"), ("worker", "cuda", "augment.where=worker augments before")],
)
def test_the_key_is_refused_where_it_cannot_work(place: str, device: str, message: str) -> None:
    config = load_config(ROOT / "configs" / "vit_l_in1k.py", ["data.decoder=gpu", f"augment.where={place}"])
    with pytest.raises(UserError, match=message):
        check_decoder(config, torch.device(device))
    check_decoder(load_config(ROOT / "configs" / "vit_l_in1k.py"), torch.device(device))


def test_a_decoder_that_is_not_there_is_found_before_training() -> None:
    assert decoder_problem(CPU) is None
    if not torch.cuda.is_available():
        assert decoder_problem(torch.device("cuda")) is not None


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_images(tmp_path: Path) -> None:
    """Its decoder is another than libjpeg; everything else is equal, and the resize to the last level."""
    device = torch.device("cuda")
    here, later = loaders(shards(tmp_path / "a"))
    for one, other in zip(here.iterate(0, 6), device_batches(later, 0, 6, device), strict=True):
        assert torch.equal(one["label"], other["label"].cpu())
        assert (one["bad"], one["bad_keys"]) == (other["bad"], other["bad_keys"])
        assert (one["image"].float() - other["image"].cpu().float()).abs().mean() < 3
    images = [decode_image(data, 10**8) for data in photographs(12)]
    boxes = [(0, 0, image.shape[1], image.shape[2]) for image in images]
    expected = crop_and_resize(images, boxes, SIDE, "bicubic")
    assert torch.equal(crop_and_resize([image.to(device) for image in images], boxes, SIDE, "bicubic").cpu(), expected)
