"""Decoding against Pillow's ``convert("RGB")``, and what damaged, hostile and odd files do."""

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support import ROOT

from sar_dist.data.images import decode, partial_decode, turbojpeg
from sar_dist.data.images.decode import UndecodableImage, decode_image, decode_pil, jpeg_size, webp_size
from sar_dist.data.images.partial_decode import decode_box
from sar_dist.errors import UserError

LIMIT = 10_000_000
REAL_IMAGES = sorted(Path(__file__).parents[4].glob("shared/data/imagenet_samples/*/*.[Jj]*"))


def picture(mode: str = "RGB", size: tuple[int, int] = (61, 43), seed: int = 0) -> Image.Image:
    """A smooth picture of odd size, so that chroma subsampling has an edge to get wrong."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(small[..., :3]).resize(size, Image.Resampling.BICUBIC)
    if mode == "CMYK":
        return Image.fromarray(np.array(Image.fromarray(small).resize(size)), "RGBA").convert("RGB").convert("CMYK")
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reference(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def animation(kind: str) -> bytes:
    frames = [picture(seed=seed) for seed in (1, 2, 3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def palette_with_transparency() -> bytes:
    return encoded(picture().quantize(17), "PNG", transparency=3)


def with_alpha(mode: str) -> Image.Image:
    image = picture(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


FILES = {
    "jpeg": lambda: encoded(picture(), "JPEG"),
    "jpeg 4:4:4": lambda: encoded(picture(), "JPEG", subsampling=0),
    "jpeg progressive": lambda: encoded(picture(), "JPEG", progressive=True),
    "jpeg grey": lambda: encoded(picture("L"), "JPEG"),
    "jpeg CMYK": lambda: encoded(picture("CMYK"), "JPEG"),
    "jpeg with restart markers": lambda: encoded(picture(), "JPEG", restart_marker_blocks=2),
    "jpeg with comment": lambda: encoded(picture(), "JPEG", comment=b"\xff\xc0\x00" * 50),
    "jpeg one pixel": lambda: encoded(picture(size=(1, 1)), "JPEG"),
    "png": lambda: encoded(picture(), "PNG"),
    "png grey": lambda: encoded(picture("L"), "PNG"),
    "png black and white": lambda: encoded(picture("1"), "PNG"),
    "png alpha": lambda: encoded(with_alpha("RGB"), "PNG"),
    "png grey alpha": lambda: encoded(with_alpha("L"), "PNG"),
    "png palette": lambda: encoded(picture().quantize(31), "PNG"),
    "png palette transparent": palette_with_transparency,
    "png 16-bit colour": lambda: cv2.imencode(".png", np.array(picture()).astype(np.uint16) * 257)[1].tobytes(),
    "gif animated": lambda: animation("GIF"),
    "webp animated": lambda: animation("WEBP"),
    "png animated": lambda: animation("PNG"),
    "webp": lambda: encoded(picture(), "WEBP"),
    "bmp": lambda: encoded(picture(), "BMP"),
    "tiff": lambda: encoded(picture(), "TIFF"),
    "tiff CMYK": lambda: encoded(picture("CMYK"), "TIFF"),
    "ppm": lambda: encoded(picture(), "PPM"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", FILES)
def test_formats_equal_pillow(name: str) -> None:
    data = FILES[name]()
    image = decode_image(data, LIMIT)
    assert image.dtype == torch.uint8
    assert torch.equal(image, reference(data))
    assert torch.equal(torch.from_numpy(np.array(decode_pil(data, LIMIT))).permute(2, 0, 1), image)


@pytest.mark.skipif(not REAL_IMAGES, reason="no real images beside the repository")
def test_real_images_equal_pillow_bit_for_bit() -> None:
    for path in REAL_IMAGES:
        data = path.read_bytes()
        assert torch.equal(decode_image(data, LIMIT), reference(data)), path.name
        assert jpeg_size(data) == Image.open(io.BytesIO(data)).size[::-1]


def test_exif_orientation_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    for kind in ("JPEG", "PNG", "WEBP"):
        plain, turned = encoded(picture(), kind), encoded(picture(), kind, exif=exif)
        assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
        assert torch.equal(decode_image(turned, LIMIT), decode_image(plain, LIMIT))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind: str) -> None:
    levels = np.arange(300 * 200, dtype=np.uint16).reshape(200, 300)
    image = decode_image(encoded(Image.fromarray(levels), kind), LIMIT)
    assert torch.equal(image, torch.from_numpy((levels >> 8).astype(np.uint8)).expand(3, -1, -1))


RAMP = np.linspace(0, 65535, 32 * 24).reshape(24, 32)


def plain_map(header: str, pixels: np.ndarray) -> bytes:
    return header.encode() + pixels.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        plain_map("P5 32 24 65535\n", RAMP.astype(">u2")),
        plain_map("P5 32 24 4095\n", (RAMP / 65535 * 4095).astype(">u2")),
        plain_map("Pf\n32 24\n-1.0\n", (RAMP[::-1] / 65535).astype("<f4")),
        encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((RAMP / 257).astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 32767).astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((RAMP / 257).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.uint16)), "JPEG2000"),
    ],
    ids="pgm16 pgm12 pfm tiff16 tiff32-of-16 tiff32-of-8 tiff32 float1 float255 float65535 jp2".split(),
)
def test_every_deep_grey_mode_is_the_same_ramp(data: bytes) -> None:
    difference = decode_image(data, LIMIT).int() - torch.from_numpy(RAMP / 257).round().int()
    assert difference.abs().max() <= 1


def test_values_outside_the_range_are_clipped() -> None:
    pixels = np.array([[-5.0, np.nan, np.inf, 0.5, 1.0]], np.float32)
    assert decode_image(encoded(Image.fromarray(pixels), "TIFF"), LIMIT)[0, 0].tolist() == [0, 0, 0, 128, 255]
    assert decode_image(encoded(Image.fromarray(np.array([[-7, 65535]], np.int32)), "TIFF"), LIMIT)[0, 0].tolist() == [
        0,
        255,
    ]


def tiff(pixels: np.ndarray, **tags: int) -> bytes:
    """A TIFF of whole numbers or floats as they are, with the kind of number in its tags."""
    height, width, *bands = pixels.shape
    count = bands[0] if bands else 1
    kinds = {"u": 1, "i": 2, "f": 3}
    data = np.moveaxis(pixels, -1, 0).tobytes() if tags.get("planar") else pixels.tobytes()
    values = {256: width, 257: height, 258: 8 * pixels.dtype.itemsize, 259: 1, 262: 1 if count == 1 else 2, 273: 0}
    values |= {277: count, 278: height, 279: len(data), 339: kinds[pixels.dtype.kind]}
    values |= {262: tags["photometric"]} if "photometric" in tags else {}
    values |= {284: tags["planar"]} if "planar" in tags else {}
    behind = 8 + 2 + 12 * len(values) + 4
    repeated = b""
    entries = b""
    start = behind + (6 * 2 + 12 * 2 if tags.get("planar") else 6 * 2 if count > 1 else 0)
    for tag, value in sorted(values.items()):
        several = count > 1 and (tag in (258, 339) or (tags.get("planar") and tag in (273, 279)))
        kind = 4 if tag in (273, 278, 279) else 3
        each = [value] * count
        if tag == 273:
            each = [start + number * (len(data) // count) for number in range(count)]
        if tag == 279 and several:
            each = [len(data) // count] * count
        if several:
            packed = struct.pack(f"<{count}{'I' if kind == 4 else 'H'}", *each)
            entries += struct.pack("<HHII", tag, kind, count, behind + len(repeated))
            repeated += packed
        else:
            entries += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", each[0])
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(values))
        + entries
        + bytes(4)
        + repeated.ljust(start - behind, b"\0")
        + data
    )


@pytest.mark.parametrize(
    "data",
    [
        tiff((RAMP * 65537).astype(np.uint32)),
        tiff(RAMP.astype(np.uint32)),
        tiff((RAMP / 2).astype(np.int16)),
        tiff((RAMP / 514).astype(np.int8)),
        tiff((65535 - RAMP).astype(np.uint16), photometric=0),
        tiff((RAMP / 65535 * 1.003).astype(np.float32)),
        tiff((RAMP / 257 * 1.003).astype(np.float32)),
        plain_map("Pf\n32 24\n-1.0\n", (RAMP[::-1] / 65535 * 1.003).astype("<f4")),
    ],
    ids="u32 u32-of-16 i16 i8 white-is-zero float-1.003 float-255.8 pfm-1.003".split(),
)
def test_every_kind_of_number_in_a_file_is_scaled_by_its_own_range(data: bytes) -> None:
    difference = decode_image(data, LIMIT).int() - torch.from_numpy(RAMP / 257).round().int()
    assert difference.abs().max() <= 2


@pytest.mark.parametrize("pixels", [RAMP / 65535 * 7.3, RAMP / 32767.5 - 1, RAMP / 65535 * 700.5])
def test_floats_that_fit_no_range_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(UndecodableImage, match=r"neither 0\.\.1 nor"):
        decode_image(tiff(pixels.astype(np.float32)), LIMIT)


def test_floats_that_are_whole_numbers_may_be_a_dark_picture() -> None:
    assert decode_image(tiff(np.array([[0, 1, 2]], np.float32)), LIMIT)[0, 0].tolist() == [0, 1, 2]


def colours16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits in 1 to 4 bands, which Pillow does not write."""
    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


