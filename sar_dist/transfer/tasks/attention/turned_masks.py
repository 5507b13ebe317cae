"""Exact masks laid over their images' pixels as the model sees them, where an EXIF orientation has set both apart."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from PIL import Image

from sar_dist.transfer import UPRIGHT, DrawnOn, SampleSet, exif_orientation, image_of, turned_back
from sar_dist.transfer.tasks.attention.exact_masks import decode_mask, is_plain_grey
from sar_dist.transfer.tasks.attention.regions import mask_turn


class TurnedMasks:
    """Samples whose member ``mask`` is 8-bit grey, and turned back by its image's orientation where it was drawn on the picture as shown.

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
        if self._mask not in members:
            return key, members
        upright = exif_orientation(image_of(members)) == UPRIGHT
        if upright and is_plain_grey(members[self._mask]):  # most are, and need not be written anew
            return key, members
        pixels = torch.from_numpy(decode_mask(members[self._mask], key))
        turn = UPRIGHT if upright else mask_turn(key, members, members[self._mask], tuple(pixels.shape), self._drawn_on)
        return key, {**members, self._mask: png_of_mask(turned_back(pixels, turn))}


def png_of_mask(mask: torch.Tensor) -> bytes:
    """A PNG of a mask, uint8 (H, W)."""
    out = io.BytesIO()
    Image.fromarray(mask.numpy()).save(out, "PNG")
    return out.getvalue()
