"""JPEG decoding on the training device, a batch ahead of its use, with ``data.decoder=gpu``.

A worker has checked a sample and drawn its crop; here its JPEG is decoded, cropped and resized. That happens on a thread
and, on a GPU, a stream of their own: decoders wait for their own work, which the training step must not. A batch that
the device refuses is made anew on the CPU of this process, with the substitutes that decoding there always gives.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from sar_dist.data.batching import Batch
from sar_dist.data.images import EncodedBatch, crop_and_resize, moved
from sar_dist.data.loader import TrainLoader
from sar_dist.data.prefetch import prefetch_to_device
from sar_dist.errors import UserError, text_of
from sar_dist.output import say, warn

Decode = Callable[[list[Tensor], torch.device], list[Tensor]]

# More batches than this share that the device refuses are its fault, not theirs; judged from so many batches on.
_MOST_REFUSED = 0.1
_JUDGED_FROM = 20


class DeviceRefused(Exception):
    """The device cannot decode a batch; the message says why."""


class _Decoded(NamedTuple):
    """Images on the device, uint8 (b, 3, S, S), and the event at which they are there; None: they are."""

    images: Tensor
    done: torch.cuda.Event | None

    def wait(self) -> None:
        """Until the images are there; the decoder reads the files until then."""
        if self.done is not None:
            self.done.synchronize()


def decode_together(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """JPEGs, each uint8 (bytes,) on the host, to uint8 (3, H, W) on the device. Raises RuntimeError."""
    images: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    return images


def decoder_problem(device: torch.device) -> str | None:
    """Why torchvision cannot decode a JPEG on the device; None: it can."""
    file = encode_jpeg(torch.full((3, 16, 16), 128, dtype=torch.uint8))
    try:
        decode_together([file], device)
    except RuntimeError as error:
        return text_of(error)[:200]
    return None


class DeviceDecoder:
    """Decodes, crops and resizes whole batches.

    Args:
        device: where to; any that torchvision decodes on, the CPU too.
        decode: what decodes the files of a batch; raises RuntimeError.
    """

    def __init__(self, device: torch.device, decode: Decode = decode_together) -> None:
        self._device = device
        self._decode = decode
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: EncodedBatch) -> _Decoded:
        """Raises DeviceRefused."""
        if self._stream is None:
            return _Decoded(self._images(batch), None)
        with torch.cuda.stream(self._stream):
            try:
                images = self._images(batch)
            except DeviceRefused:
                self._stream.synchronize()  # what it began reads the files
                raise
            done = torch.cuda.Event()
            done.record(self._stream)
        return _Decoded(images, done)

    @torch.no_grad()
    def _images(self, batch: EncodedBatch) -> Tensor:
        layout = batch.layout
        pixels = batch.pixels.to(self._device, non_blocking=True)
        if not layout.places:
            return pixels
        try:
            decoded = self._decode(batch.files(), self._device)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise DeviceRefused(text_of(error)[:200]) from error
        if [tuple(image.shape) for image in decoded] != [(3, *size) for size in layout.sizes]:
            raise DeviceRefused("it gave images of other sizes than the files say")
        resized = crop_and_resize(decoded, layout.boxes, layout.side, layout.interpolation)
        if len(layout.places) == layout.images:
            return resized
        places = set(layout.places)
        rest = [place for place in range(layout.images) if place not in places]
        # Whose turn it is, from the order of the two parts to that of the batch.
        turns = [*layout.places, *rest]
        order = torch.tensor(sorted(range(layout.images), key=turns.__getitem__))
        return torch.cat([resized, pixels])[moved(order, self._device)]


class DecodingCount:
    """What of the training images the CPU decoded although ``data.decoder=gpu`` is set; said once for each reason.

    ``images`` counts those that arrived, ``on_host`` those that a worker decoded, by reason, ``batches`` the batches, and
    ``refused`` those of them that the device refused.
    """

    def __init__(self) -> None:
        self.images = 0
        self.batches = 0
        self.refused = 0
        self.on_host: Counter[str] = Counter()

    def add(self, batch: EncodedBatch) -> None:
        self.images += batch.layout.images
        self.batches += 1
        for reason in batch.layout.reasons.keys() - self.on_host.keys():
            say(f"data.decoder=gpu: some images are decoded on the CPU ({reason})")
        self.on_host += batch.layout.reasons

    def refuse(self, reason: str) -> None:
        """Count a batch that the device refused. Raises UserError if it refuses too many."""
        if not self.refused:
            warn(f"warning: a batch is decoded on the CPU, because the device refused it: {reason}")
        self.refused += 1
        if self.batches >= _JUDGED_FROM and self.refused > _MOST_REFUSED * self.batches:
            raise UserError(
                f"the device refused {self.refused} of {self.batches} batches ({reason}); set data.decoder=cpu in a new run"
            )

    def __str__(self) -> str:
        listed = ", ".join(f"{count} {reason}" for reason, count in self.on_host.most_common())
        return (
            f"data.decoder=gpu: {self.on_host.total()} of {self.images} images were decoded on the CPU"
            + (f" ({listed})" if listed else "")
            + f"; the device refused {self.refused} of {self.batches} batches"
        )


def decoded_ahead(
    batches: Iterator[Batch], decoder: DeviceDecoder, count: DecodingCount, made_here: Callable[[Batch], Batch]
) -> Iterator[Batch]:
    """The batches in order with ``image`` on the device instead of ``encoded``, each decoded while the one before is used.

    Args:
        batches: of a ``TrainLoader`` whose images are encoded.
        decoder: used on one thread.
        count: gets what the CPU decoded.
        made_here: the same batch, decoded on the CPU of this process; called on the caller's thread.
    """
    with ThreadPoolExecutor(1, "decoding") as thread:
        following = _begun(batches, thread, decoder)
        try:
            while following is not None:
                ready, following = following, _begun(batches, thread, decoder)
                batch, images = ready
                count.add(batch["encoded"])
                try:
                    decoded = images.result()
                except DeviceRefused as reason:
                    count.refuse(str(reason))
                    yield made_here(batch)
                    continue
                try:
                    yield {
                        **{key: value for key, value in batch.items() if key != "encoded"},
                        "image": _usable(decoded),
                    }
                finally:
                    # The batch's files may go after that. It began a step ago, so that this does not wait in practice.
                    decoded.wait()
        finally:
            if following is not None:
                with contextlib.suppress(DeviceRefused):
                    following[1].result().wait()
    say(str(count))


def _begun(
    batches: Iterator[Batch], thread: ThreadPoolExecutor, decoder: DeviceDecoder
) -> tuple[Batch, Future[_Decoded]] | None:
    batch = next(batches, None)
    return None if batch is None else (batch, thread.submit(decoder, batch["encoded"]))


def _usable(decoded: _Decoded) -> Tensor:
    """The images, for whose completion the current stream waits."""
    if decoded.done is not None:
        stream = torch.cuda.current_stream(decoded.images.device)
        stream.wait_event(decoded.done)
        # Allocated on the decoder's stream, which must not reuse the memory before the step has done with it.
        decoded.images.record_stream(stream)
    return decoded.images


def device_batches(loader: TrainLoader, start_batch: int, stop_batch: int, device: torch.device) -> Iterator[Batch]:
    """The loader's micro-batches of the global batches [start_batch, stop_batch), on their way to the device ahead of use.

    Whatever the loader leaves to the device is decoded there. The workers start now.
    """

    def on_the_way(batches: Iterator[Batch]) -> Iterator[Batch]:
        copied = prefetch_to_device(batches, device)
        if not loader.leaves_decoding:
            return copied
        return decoded_ahead(copied, DeviceDecoder(device), DecodingCount(), loader.made_here)

    return loader.iterate(start_batch, stop_batch, registered=True, on_the_way=on_the_way)