LIGHT = np.where(np.arange(64).reshape(8, 8) == 9, 90.0, 0.3)  # a lamp


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (encoded(Image.fromarray((RAMP / 16.01).astype(np.uint16)), "PNG"), r"above 4093 of 65535, .*16 if of 12"),
        (tiff((RAMP / 16.01).astype(np.uint16)), "above 4093"),
        (tiff((RAMP / 32.1).astype(np.int16)), r"above 2041 of 32767"),
        (tiff((RAMP / 16.01).astype(np.uint32)), "above 4093"),
        (tiff((RAMP / 16.01).round().astype(np.float32)), "above 4093"),
        (tiff((RAMP / 200).round().astype(np.float32)), "above 328"),
        (tiff(LIGHT.astype(np.float32)), "neither"),
        (plain_map("P5 32 24 65535\n", (RAMP / 16.01).astype(">u2")), "above 4093"),
        *((colours16(np.full((4, 5, bands), 4095)), "above 4095") for bands in (1, 2, 3)),
        (tiff(np.full((4, 5, 3), 4095, np.uint16)), "above 4095"),
        *((colours16(np.full((4, 5, bands), 255)), "above 255 of 65535, .*256 if they are of 8") for bands in (2, 3)),
        (tiff(np.full((4, 5, 3), 255, np.uint16)), "above 255"),
    ],
    ids="png16 tiff16 i16 u32 float counts light pgm grey grey-alpha rgb tiff-rgb 8-grey-alpha 8-rgb 8-tiff-rgb".split(),
)
def test_what_would_be_black_is_refused_as_its_range_is_not_clear(data: bytes, problem: str) -> None:
    with pytest.raises(UndecodableImage, match=problem):
        decode_image(data, LIMIT)


