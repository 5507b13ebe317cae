"""A stand-in for a GPU on the CPU: DeepSpeed takes the paths of an asynchronous device, and whoever waits is counted.

Its streams and events compute nothing. They keep vector clocks, so that it can be asked whether work on one stream is
ordered after work on another, which on a GPU decides between a right result and a race.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

Clock = dict[int, int]
Waited = Callable[[str], None]


class DeviceName(str):
    """Names the stand-in, which is not the host although both are "cpu"."""

    __slots__ = ()


class Timeline:
    """All streams of the device, what the host has waited for, and which stream is current."""

    def __init__(self, waited: Waited) -> None:
        self.waited = waited
        self.host: Clock = {}
        self.streams: list[Stream] = []
        self.default = Stream(self)
        self.current = self.default


class Stream:
    """Work is queued on it one after the other; ``seen`` is what is done before anything that is queued from now on."""

    def __init__(self, timeline: Timeline, *_: Any, **__: Any) -> None:
        self.timeline = timeline
        self.number = len(timeline.streams)
        self.seen: Clock = {}
        timeline.streams.append(self)

    def queue(self) -> tuple[int, int]:
        """Queue one piece of work; its stream and place there."""
        merge(self.seen, self.timeline.host)
        self.seen[self.number] = self.seen.get(self.number, 0) + 1
        return self.number, self.seen[self.number]

    def comes_after(self, work: tuple[int, int]) -> bool:
        """Whether what is queued now on this stream runs after ``work`` is done."""
        stream, place = work
        return max(self.seen.get(stream, 0), self.timeline.host.get(stream, 0)) >= place

    def wait_stream(self, other: Stream) -> None:
        merge(self.seen, other.seen)

    def wait_event(self, event: Event) -> None:
        merge(self.seen, event.seen)

    def record_event(self, event: Event | None = None) -> Event:
        event = Event(self.timeline) if event is None else event
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.timeline.waited("stream")
        merge(self.timeline.host, self.seen)

    def query(self) -> bool:
        return True


class Event:
    """A place on a stream."""

    def __init__(self, timeline: Timeline, **_: Any) -> None:
        self.timeline = timeline
        self.seen: Clock = {}

    def record(self, stream: Stream | None = None) -> None:
        stream = self.timeline.current if stream is None else stream
        merge(stream.seen, self.timeline.host)
        self.seen = dict(stream.seen)

    def wait(self, stream: Stream | None = None) -> None:
        (self.timeline.current if stream is None else stream).wait_event(self)

    def synchronize(self) -> None:
        self.timeline.waited("event")
        merge(self.timeline.host, self.seen)

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Event) -> float:
        return 0.0


def merge(clock: Clock, other: Clock) -> None:
    """Let ``clock`` know all that ``other`` knows."""
    for stream, place in other.items():
        clock[stream] = max(clock.get(stream, 0), place)


class CountedAccelerator(CPU_Accelerator):
    """DeepSpeed's face of the stand-in; its tensors are on the CPU.

    Args:
        waited: told "device", "stream" or "event" when the host waits for it, and "host to device" when numbers of the
            host are made a tensor of the device.
    """

    def __init__(self, waited: Waited) -> None:
        super().__init__()
        self.timeline = Timeline(waited)

    def is_synchronized_device(self) -> bool:
        return False

    def device_name(self, device_index: int | None = None) -> str:
        return DeviceName("cpu")

    def current_device_name(self) -> str:
        return DeviceName("cpu")

    def synchronize(self, device_index: int | None = None) -> None:
        self.timeline.waited("device")
        for stream in self.timeline.streams:
            merge(self.timeline.host, stream.seen)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        previous, self.timeline.current = self.timeline.current, stream
        try:
            yield
        finally:
            self.timeline.current = previous

    def current_stream(self, device_index: int | None = None) -> Stream:
        return self.timeline.current

    def default_stream(self, device_index: int | None = None) -> Stream:
        return self.timeline.default

    def __getattribute__(self, name: str) -> Any:
        if name in ("Stream", "Event"):  # the base class has properties of these names, which hide the classes above
            timeline = super().__getattribute__("timeline")
            return functools.partial(Stream if name == "Stream" else Event, timeline)
        found = super().__getattribute__(name)
        if name.endswith("Tensor") and isinstance(found, type):
            return self._filled(found)
        return found

    def _filled(self, kind: Any) -> Callable[..., torch.Tensor]:
        def make(*arguments: Any) -> torch.Tensor:
            if arguments and isinstance(arguments[0], list | tuple):
                self.timeline.waited("host to device")
            return kind(*arguments)

        return make


def install(waited: Waited) -> CountedAccelerator:
    """Let DeepSpeed compute on the stand-in from now on, in this process."""
    accelerator = CountedAccelerator(waited)
    set_accelerator(accelerator)
    # That memory is used on another stream is said to the allocator of GPUs alone; the CPU has none to say it to.
    torch.Tensor.record_stream = lambda *_: None  # type: ignore[method-assign, assignment]
    return accelerator
