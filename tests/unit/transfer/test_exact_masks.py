"""``mask.png`` in the modes in which tools write it: the same object, or one line, whichever task reads it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sar_dist.data.images import UndecodableImage
from sar_dist.errors import UserError
from sar_dist.transfer.tasks.attention.exact_masks import check_some_white, decode_mask, is_plain_grey
from sar_dist.transfer.tasks.attention.regions import MaskedSamples
from sar_dist.transfer.tasks.attention.turned_masks import TurnedMasks

OBJECT = np.zeros((4, 6), bool)
OBJECT[1:3, 2:5] = True
WHITE_OBJECT = np.where(OBJECT, 255, 0).astype(np.uint8)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def with_palette(*colors: int) -> Image.Image:
    image = Image.fromarray(OBJECT.astype(np.uint8)).convert("P")
    image.putdata(OBJECT.astype(np.uint8).ravel().tolist())
    image.putpalette(list(colors))
    return image


GREY = Image.fromarray(WHITE_OBJECT)
READ = {
    "grey": GREY,
    "one bit": GREY.convert("1"),
    "sixteen bits": Image.fromarray(WHITE_OBJECT.astype(np.uint16) * 257),
    "colour": GREY.convert("RGB"),
    "opaque": GREY.convert("RGBA"),
    "black and white palette": with_palette(0, 0, 0, 255, 255, 255),
}
REFUSED = {
    "alpha": (Image.merge("LA", (Image.new("L", (6, 4), 255), GREY)), "is transparent in places"),
    "red": (Image.merge("RGB", (GREY, Image.new("L", (6, 4)), Image.new("L", (6, 4)))), "has colours"),
    "palette of VOC": (with_palette(0, 0, 0, 128, 0, 0), "has colours"),
}


class Single:
    classes = None
    fingerprint = "single"

    def __init__(self, mask: bytes) -> None:
        self.members = {"png": png(GREY), "mask.png": mask}

    def __len__(self) -> int:
        return 1

    def sample(self, number: int) -> tuple[str, dict[str, bytes]]:
        return "a", self.members


@pytest.mark.parametrize("mode", READ)
def test_every_task_sees_one_object(mode: str) -> None:
    data = png(READ[mode])
    assert np.array_equal(decode_mask(data, "a"), WHITE_OBJECT)
    masked = MaskedSamples(Single(data), "mask", None)
    masked.check()
    stretched = np.asarray(Image.fromarray(OBJECT).resize((8, 8), Image.Resampling.NEAREST))
    assert np.array_equal(masked.labels(0, 8).astype(bool), stretched)
    written = TurnedMasks(Single(data), "mask.png", None).sample(0)[1]["mask.png"]
    assert is_plain_grey(written)
    assert np.array_equal(np.array(Image.open(io.BytesIO(written))), WHITE_OBJECT)


@pytest.mark.parametrize("mode", REFUSED)
def test_what_does_not_say_what_the_object_is_is_refused(mode: str) -> None:
    image, message = REFUSED[mode]
    with pytest.raises(UserError, match=rf"sample a: mask\.png {message}.*; save it as 8-bit grey"):
        MaskedSamples(Single(png(image)), "mask", None).check()


@pytest.mark.parametrize(("value", "factor"), [(1, 255), (127, 2)])
def test_masks_without_white_are_refused_with_their_highest_value(value: int, factor: int) -> None:
    data = png(Image.fromarray(OBJECT.astype(np.uint8) * value))
    with pytest.raises(UserError, match=rf"highest value is {value}, and an object is white, 128 .* by {factor}$"):
        MaskedSamples(Single(data), "mask", None).check()
    check_some_white(128, "a")


def test_damaged_masks() -> None:
    for data in (b"", png(GREY)[:50], b"no image at all"):
        with pytest.raises(UndecodableImage):
            decode_mask(data, "a")
