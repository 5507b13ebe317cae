"""What ``data.decoder=gpu`` makes the host wait for and send in a step, beside torchvision's decoder itself.

The CPU is in the device's place, and the streams and events are the counted ones.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from counted_device import Event, Stream, Timeline
from host_traffic import HostTraffic
from PIL import Image
from support import jpeg, write_tar
from torch import Tensor

from sar_dist.config import AugmentSettings, DataSettings
from sar_dist.data import DeviceDecoder, TrainLoader, load_manifest
from sar_dist.data.device_decoding import DecodingCount, decode_together, decoded_ahead
from sar_dist.data.images import (
    EncodedTrainTransform,
    FastTrainTransform,
    build_operation_draw,
    build_train_transform,
    canvas_of,
)

CPU = torch.device("cpu")
SIDE, IMAGES, BATCHES = 32, 8, 4


def progressive(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "JPEG", progressive=True)
    return out.getvalue()


@pytest.fixture
def loader(tmp_path: Path) -> TrainLoader:
    """Of 32 JPEGs, one of which is progressive, so that a worker decodes it itself."""
    members: dict[str, bytes] = {}
    for number in range(IMAGES * BATCHES):
        data = progressive(jpeg(number)) if number == 5 else jpeg(number)
        members |= {f"{number:03d}.jpg": data, f"{number:03d}.cls": b"0"}
    write_tar(tmp_path / "train" / "train-0000.tar", members)
    augment = AugmentSettings(where="device")
    host = build_train_transform(augment, SIDE, 10**6)
    assert isinstance(host, FastTrainTransform)
    later = (build_operation_draw(augment, SIDE), canvas_of(augment))
    return TrainLoader(
        load_manifest(tmp_path, "train"),
        data=DataSettings(workers=0),
        transform=EncodedTrainTransform(host),
        global_batch=IMAGES,
        micro_batch=IMAGES,
        rank=0,
        world_size=1,
        seed=0,
        num_classes=1,
        later=later,
    )


def decode_uncounted(traffic: HostTraffic) -> Any:
    """torchvision's decoder, of which only a GPU could say what it waits for."""

    def decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
        with traffic.counted_as(None):
            return decode_together(files, device)

    return decode


def test_a_batch_is_sent_and_nothing_is_asked(loader: TrainLoader) -> None:
    """Pixels that a worker decoded; of each group that is resized together its sizes and places; once the batch's order."""
    traffic = HostTraffic()
    decoder = DeviceDecoder(CPU, decode_uncounted(traffic))
    found: Counter[str] = Counter()
    for number, batch in enumerate(loader.iterate(0, BATCHES)):
        batch["encoded"].pixels.is_on_host = True
        with traffic.watching(), traffic.counted_as(str(number)):
            decoder(batch["encoded"])
        counts = Counter(traffic.counts[str(number)])
        assert counts.pop("operation") > IMAGES
        assert counts == {"host to device": 3 + bool(len(batch["encoded"].pixels))}, traffic.places[str(number)]
        found += counts
    assert found == {"host to device": 3 * BATCHES + 1}, "one batch has an image of the worker's"


class DeviceOfStreams:
    """Puts the counted streams and events in the place of CUDA's, for a decoder on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[str] = []
        self.timeline = Timeline(lambda kind: self.waits.append(f"{kind} in {threading.current_thread().name}"))
        self.decoding = Stream(self.timeline)
        self.read_late: list[Stream] = []
        monkeypatch.setattr(torch.cuda, "stream", self._entered)
        monkeypatch.setattr(torch.cuda, "Event", lambda: Event(self.timeline))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: self.timeline.default)
        monkeypatch.setattr(Tensor, "record_stream", lambda _tensor, stream: self.read_late.append(stream))

    def decoder(self) -> tuple[DeviceDecoder, list[tuple[int, int]]]:
        """A decoder on these streams, and the work that it has queued."""
        decoded: list[tuple[int, int]] = []

        def decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
            decoded.append(self.decoding.queue())
            return decode_together(files, device)

        decoder = DeviceDecoder(CPU, decode)
        decoder._stream = self.decoding  # type: ignore[assignment]
        return decoder, decoded

    @contextmanager
    def _entered(self, stream: Stream) -> Iterator[None]:
        assert stream is self.decoding
        yield


def test_a_step_waits_on_its_stream_and_the_host_for_what_began_a_step_ago(
    loader: TrainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = DeviceOfStreams(monkeypatch)
    decoder, decoded = device.decoder()
    step = device.timeline.default
    taken: list[int] = []
    batches = ((taken.append(len(taken)), batch)[1] for batch in loader.iterate(0, BATCHES))
    for number, _ in enumerate(decoded_ahead(batches, decoder, DecodingCount(), loader.made_here)):
        assert len(taken) == min(number + 2, BATCHES), "the next batch is being decoded"
        # The host has waited for no decoding but those of the steps before, and the step comes after its own.
        assert device.waits == ["event in MainThread"] * number
        assert step.comes_after(decoded[number])
    assert device.waits == ["event in MainThread"] * BATCHES
    assert device.read_late == [step] * BATCHES


def test_a_run_that_stops_leaves_no_file_that_is_still_read(
    loader: TrainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = DeviceOfStreams(monkeypatch)
    batches = decoded_ahead(loader.iterate(0, BATCHES), device.decoder()[0], DecodingCount(), loader.made_here)
    next(batches)
    assert device.waits == []
    batches.close()  # type: ignore[attr-defined]
    assert device.waits == ["event in MainThread"] * 2, "the batch in use, and the one ahead"
