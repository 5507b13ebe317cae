"""One sample of a stream to one image: label check, random numbers of its own, decoding and augmentation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from sar_dist.data.images.augment import DrawnImage, FastTrainTransform
from sar_dist.data.images.cropped import CroppedImage
from sar_dist.data.images.decode import UndecodableImage
from sar_dist.data.images.drawn_operations import DrawnOperation
from sar_dist.data.images.encoded import EncodedImage
from sar_dist.data.order import Sample
from sar_dist.randomness import kept_generators, seed_generators

Transform = Callable[[bytes], Tensor]
EncodedTransform = Callable[[bytes], EncodedImage]
Draw = Callable[[], list[DrawnOperation]]


class BadSample(Exception):
    """A sample that cannot be used; the message names it and says why."""


class DrawnAhead(NamedTuple):
    """What is done to a sample's image by its transform, and later."""

    now: DrawnImage
    later: list[DrawnOperation]


class SampleDecoder:
    """Encoded samples to images, each with random numbers of its own, whoever decodes it and when.

    Args:
        transform: encoded bytes to uint8 (3, S, S); draws from the global generators only; raises UndecodableImage.
        num_classes: labels must be in 0..num_classes-1.
        seed: with epoch and global id of the sample, the key of its random numbers.
        draw: draws what is done to the image later, right after its transform, from the same generators.
    """

    def __init__(
        self, transform: Transform | EncodedTransform, num_classes: int, seed: int, draw: Draw | None = None
    ) -> None:
        self._transform = transform
        self._draw = draw
        self._num_classes = num_classes
        self._seed = seed
        self._blank: Tensor | None = None

    def decode(self, sample: Sample) -> Tensor:
        """The image of ``sample``, uint8 (3, S, S). Raises BadSample."""
        image = self.decode_and_draw(sample)[0]
        assert isinstance(image, Tensor)
        return image

    def draw_ahead(self, sample: Sample) -> DrawnAhead | None:
        """What will be done to the image of ``sample``, for ``decode_and_draw``; None: that will have to draw it.

        To draw for several samples before the first is decoded saves time: decoding an image drives the code that
        draws out of a core's caches.
        """
        if not isinstance(self._transform, FastTrainTransform) or sample["jpg"] is None:
            return None
        with _generators_of(self._seed, sample):
            now = self._transform.drawn_ahead(sample["jpg"])
            return None if now is None else DrawnAhead(now, self._drawn_later())

    def decode_and_draw(
        self, sample: Sample, ahead: DrawnAhead | None = None
    ) -> tuple[Tensor | CroppedImage | EncodedImage, list[DrawnOperation]]:
        """The image of ``sample`` as the transform gives it, and what is to be done to it later. Raises BadSample.

        ``ahead`` is what ``draw_ahead`` gave for it. The image is not finished with it, and the same once it is.
        """
        name = f"{sample['__url__']}/{sample['__key__']}"
        label = sample["cls"]
        if sample["damage"] is not None:
            raise BadSample(f"{name}: {sample['damage']}")
        if sample["jpg"] is None:
            raise BadSample(f"{name}: no image")
        if not 0 <= label < self._num_classes:
            found = "no label that is a number" if label < 0 else f"label {label}"
            raise BadSample(f"{name}: {found}, expected 0..{self._num_classes - 1}")
        try:
            if ahead is not None:
                assert isinstance(self._transform, FastTrainTransform)
                decoded = self._transform.decoded(sample["jpg"], ahead.now)
                if decoded is not None:
                    return decoded, ahead.later
            with _generators_of(self._seed, sample):
                return self._transform(sample["jpg"]), self._drawn_later()
        except UndecodableImage as error:
            raise BadSample(f"{name}: {error}") from None

    def _drawn_later(self) -> list[DrawnOperation]:
        return [] if self._draw is None else self._draw()

    def blank(self) -> Tensor:
        """A zero image of the shape that the transform gives, for places where there is no image."""
        if self._blank is None:
            file = io.BytesIO()
            Image.new("RGB", (8, 8)).save(file, "JPEG")
            with kept_generators():
                image = self._transform(file.getvalue())
            assert isinstance(image, Tensor)
            self._blank = torch.zeros_like(image)
        return self._blank


@contextlib.contextmanager
def _generators_of(seed: int, sample: Sample) -> Iterator[None]:
    """The global generators as they are for a sample of a run of this seed."""
    # A data-loader worker exists for this alone; elsewhere the generators belong to the model and the user.
    with kept_generators() if get_worker_info() is None else contextlib.nullcontext():
        seed_generators(seed, sample.get("epoch", 0), sample["sample"])
        yield
