"""The counters themselves: what they must see, and what is no wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from counted_device import CountedAccelerator, Event, Stream, Timeline
from host_traffic import HostTraffic

ON_DEVICE = torch.arange(4.0)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (lambda x: x.sum().item(), {"item": 1}),
        (lambda x: float(x.sum()), {"item": 1}),
        (lambda x: 1 if x.sum() > 0 else 0, {"item": 1}),
        (lambda x: torch.equal(x, x), {"item": 1}),
        (lambda x: x.tolist(), {"device to host": 1}),
        (lambda x: x.cpu(), {"device to host": 1}),
        (lambda x: x.to("cpu", non_blocking=True), {"device to host": 1}),
        (lambda x: x.nonzero(), {"shape": 1}),
        (lambda x: x[x > 1], {"shape": 1}),
        (lambda x: x.masked_select(x > 1), {"shape": 1}),
        (lambda x: x.unique(), {"shape": 1}),
        (lambda x: x.repeat_interleave(x.long()), {"shape": 1}),
        (lambda x: torch.tensor(3.0, device=x.device), {"host to device": 1}),
        (lambda x: torch.tensor([1, 2]).to(x.device), {"host to device": 1}),
        (lambda x: torch.tensor(3.0).item(), {}),
        (lambda x: torch.where(x > 1, x, 0).masked_fill(x > 2, 5), {}),
        (lambda x: torch.full((2,), 3.0) + torch.zeros(2) * 2 + x.repeat_interleave(2)[:2], {}),
    ],
)
def test_waits_of_the_host_are_counted(code: Callable[[torch.Tensor], Any], expected: dict[str, int]) -> None:
    traffic = HostTraffic()
    with traffic.watching(), traffic.counted_as("code"):
        code(ON_DEVICE)
    found = Counter(traffic.counts.get("code", {}))
    del found["operation"]
    assert found == expected


def test_waits_inside_of_the_backward_pass_are_counted() -> None:
    traffic, leaf = HostTraffic(), torch.ones(3, requires_grad=True)
    leaf.register_hook(lambda gradient: gradient * (gradient.sum().item() + 1))
    with traffic.watching(), traffic.counted_as("backward"):
        leaf.square().sum().backward()
    assert traffic.counts["backward"]["item"] == 1


def test_views_and_what_no_phase_covers_are_no_operations() -> None:
    traffic = HostTraffic()
    with traffic.watching():
        ON_DEVICE.sum().item()
        with traffic.counted_as("code"):
            (ON_DEVICE.view(2, 2).t()[0] + 1).detach()
    assert traffic.counts == {"code": Counter(operation=1)}


def test_order_between_streams() -> None:
    waited: list[str] = []
    timeline = Timeline(waited.append)
    work, other, third = timeline.default, Stream(timeline), Stream(timeline)
    written = work.queue()
    assert work.comes_after(written)
    assert not other.comes_after(written)
    event = Event(timeline)
    event.record(work)
    later = work.queue()
    other.wait_event(event)
    assert other.comes_after(written)
    assert not other.comes_after(later)
    third.wait_stream(other)
    assert third.comes_after(written)
    assert waited == []


@pytest.mark.parametrize("kind", ["device", "stream", "event"])
def test_a_wait_of_the_host_orders_what_it_queues_next(kind: str) -> None:
    waited: list[str] = []
    accelerator = CountedAccelerator(waited.append)
    work, other, event = accelerator.default_stream(), accelerator.Stream(), accelerator.Event()
    written = work.queue()
    event.record(work)
    {"device": accelerator.synchronize, "stream": work.synchronize, "event": event.synchronize}[kind]()
    assert waited == [kind]
    assert other.comes_after(written)
    with accelerator.stream(other):
        assert accelerator.current_stream() is other


def test_numbers_that_the_accelerator_makes_a_tensor_of() -> None:
    waited: list[str] = []
    accelerator = CountedAccelerator(waited.append)
    assert accelerator.FloatTensor([1.0]).item() == 1.0
    assert accelerator.FloatTensor(3).shape == (3,)
    assert waited == ["host to device"]
