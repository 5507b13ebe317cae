"""Prefetching to the device: the same batches in the same order, one ahead of their use."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from counted_device import Event, Stream, Timeline
from torch import Tensor

from sar_dist.data.prefetch import prefetch_to_device
from sar_dist.errors import UserError

KEYS = {"image", "label", "sample", "bad", "bad_keys"}


def batches(count: int, drawn: list[int] | None = None, size: int = 8, pin: bool = False) -> Iterator[dict]:
    """Batches as the loader gives them, each of its own number; ``drawn`` gets the numbers as they are taken."""
    for number in range(count):
        if drawn is not None:
            drawn.append(number)
        tensors: dict[str, Tensor] = {
            "image": torch.full((4, 3, size, size), number, dtype=torch.uint8),
            "label": torch.full((4,), number),
            "sample": torch.arange(4) + 4 * number,
        }
        if pin:
            tensors = {key: value.pin_memory() for key, value in tensors.items()}
        yield {**tensors, "bad": number % 2, "bad_keys": [str(number)]}


def test_on_the_cpu_batches_pass_through() -> None:
    drawn: list[int] = []
    source = list(batches(5))
    found = prefetch_to_device(iter(source), torch.device("cpu"))
    assert all(one is other for one, other in zip(source, found, strict=True))
    lazy = prefetch_to_device(batches(5, drawn), torch.device("cpu"))
    next(lazy)
    assert drawn == [0]


def test_what_is_copied_from_stays_until_the_copy_is_done_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a worker wrote it, it would write again. Counted streams stand in for CUDA's; also if the run stops early."""
    sources: list[weakref.ref[Tensor]] = []

    def alive() -> list[int]:
        return [number for number, source in enumerate(sources) if source() is not None]

    held: list[list[int]] = []

    def made() -> Iterator[dict]:
        for number in range(4):
            held.append(alive())
            tensor = torch.full((2,), number)
            sources.append(weakref.ref(tensor))
            batch = {"image": tensor}
            del tensor
            yield batch
            del batch

    waits: list[list[int]] = []
    timeline = Timeline(lambda _kind: waits.append(alive()))
    copying, step = Stream(timeline), timeline.default
    copying.device = torch.device("meta")  # type: ignore[attr-defined]  # what arrives there does not hold the source
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: copying)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(timeline))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: step)
    monkeypatch.setattr(Tensor, "record_stream", lambda *_: None)
    device = SimpleNamespace(type="cuda")
    for number, batch in enumerate(prefetch_to_device(made(), device)):  # type: ignore[arg-type]
        assert batch["image"].device == copying.device  # type: ignore[attr-defined]
        assert alive() == [number, number + 1][: 4 - number]
    assert waits == [[0, 1], [1, 2], [2, 3], [3]]
    assert held == [[], [0], [1], [2]], "while the next is awaited, a worker may have all others"
    sources.clear()
    waits.clear()
    stopped = prefetch_to_device(made(), device)  # type: ignore[arg-type]
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    assert waits == [[0, 1], [0, 1]]


@pytest.mark.gpu
@pytest.mark.parametrize("pin", [True, False])
def test_on_a_gpu_they_arrive_in_order_and_whole(pin: bool) -> None:
    """With memory that is given back and taken again, and a device that lags far behind the host."""
    device, count = torch.device("cuda"), 40
    drawn: list[int] = []
    sums, weight = [], torch.ones(2048, 2048, device=device)
    for number, batch in enumerate(prefetch_to_device(batches(count, drawn, size=256, pin=pin), device)):
        assert drawn[-1] == min(number + 1, count - 1), "one batch ahead"
        assert batch.keys() == KEYS
        assert (batch["bad"], batch["bad_keys"]) == (number % 2, [str(number)])
        assert batch["image"].device.type == batch["sample"].device.type == "cuda"
        for _ in range(10):
            weight = (weight @ weight).clamp_(0, 1)
        sums.append(torch.stack([batch["image"].long().sum(), batch["label"].sum(), batch["sample"].sum()]))
        if number == 7:
            assert batch["sample"].tolist() == [28, 29, 30, 31]
    pixels = 4 * 3 * 256 * 256
    expected = [[number * pixels, 4 * number, 16 * number + 6] for number in range(count)]
    assert torch.stack(sums).tolist() == expected


@pytest.mark.gpu
def test_errors_of_the_loader_come_through() -> None:
    def failing() -> Iterator[dict]:
        yield from batches(3)
        raise UserError("too many bad samples")

    with pytest.raises(UserError, match="too many"):
        list(prefetch_to_device(failing(), torch.device("cuda")))