@pytest.mark.parametrize("data", [colours16(np.zeros((4, 5, bands))) for bands in (1, 3)])
def test_black_is_black_in_every_range(data: bytes) -> None:
    assert decode_image(data, LIMIT).max() == 0


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_dark_images_of_16_bits_are_as_dark(bands: int) -> None:
    assert decode_image(colours16(np.full((4, 5, bands), 4352)), LIMIT).unique().tolist() == [17]


def test_a_tiff_that_pillow_reads_wrong_is_refused() -> None:
    colours = np.stack([RAMP.astype(np.uint16)] * 3, 2)
    assert torch.equal(decode_image(tiff(colours), LIMIT)[0], torch.from_numpy((colours[..., 0] >> 8).astype(np.uint8)))
    with pytest.raises(UndecodableImage, match="planes of their own"):
        decode_image(tiff(colours, planar=2), LIMIT)


def webp_of_claimed_size(width: int, height: int) -> bytes:
    """34 bytes that claim to be a lossless WebP."""
    bits = (width - 1) | (height - 1) << 14
    body = b"WEBPVP8L" + struct.pack("<IBI", 14, 0x2F, bits) + bytes(9)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_webp_size_is_read_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    for options in ({}, {"lossless": True}, {"exif": exif}, {"save_all": True}):
        assert webp_size(encoded(picture(size=(61, 43)), "WEBP", **options)) == (43, 61)
    bomb = webp_of_claimed_size(16000, 11000)
    assert len(bomb) == 34
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the image was opened"))
    with pytest.raises(UndecodableImage, match="16000x11000 pixels exceed"):
        decode_image(bomb, 67_108_864)


