"""Exact masks laid over their images' pixels as the model sees them, where an EXIF orientation has set both apart."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from PIL import Image

from sar_dist.data.images import decode_image
from sar_dist.transfer import MAX_PIXELS, UPRIGHT, DrawnOn, SampleSet, exif_orientation, image_of, turned_back
from sar_dist.transfer.tasks.attention.regions import mask_turn


class TurnedMasks:
    """Samples whose member ``mask`` is turned back by its image's orientation where it was drawn on the picture as shown.

    Every sample must have been looked at by ``mask_turn`` before.
    """

    def __init__(self, samples: SampleSet, mask: str, drawn_on: DrawnOn | None) -> None:
        self._samples = samples
        self._mask = mask
        self._drawn_on = drawn_on
        self.classes = samples.classes
        self.fingerprint = samples.fingerprint

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        key, members = self._samples.sample(number)
        if self._mask not in members or exif_orientation(image_of(members)) == UPRIGHT:
            return key, members
        pixels = decode_image(members[self._mask], MAX_PIXELS)[0]
        turn = mask_turn(key, members, members[self._mask], tuple(pixels.shape), self._drawn_on)
        return key, members if turn == UPRIGHT else {**members, self._mask: png_of_mask(turned_back(pixels, turn))}


def png_of_mask(mask: torch.Tensor) -> bytes:
    """A PNG of a mask, uint8 (H, W)."""
    out = io.BytesIO()
    Image.fromarray(mask.numpy()).save(out, "PNG")
    return out.getvalue()
