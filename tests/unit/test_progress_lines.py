"""The line that every long loop prints now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from sar_dist.progress import Progress, format_duration, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until a test moves it."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.time)
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (18120, "5h02m"), (183600, "2d03h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_line_every_20_seconds_with_speed_and_time_left(clock: SimpleNamespace) -> None:
    said: list[str] = []
    progress = Progress("val tokens", 1000, "images", said.append)
    shown = []
    for done in range(100, 600, 100):
        clock.time += 8
        shown.append(progress.show(done))
    assert shown == [False, False, True, False, False]
    assert said == ["val tokens: 300 of 1000 images, 12 a second, 56s left"]
    clock.time += 8
    assert progress.show(1000)
    assert said[1:] == ["val tokens: 1000 of 1000 images, 21 a second, 0s left"]
    assert not progress.show(1000)


def test_what_an_earlier_start_did_is_no_speed(clock: SimpleNamespace) -> None:
    said: list[str] = []
    progress = Progress("training", 1000, "steps", said.append, done=900)
    clock.time += 20
    progress.show(900)
    progress_line = "training: 900 of 1000 steps"
    assert said == [progress_line]  # a speed of 0 would take for ever
    clock.time += 30
    progress.show(910)
    assert said[1] == "training: 910 of 1000 steps, 0.2 a second, 7m30s left"


def test_details_are_made_for_a_line_only_and_the_last_line_is_said(clock: SimpleNamespace) -> None:
    said: list[str] = []
    made: list[int] = []

    def details() -> str:
        made.append(1)
        return "loss 0.5000"

    progress = Progress("training", 3, "steps", said.append, last_line=True)
    for done in (1, 2, 3):
        clock.time += 1
        progress.show(done, details)
    assert said == ["training: 3 of 3 steps, 1 a second, 0s left, loss 0.5000"]
    assert made == [1]


def test_tracked_items_pass_through_with_lines_on_stderr(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)

    def slow() -> Iterator[int]:
        for number in range(4):
            clock.time += 10
            yield number

    assert list(track(slow(), 4, "verifying the val shards")) == [0, 1, 2, 3]
    text = capsys.readouterr()
    assert text.out == ""
    assert text.err.splitlines() == [
        "verifying the val shards: 2 of 4, 0.1 a second, 20s left",
        "verifying the val shards: 4 of 4, 0.1 a second, 0s left",
    ]