def test_no_memory_ends_the_run_and_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    data = encoded(picture(), "PNG")
    monkeypatch.setattr(Image.Image, "convert", exhausted)
    with pytest.raises(UndecodableImage, match="damaged: it asks for more memory"):
        decode_image(data, LIMIT)
    monkeypatch.setattr("sar_dist.data.images.decode._is_free", lambda pixels: False)
    with pytest.raises(UserError, match="no memory left"):
        decode_image(data, LIMIT)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg CMYK", "png", "gif", "webp", "bmp"])
def test_truncation_never_changes_the_picture(name: str) -> None:
    data = encoded(picture(), "GIF") if name == "gif" else FILES[name]()
    whole, refused = decode_image(data, LIMIT), 0
    ends = range(0, len(data), max(1, len(data) // 300))
    for end in ends:
        try:
            # The last bytes of some formats are checksums and end marks: the pixels may be complete without them.
            assert torch.equal(decode_image(data[:end], LIMIT), whole)
        except UndecodableImage:
            refused += 1
    assert refused >= 0.95 * len(ends)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"not an image",
        bytes(5000),
        b"\xff\xd8" + bytes(5000),
        b"%!PS-Adobe-3.0 EPSF\n",
    ],
)
def test_what_is_no_image_is_reported(data: bytes) -> None:
    with pytest.raises(UndecodableImage) as caught:
        decode_image(data, LIMIT)
    assert caught.value.reason
    assert "0x" not in caught.value.reason, "reasons are the same in every run"


def test_a_png_with_a_flipped_bit_is_no_image() -> None:
    """Pillow gives half of its pixels as they were, and the rest as anything."""
    for kind in ("png", "png palette", "png animated"):
        data = FILES[kind]()
        whole = decode_image(data, 10**6)
        assert torch.equal(decode_image(data + b"what some programs leave behind", 10**6), whole)
        place = data.index(b"IDAT")
        with pytest.raises(UndecodableImage, match="damaged PNG: another checksum of IDAT at byte"):
            decode_image(data[: place + 40] + bytes([data[place + 40] ^ 4]) + data[place + 41 :], 10**6)


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that claim to be a huge image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_decompression_bombs_are_refused_from_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the image was decoded")

    bombs = png_bomb(5000, 5000), png_bomb(60_000, 60_000), jpeg_of_claimed_size(65_000, 65_000)
    monkeypatch.setattr("sar_dist.data.images.decode.decode_jpeg", decoded)
    monkeypatch.setattr(Image.Image, "convert", decoded)
    for data in bombs:
        with pytest.raises(UndecodableImage, match=r"pixels|Bomb"):
            decode_image(data, LIMIT)


def test_limit_is_inclusive() -> None:
    data = encoded(picture(size=(20, 10)), "JPEG")
    assert decode_image(data, 200).shape == (3, 10, 20)
    with pytest.raises(UndecodableImage, match=r"20x10 pixels exceed the limit of 199"):
        decode_image(data, 199)


