import pytest
import torch

from sar_dist.observe.device_peak import DevicePeak, find_peak, measure_cpu_flops, peak_flops
from sar_dist.observe.throughput import Throughput, peak_memory_gib


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def warmed(*arguments, **options):
    """A throughput whose first step, which is not counted, is over."""
    throughput = Throughput(*arguments, **options)
    throughput.step_done()
    return throughput


def test_the_clock_starts_after_the_first_step(clock):
    """It compiles kernels, fills the allocator and waits for the first data."""
    throughput = Throughput(8, None, torch.device("cpu"), clock=clock)
    with throughput.waiting_for_data():
        clock.now += 100
    clock.now += 200
    throughput.step_done()
    assert list(throughput.summary()) == ["peak_memory_gib"]
    for _ in range(2):
        clock.now += 4
        throughput.step_done()
    summary = throughput.summary()
    assert (summary["step_seconds"], summary["images_per_second"], summary["data_wait_share"]) == (4, 2, 0)


def test_figures_of_an_interval(clock):
    throughput = warmed(256, None, torch.device("cpu"), world_size=4, clock=clock)
    for _ in range(5):
        with throughput.waiting_for_data():
            clock.now += 0.5
        clock.now += 1.5
        throughput.step_done()
    summary = throughput.summary()
    assert summary.pop("peak_memory_gib") > 0
    assert summary == pytest.approx(
        {
            "images_per_second": 128.0,
            "images_per_second_per_process": 32.0,
            "step_seconds": 2.0,
            "data_wait_share": 0.25,
        }
    )


def test_each_summary_covers_its_own_interval(clock):
    throughput = warmed(8, None, torch.device("cpu"), clock=clock)
    clock.now += 100
    throughput.step_done(images=8)
    throughput.summary()
    clock.now += 2
    throughput.step_done(images=4)
    summary = throughput.summary()
    assert summary["images_per_second"] == pytest.approx(2.0)
    assert summary["data_wait_share"] == 0.0


def test_validation_and_checkpoints_are_left_out(clock):
    throughput = warmed(8, None, torch.device("cpu"), clock=clock)
    with throughput.paused():
        clock.now += 600
    clock.now += 2
    throughput.step_done()
    assert throughput.summary()["step_seconds"] == pytest.approx(2.0)


def test_waiting_counts_when_the_loader_raises(clock):
    throughput = warmed(8, None, torch.device("cpu"), clock=clock)

    def interrupted_read():
        with throughput.waiting_for_data():
            clock.now += 1
            raise StopIteration

    with pytest.raises(StopIteration):
        interrupted_read()
    clock.now += 1
    throughput.step_done()
    assert throughput.summary()["data_wait_share"] == pytest.approx(0.5)


def test_without_a_step_there_is_no_speed(clock):
    throughput = warmed(8, 1e9, torch.device("cpu"), clock=clock)
    assert list(throughput.summary()) == ["peak_memory_gib"]
    throughput.step_done()
    assert list(throughput.summary()) == ["peak_memory_gib"]


def test_mfu_is_the_needed_share_of_the_peak(clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 1024**3)
    device = torch.device("cuda")
    throughput = warmed(2048, 3 * 2 * 17.56e9, device, peak=find_peak(device), world_size=2, clock=clock)
    clock.now += 2
    throughput.step_done()
    summary = throughput.summary()
    assert summary["mfu"] == pytest.approx(512 * 105.36e9 / 312e12)
    assert summary["peak_memory_gib"] == 3


def test_no_mfu_where_the_peak_or_the_flops_are_unknown(clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    for name, flops in (("NVIDIA A100-SXM4-80GB", None), ("Some New Device", 1e9)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        device = torch.device("cuda")
        throughput = warmed(8, flops, device, peak=find_peak(device), clock=clock)
        clock.now += 1
        throughput.step_done()
        assert "mfu" not in throughput.summary()


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GB300", 2500),
        ("NVIDIA H20", 148),
        ("NVIDIA H800", 989),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 504),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 439),
        ("AMD Instinct MI300X", 1307),
        ("AMD Instinct MI325X", 1307),
        ("AMD Instinct MI350X", 2300),
        ("AMD Instinct MI355X", 2500),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_device_peaks(name, teraflops):
    assert peak_flops(name) == teraflops * 1e12


def test_a_measured_peak_has_another_name(clock):
    throughput = warmed(8, 1e9, torch.device("cpu"), peak=DevicePeak(1e11, True, "CPU"), clock=clock)
    clock.now += 2
    throughput.step_done()
    summary = throughput.summary()
    assert summary["mfu_of_matmul"] == pytest.approx(4 * 1e9 / 1e11)
    assert "mfu" not in summary


def test_a_matrix_product_measures_a_plausible_cpu():
    assert 1e9 < measure_cpu_flops() < 1e14


def test_the_peak_says_where_it_comes_from():
    assert str(DevicePeak(989e12, False, "NVIDIA H100")) == "peak 989 TFLOP/s (data sheet)"
    assert str(DevicePeak(2.2e11, True, "CPU")) == "peak 0.22 TFLOP/s (measured by a matrix product)"
    assert str(DevicePeak(None, False, "Some GPU")) == "no peak known for Some GPU: no MFU"


@pytest.mark.parametrize("name", ["NVIDIA GeForce GTX 1080", "NVIDIA A10G", "NVIDIA L40", "NVIDIA H20X"])
def test_an_unknown_device_has_no_peak(name):
    """One whose name begins like that of another has not its peak."""
    assert peak_flops(name) is None


def test_host_memory_is_in_gib():
    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 64
