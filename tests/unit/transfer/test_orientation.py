"""Images with an EXIF orientation lie as their maps, or the user is asked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sar_dist.data.images import decode_image
from sar_dist.errors import UserError
from sar_dist.transfer.orientation import DrawnOn, exif_orientation, turn_to_box, turn_to_map, turned, turned_back
from sar_dist.transfer.tasks.attention.boxed_images import MASK, BoxedImages
from sar_dist.transfer.tasks.attention.regions import MaskedSamples
from sar_dist.transfer.tasks.attention.turned_masks import TurnedMasks
from sar_dist.transfer.tasks.segmentation.samples import SegmentationSamples

PIXELS = np.random.default_rng(0).integers(0, 4, (8, 12), dtype=np.uint8)


def file_of(pixels: np.ndarray, tag: int = 1, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(pixels).save(out, kind, **({} if tag == 1 else {"exif": exif}))
    return out.getvalue()


def shown(pixels: np.ndarray, tag: int) -> np.ndarray:
    """What a viewer shows, by Pillow."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(file_of(pixels, tag)))))


class One:
    """A ``SampleSet`` of one sample."""

    classes, fingerprint = None, "one"

    def __init__(self, **members: bytes) -> None:
        self.members = {name.replace("_", "."): data for name, data in members.items()}

    def __len__(self) -> int:
        return 1

    def sample(self, number: int) -> tuple[str, dict[str, bytes]]:
        return "x", self.members


@pytest.mark.parametrize("tag", range(1, 9))
def test_turning_is_what_viewers_do(tag: int) -> None:
    stored = torch.from_numpy(PIXELS)
    assert np.array_equal(turned(stored, tag).numpy(), shown(PIXELS, tag))
    assert torch.equal(turned_back(turned(stored, tag), tag), stored)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_tag_is_found_in_every_format(kind: str) -> None:
    assert exif_orientation(file_of(PIXELS, 6, kind)) == 6
    assert exif_orientation(file_of(PIXELS, 1, kind)) == 1
    assert exif_orientation(file_of(PIXELS, 9, kind)) == 1
    assert exif_orientation(b"Exif") == 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("drawn_on", ["stored", "shown", None])
@pytest.mark.parametrize("tag", range(1, 9))
def test_an_image_lies_as_its_map(tag: int, drawn_on: DrawnOn | None, kind: str) -> None:
    """The image's red is the label; a map drawn on either is found by its size, or as the user says."""
    for drawn, labels in (("stored", PIXELS), ("shown", shown(PIXELS, tag))):
        sample = One(jpg=file_of(np.stack([PIXELS] * 3, 2), tag, kind), seg_png=file_of(labels))
        samples = SegmentationSamples(sample, ("a", "b", "c", "d"), zero_is_void=False, drawn_on=drawn_on)
        masks = MaskedSamples(sample, "voc", None, drawn_on)
        if tag in (2, 3, 4) and drawn_on is None:
            for ask in (lambda data=samples: data.read(0), masks.check):
                with pytest.raises(UserError, match=rf"^x: .* EXIF orientation {tag}, .*orientation=stored .*=shown"):
                    ask()
        elif tag not in (2, 3, 4) or drawn == drawn_on:
            _, image, label = samples.read(0)
            assert torch.equal(image[0], label)
            pixels = decode_image(sample.members["jpg"], 10**6)[0]
            assert np.array_equal(masks._lying_as_image(*sample.sample(0)), pixels)
            assert masks.check() == (not np.array_equal(labels, pixels))


def test_square_images_and_maps_with_a_tag_of_their_own() -> None:
    square = PIXELS[:, :8]
    image = file_of(square, 6)
    with pytest.raises(UserError, match="EXIF orientation 6"):
        turn_to_map("x", image, (8, 8), (file_of(square), (8, 8)), None)
    assert turn_to_map("x", image, (8, 8), (file_of(square, 6), (8, 8)), None) == 1
    assert turn_to_map("x", image, (8, 8), (file_of(square), (8, 8)), "shown") == 6
    with pytest.raises(UserError, match="map of labels has the EXIF orientation 3, its image 1"):
        turn_to_map("x", file_of(square), (8, 8), (file_of(square, 3), (8, 8)), None)


def test_a_map_of_neither_size_is_refused() -> None:
    sample = One(jpg=file_of(np.stack([PIXELS] * 3, 2), 6), seg_png=file_of(PIXELS[:4]))
    with pytest.raises(UserError, match="12x8 pixels, its map of labels 12x4"):
        SegmentationSamples(sample, ("a",) * 4, zero_is_void=False).read(0)
    with pytest.raises(UserError, match="12x8 pixels, its mask 12x4"):
        MaskedSamples(sample, "voc", None).check()


@pytest.mark.parametrize("tag", [1, 3, 6])
def test_exact_masks_and_boxes_lie_over_the_stored_pixels(tag: int, tmp_path: Path) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[1:3, 2:7] = 255
    on_show = shown(mask, tag)
    sample = One(jpg=file_of(mask, tag, "JPEG"), mask_png=file_of(on_show))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.jpg").write_bytes(sample.members["jpg"])
    rows, columns = np.nonzero(on_show)
    box = f"{columns.min()},{rows.min()},{columns.max()},{rows.max()}"
    (tmp_path / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\nval/a.jpg,{box}\n")
    for found in (TurnedMasks(sample, MASK, "shown"), BoxedImages(tmp_path, "val", "shown")):
        assert np.array_equal(decode_image(found.sample(0)[1][MASK], 10**6)[0].numpy(), mask)
    if tag != 1:
        with pytest.raises(UserError, match=r"^val/a.jpg: .*orientation=stored"):
            BoxedImages(tmp_path, "val").sample(0)
        assert turn_to_box("x", sample.members["jpg"], "stored") == 1