@pytest.mark.parametrize("size", [(0, 40), (40, 0)])
def test_empty_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UndecodableImage):
        decode_image(jpeg_of_claimed_size(*size), LIMIT)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(FILES)), seed=st.integers(0, 10**6))
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_the_one_exception(name: str, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(FILES[name]())
    for _ in range(rng.randint(1, 8)):
        position = rng.randrange(len(data))
        kind = rng.randrange(3)
        if kind == 0:
            data[position] = rng.randrange(256)
        elif kind == 1:
            data[position] ^= 1 << rng.randrange(8)
        else:
            del data[position : position + rng.randint(1, 20)]
        if not data:
            break
    try:
        image = decode_image(bytes(data), LIMIT)
    except UndecodableImage:
        return
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert 0 < image.shape[1] * image.shape[2] <= LIMIT


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_jpeg_size_reads_any_bytes(data: bytes) -> None:
    for start in (data, b"\xff\xd8" + data, b"\xff\xd8\xff\xe0" + data):
        size = jpeg_size(start)
        assert size is None or len(size) == 2


class _Refusing:
    """A simplejpeg that knows no file."""

    asked = 0

    def decode_jpeg(self, _data: bytes, colorspace: str, *, strict: bool) -> np.ndarray:
        assert (colorspace, strict) == ("RGB", True)
        self.asked += 1
        raise ValueError("Corrupt JPEG data")


def test_what_simplejpeg_refuses_goes_to_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """And CMYK, of which it makes other colours, is not shown to it."""
    fake = _Refusing()
    monkeypatch.setattr(decode, "simplejpeg", fake)
    for name, asked in (("jpeg", 1), ("jpeg grey", 2), ("jpeg CMYK", 2), ("png", 2)):
        data = FILES[name]()
        assert torch.equal(decode_image(data, LIMIT), reference(data))
        assert fake.asked == asked


@pytest.mark.skipif(decode.simplejpeg is None, reason="simplejpeg is not built for this machine")
def test_simplejpeg_changes_no_pixel_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound and damaged files: the same with it as without."""
    rng = random.Random(0)
    sound = [FILES[name]() for name in FILES if name.startswith("jpeg")]
    sound.append(encoded(picture(), "JPEG", keep_rgb=True, subsampling=0))
    damaged = []
    for data in sound * 20:
        broken = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])])
        if broken:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(broken))

    def outcomes() -> list[torch.Tensor | None]:
        results: list[torch.Tensor | None] = []
        for data in [*sound, *damaged]:
            try:
                results.append(decode_image(data, LIMIT))
            except UndecodableImage:
                results.append(None)
        return results

    found = outcomes()
    monkeypatch.setattr(decode, "simplejpeg", None)
    for one, other in zip(found, outcomes(), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (other is not None and torch.equal(one, other))


def test_what_pillow_remarks_does_not_reach_the_user() -> None:
    """Its lines name no file, and what they are about is looked at or left alone here."""
    program = (
        "import io; from PIL import Image; from sar_dist.data.images import decode_pil; out = io.BytesIO(); "
        "Image.new('P', (3, 2)).save(out, 'PNG', transparency=bytes([0, 128])); decode_pil(out.getvalue(), 100); "
        "Image.MAX_IMAGE_PIXELS = 4; decode_pil(out.getvalue(), 100)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "PIL" not in done.stderr


Decoded = TypeVar("Decoded", torch.Tensor, np.ndarray | None)


def outcome(action: Callable[[], Decoded]) -> Decoded | str:
    try:
        return action()
    except UndecodableImage as problem:
        return problem.reason


def draw_box(generator: random.Random, size: tuple[int, int]) -> tuple[int, int, int, int]:
    top, left = generator.randrange(size[0]), generator.randrange(size[1])
    return top, left, generator.randint(1, size[0] - top), generator.randint(1, size[1] - left)


class PartialDecoding:
    """``decode_box`` with one of the ways in which it leaves something out."""

    def __init__(self, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.way, self.whole = way, 0
        self.there = turbojpeg.is_there() if way == "regions" else partial_decode.simplejpeg is not None
        monkeypatch.setattr(turbojpeg, "is_there", lambda: way == "regions" and self.there)
        monkeypatch.setattr(partial_decode, "_FEWEST_PIXELS_AROUND", 0)
        if way != "first rows":
            monkeypatch.setattr(partial_decode, "simplejpeg", None)

        def counted(data: bytes, max_pixels: int) -> torch.Tensor:
            self.whole += 1
            return decode_image(data, max_pixels)

        monkeypatch.setattr(partial_decode, "decode_image", counted)

    def leaves_out(self, data: bytes, box: tuple[int, int, int, int]) -> bool:
        """Whether less than the whole was decoded, to the same pixels; or it is refused for the same reason."""
        size = jpeg_size(data)
        assert size is not None
        whole = outcome(lambda: decode_image(data, LIMIT))
        before = self.whole
        part = outcome(lambda: decode_box(data, LIMIT, size, box))
        if isinstance(whole, str) or whole is None or whole.shape[1:] != size:
            assert part == (whole if isinstance(whole, str) else None)
            return False
        top, left, height, width = box
        assert isinstance(part, np.ndarray)
        assert part.flags.c_contiguous
        expected = whole[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()
        assert np.array_equal(part, expected), (size, box)
        return self.whole == before


@pytest.fixture(params=["regions", "first rows"])
def partial(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PartialDecoding:
    return PartialDecoding(request.param, monkeypatch)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("jpeg")])
def test_a_part_is_that_of_the_whole_image(name: str, partial: PartialDecoding) -> None:
    kind = name.removeprefix("jpeg").strip()
    mode = {"grey": "L", "CMYK": "CMYK"}.get(kind, "RGB")
    options: dict[str, object] = {
        "4:4:4": {"subsampling": 0},
        "progressive": {"progressive": True},
        "with restart markers": {"restart_marker_blocks": 2},
    }.get(kind, {})
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (199, 67, 3), dtype=np.uint8))
    data = encoded(noise.convert(mode), "JPEG", **options)
    generator = random.Random(0)
    boxes = [(0, 0, rows, 67) for rows in range(1, 200, 3)] + [(9, columns, 90, 1) for columns in range(67)]
    boxes += [(0, 0, 1, 1), (198, 66, 1, 1), *(draw_box(generator, (199, 67)) for _ in range(200))]
    alone = sum(partial.leaves_out(data, box) for box in boxes)
    can_be_cut = partial.there and kind not in ("progressive", "CMYK")
    assert alone > len(boxes) / 2 if can_be_cut else not alone, "a crop is decoded alone where that is possible"


@pytest.mark.skipif(not REAL_IMAGES, reason="no real images beside the repository")
def test_parts_of_real_images_are_exact(partial: PartialDecoding) -> None:
    generator = random.Random(0)
    alone = 0
    for path in REAL_IMAGES:
        data = path.read_bytes()
        alone += partial.leaves_out(data, draw_box(generator, jpeg_size(data) or (1, 1)))
    assert not partial.there or alone > len(REAL_IMAGES) / 2


def test_little_is_left_out_of_a_small_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at its markers takes longer than to decode it."""
    monkeypatch.setattr(partial_decode, "sound_jpeg", lambda _: pytest.fail("looked at the markers"))
    data = encoded(picture("RGB", (67, 199)), "JPEG")
    part = decode_box(data, LIMIT, (199, 67), (3, 4, 190, 60))
    assert part is not None
    assert np.array_equal(part, decode_image(data, LIMIT)[:, 3:193, 4:64].permute(1, 2, 0).numpy())


def test_a_header_of_another_size_is_not_believed(partial: PartialDecoding) -> None:
    data = encoded(picture("RGB", (67, 199)), "JPEG")
    assert decode_box(data, LIMIT, (199, 68), (3, 4, 100, 60)) is None
    assert partial.whole == 1
    with pytest.raises(UndecodableImage, match="exceed the limit"):
        decode_box(data, 1000, (199, 67), (3, 4, 100, 60))


def damaged_jpegs(count: int, seed: int) -> Iterator[bytes]:
    """JPEGs of many kinds with flipped bits, cut off, with an end marker put at the cut, with bytes put in or taken out."""
    generator = random.Random(seed)
    inserted = [b"\xff\xd9", b"\xff\xd3", b"\xff\xc4\0\x05abc", b"\xff\xda", b"\xff\xfe\0\x02", b"\xff\x80", b"12345"]
    for _ in range(count):
        image = picture(generator.choice(["RGB", "RGB", "L"]), (generator.randint(1, 90), generator.randint(20, 200)))
        restarts = generator.choice([0, 0, 0, 1, 5])
        data = bytearray(
            encoded(image, "JPEG", subsampling=generator.randrange(3), quality=75, restart_marker_blocks=restarts)
        )
        place = generator.randrange(2, len(data))
        damage = generator.choice(["flip", "flip", "cut", "ended", "inserted", "removed"])
        if damage == "flip":
            for _ in range(generator.choice([1, 3, 30])):
                data[generator.randrange(generator.choice([2, len(data) // 2]), len(data))] ^= 1 << generator.randrange(
                    8
                )
        elif damage == "inserted":
            data[place:place] = generator.choice(inserted)
        elif damage == "removed":
            del data[place : place + generator.randint(1, 40)]
        else:
            data[place:] = b"\xff\xd9" if damage == "ended" else b""
        yield bytes(data)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [1000, pytest.param(60_000, marks=pytest.mark.long)])
def test_damaged_files_have_one_verdict_whatever_part_is_needed(count: int, partial: PartialDecoding) -> None:
    generator = random.Random(1)
    alone = 0
    for data in damaged_jpegs(count, 0):
        size = jpeg_size(data)
        if size is not None and 0 < size[0] * size[1] < 10**6:
            alone += partial.leaves_out(data, draw_box(generator, size))
    assert not partial.there or alone > count / 8
