"""The split of a step's time, with a clock that the test moves."""

import time

import pytest
import torch

from sar_dist.observe.step_timer import MEASURED, PARTS, HostClock, StepTimer
from sar_dist.observe.tensorboard_charts import CHARTS
from sar_dist.regions import observed_by, region

CPU = torch.device("cpu")


class Streams:
    """Two streams of work; like a device, it does not say what time it was before it has finished."""

    def __init__(self):
        self.now = 100.0
        self.current = 1
        self.finished = False

    def mark(self):
        return (self.now, self.current)

    def seconds(self, begin, end):
        assert self.finished, "the step waited for the device"
        assert begin[1] == end[1], "marks of two streams cannot be compared"
        return end[0] - begin[0]

    def stream(self):
        return self.current


@pytest.fixture
def streams():
    return Streams()


def work(streams, part, seconds):
    with region(part):
        streams.now += seconds


def test_parts_are_exclusive_and_sum_to_the_step(streams):
    timer = StepTimer(CPU, streams)
    with timer.step():
        for _ in range(3):  # accumulated micro-batches
            with region("data_wait"):
                streams.now += 1.0
                work(streams, "host_to_device", 0.25)
            work(streams, "forward", 2.0)
            streams.now += 0.5
            with region("backward"):
                streams.now += 3.0
                work(streams, "communication", 0.75)
                streams.now += 1.0
        with region("optimizer"):
            work(streams, "communication", 0.5)
            streams.now += 0.25
    streams.finished = True
    sums = timer.take()
    expected = {
        "data_wait": 3.0,
        "host_to_device": 0.75,
        "forward": 6.0,
        "backward": 12.0,
        "optimizer": 0.25,
        "communication": 2.75,
        "other": 1.5,
        "total": 26.25,
        "steps": 1.0,
    }
    assert sums == pytest.approx(dict.fromkeys(MEASURED, 0.0) | expected)
    assert sum(sums[part] for part in PARTS) == pytest.approx(sums["total"])


def test_what_runs_on_another_stream_is_beside_the_step(streams):
    timer = StepTimer(CPU, streams)
    with timer.step(), region("backward"):
        streams.current = 2
        with region("communication"):
            streams.now += 4.0
        streams.current = 1
    streams.finished = True
    sums = timer.take()
    assert (sums["communication"], sums["communication_overlapped"], sums["backward"]) == (0.0, 4.0, 4.0)


def test_samples_are_summed_and_taken_once(streams):
    timer = StepTimer(CPU, streams)
    for _ in range(2):
        with timer.step():
            work(streams, "forward", 1.0)
    streams.finished = True
    sums = timer.take()
    assert (sums["forward"], sums["steps"]) == (2.0, 2.0)
    assert set(timer.take().values()) == {0.0}


def test_a_step_that_raises_is_not_counted_and_leaves_nothing_behind(streams):
    timer = StepTimer(CPU, streams)
    with pytest.raises(ArithmeticError), timer.step(), region("forward"):
        raise ArithmeticError
    streams.finished = True
    assert timer.take()["steps"] == 0
    assert region("forward") is region("backward")


def test_an_unobserved_region_costs_next_to_nothing():
    assert region("forward") is region("backward")  # one object for all, that does nothing
    start = time.perf_counter()
    for _ in range(10_000):
        with region("forward"):
            pass
    assert time.perf_counter() - start < 0.1


def test_observers_may_be_nested():
    seen = []

    def observer(name):
        seen.append(name)
        return HostObserver()

    class HostObserver:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    with observed_by(lambda name: pytest.fail("the inner observer counts")):
        with observed_by(observer), region("forward"):
            pass
        with pytest.raises(pytest.fail.Exception):
            region("forward")
    assert seen == ["forward"]


def test_the_host_clock_measures_time():
    timer = StepTimer(CPU)
    assert isinstance(timer._clock, HostClock)
    with timer.step(), region("forward"):
        time.sleep(0.02)
    sums = timer.take()
    assert 0.02 <= sums["forward"] <= sums["total"] < 1.0


@pytest.mark.gpu
@pytest.mark.gpu
def test_cuda_events_time_the_device_and_not_the_host():
    device = torch.device("cuda")
    timer, side = StepTimer(device), torch.cuda.Stream()
    matrix = torch.randn(4096, 4096, device=device)
    for _ in range(2):  # the first one warms up
        timer.take()
        with timer.step():
            with region("forward"):
                for _ in range(50):
                    matrix @ matrix
            with torch.cuda.stream(side), region("communication"):
                matrix @ matrix
            with region("data_wait"):
                torch.cuda._sleep(10_000_000)
    sums = timer.take()
    assert sums["forward"] > 1e-3
    assert sums["data_wait"] > 1e-3
    assert sums["communication"] == 0 < sums["communication_overlapped"]
    assert sum(sums[part] for part in PARTS) == pytest.approx(sums["total"], rel=1e-3)


def test_the_chart_of_the_parts_has_all_of_them():
    (tags,) = (tags for charts in CHARTS.values() for title, tags in charts.items() if "seconds of a step" in title)
    assert tags == [f"^step_seconds/{name}$" for name in MEASURED]
