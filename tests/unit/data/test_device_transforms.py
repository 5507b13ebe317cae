"""Normalisation, erasing and mixing on the device: timm's values and distributions, and purity in (seed, epoch, ids)."""

# timm draws from numpy's global generator, so the tests seed and read it.
# ruff: noqa: NPY002

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch._inductor import metrics
from torchvision.transforms.functional import normalize

from sar_dist.config.settings import AugmentSettings
from sar_dist.data.images import Canvas, DrawnOperation, Kind, build_operation_draw, canvas_of, make_plan
from sar_dist.data.images.device_augment import DeviceAugment
from sar_dist.data.images.device_transforms import DeviceTransform
from sar_dist.errors import UserError
from sar_dist.keys import seed_of
from sar_dist.randomness import counter_uniform, seed_generators

CLASSES = 7
FULL = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "random_erasing": 0.25}


def transform(seed: int = 0, **fields: float) -> DeviceTransform:
    return DeviceTransform(AugmentSettings(**fields), CLASSES, seed)


def batch(count: int, size: int = 16, epoch: int = 0, start: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images whose pixels, and labels that, are a function of the sample alone."""
    sample = torch.arange(start, start + count)
    images = counter_uniform(1, (sample,), 3 * size * size).mul(256).to(torch.uint8).view(count, 3, size, size)
    return images, (sample * 3) % CLASSES, torch.full((count,), epoch), sample, sample.clone()


def test_evaluate_equals_timm_s_normalisation() -> None:
    images = batch(5)[0]
    expected = normalize(images.float() / 255, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    result = transform().evaluate(images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


def test_without_options_train_only_normalises() -> None:
    device_transform, inputs = transform(), batch(5)
    images, targets = device_transform.train(*inputs)
    assert torch.equal(images, device_transform.evaluate(inputs[0]))
    assert torch.equal(targets, torch.nn.functional.one_hot(inputs[1], CLASSES).float())
    assert not device_transform.mixes


def test_label_smoothing_equals_timm() -> None:
    inputs = batch(6)
    _, targets = transform(label_smoothing=0.1).train(*inputs)
    assert torch.equal(targets, mixup_target(inputs[1], CLASSES, smoothing=0.1))


@pytest.mark.parametrize("split", [2, 4, 6, 12, 24])
def test_result_is_the_same_however_the_batch_is_split(split: int) -> None:
    inputs = batch(24, epoch=3)
    images, targets = transform(**FULL).train(*inputs)
    for start in range(0, 24, split):
        part = transform(**FULL).train(*(values[start : start + split] for values in inputs))
        assert torch.equal(part[0], images[start : start + split])
        assert torch.equal(part[1], targets[start : start + split])


def test_seed_epoch_and_order_matter() -> None:
    inputs = batch(16)
    reference = transform(**FULL).train(*inputs)
    assert torch.equal(transform(**FULL).train(*inputs)[0], reference[0])
    assert not torch.equal(transform(seed=1, **FULL).train(*inputs)[1], reference[1])
    assert not torch.equal(transform(**FULL).train(*batch(16, epoch=1))[1], reference[1])
    images, labels, epoch, sample, position = inputs
    assert not torch.equal(transform(**FULL).train(images, labels, epoch, sample, position + 16)[1], reference[1])


def test_inputs_are_left_alone() -> None:
    inputs = batch(8)
    copies = [values.clone() for values in inputs]
    transform(**FULL).train(*inputs)
    assert all(torch.equal(values, copy) for values, copy in zip(inputs, copies, strict=True))


def test_odd_batch_with_mixing_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"engine\.micro_batch=5 must be even"):
        transform(mixup=0.2).train(*batch(5))
    transform(mixup=0.2, mixup_probability=0.0).train(*batch(5))


def own_share(targets: Tensor, labels: Tensor) -> Tensor:
    """Lambda of every image, from targets without smoothing; NaN where both labels are equal."""
    share = targets.gather(1, labels.unsqueeze(1)).squeeze(1)
    same = labels == labels.unflatten(0, (-1, 2)).flip(1).flatten()
    return share.masked_fill(same, math.nan)


def test_mixup_blends_neighbours_with_the_share_of_the_target() -> None:
    device_transform, inputs = transform(mixup=0.8), batch(40)
    images, targets = device_transform.train(*inputs)
    plain, share = device_transform.evaluate(inputs[0]), own_share(targets, inputs[1])
    for index in range(40):
        if not share[index].isnan():
            expected = share[index] * plain[index] + (1 - share[index]) * plain[index ^ 1]
            torch.testing.assert_close(images[index], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(share[0::2], share[1::2], equal_nan=True)
    torch.testing.assert_close(targets.sum(1), torch.ones(40))


def test_cutmix_swaps_one_square_of_the_area_in_the_target() -> None:
    size, device_transform, inputs = 16, transform(cutmix=1.0), batch(60)
    images, targets = device_transform.train(*inputs)
    plain, share = device_transform.evaluate(inputs[0]), own_share(targets, inputs[1])
    for index in range(60):
        own = (images[index] == plain[index]).all(0)
        other = (images[index] == plain[index ^ 1]).all(0)
        assert (own | other).all(), "a pixel is neither image's"
        rows, columns = (~own).any(1).nonzero().flatten(), (~own).any(0).nonzero().flatten()
        if len(rows):
            assert len(rows) == int(rows[-1] - rows[0]) + 1
            assert (~own).sum() == len(rows) * len(columns), "not a rectangle"
        if not share[index].isnan():
            assert share[index].item() == pytest.approx(own.sum().item() / size**2, abs=1e-6)


def test_distributions_are_timm_s() -> None:
    """Lambda ~ Beta(alpha, alpha); the shares of cutmix and of unmixed pairs are the given probabilities."""
    pairs = 20_000
    inputs = batch(2 * pairs, size=1)
    inputs = (inputs[0], torch.arange(2 * pairs) % 2, *inputs[2:])
    for alpha in (0.4, 0.8, 1.0, 3.0):
        share = transform(mixup=alpha).train(*inputs)[1][0::2, 0]
        assert stats.kstest(share.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    share = transform(mixup=0.8, mixup_probability=0.3).train(*inputs)[1][0::2, 0]
    assert (share == 1).float().mean().item() == pytest.approx(0.7, abs=0.02)
    # Of one-pixel images cutmix leaves the pixel (side 0) or, at share 0, swaps it: shares are 0 or 1 there.
    share = transform(mixup=0.8, cutmix=1.0, cutmix_probability=0.6).train(*inputs)[1][0::2, 0]
    assert (share == 1).float().mean().item() == pytest.approx(0.6, abs=0.02)


def timm_cutmix_shares(count: int, size: int) -> np.ndarray:
    np.random.seed(0)
    return np.array([cutmix_bbox_and_lam((3, size, size), np.random.beta(1.0, 1.0))[1] for _ in range(count)])


def test_cutmix_areas_are_distributed_as_timm_s() -> None:
    inputs = batch(20_000, size=24)
    inputs = (inputs[0], torch.arange(20_000) % 2, *inputs[2:])
    ours = transform(cutmix=1.0).train(*inputs)[1][0::2, 0].numpy()
    assert stats.ks_2samp(ours, timm_cutmix_shares(10_000, 24)).pvalue > 1e-3


def test_erasing_puts_normal_noise_in_one_rectangle() -> None:
    size, count = 32, 400
    device_transform, inputs = transform(random_erasing=0.25), batch(400, size=32)
    images, _ = device_transform.train(*inputs)
    changed = (images != device_transform.evaluate(inputs[0])).all(1)  # b S S
    erased = changed.flatten(1).any(1)
    assert erased.float().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / count))
    for mask in changed[erased]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 0.01 * size**2 <= mask.sum() <= 0.36 * size**2
        assert rows < size
        assert columns < size
    noise = images.transpose(0, 1)[:, changed].flatten()
    assert stats.kstest(noise.numpy()[::7], "norm").pvalue > 1e-4
    first, second = erased.nonzero().flatten()[:2]
    assert not torch.equal(
        images[first][:, changed[first]].flatten()[:50], images[second][:, changed[second]].flatten()[:50]
    )


def timm_erase_areas(count: int, size: int) -> list[tuple[int, int]]:
    """Height and width of timm's erased rectangles."""
    random.seed(0)
    eraser, boxes = RandomErasing(probability=1.0, mode="const", device="cpu"), []
    for _ in range(count):
        mask = eraser(torch.ones(1, size, size))[0] == 0
        boxes.append((int(mask.any(1).sum()), int(mask.any(0).sum())))
    return boxes


def test_erased_rectangles_are_distributed_as_timm_s() -> None:
    size, count = 32, 3000
    device_transform, inputs = transform(random_erasing=1.0), batch(count, size=size)
    changed = (device_transform.train(*inputs)[0] != device_transform.evaluate(inputs[0])).any(1)
    ours = torch.stack([changed.any(2).sum(1), changed.any(1).sum(1)], 1).numpy()
    theirs = np.array(timm_erase_areas(count, size))
    for axis in (0, 1):
        assert stats.ks_2samp(ours[:, axis], theirs[:, axis]).pvalue > 1e-3
    assert stats.ks_2samp(ours.prod(1), theirs.prod(1)).pvalue > 1e-3


def test_counter_uniform_is_uniform_and_independent() -> None:
    ids = torch.arange(50_000)
    numbers = counter_uniform(seed_of("test", 0), (torch.zeros_like(ids), ids), 3)
    assert numbers.dtype == torch.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-4
    correlation = np.corrcoef(np.concatenate([numbers.T.numpy(), np.roll(numbers.T.numpy(), 1, axis=1)]))
    assert np.abs(correlation - np.eye(6)).max() < 0.02
    assert torch.equal(counter_uniform(seed_of("test", 0), (torch.zeros(1).long(), ids[77:78]), 3), numbers[77:78])


def test_counter_uniform_follows_its_definition() -> None:
    """Against SplitMix64's finaliser in Python integers."""
    mask = (1 << 64) - 1

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    for seed, key in ((0, 0), (-5, 12345), (seed_of("a", 1), 2**62)):
        state = mix((seed & mask) ^ key)
        expected = [(mix((state + (k + 1) * 0x9E3779B97F4A7C15) & mask) >> 11) * 2.0**-53 for k in range(4)]
        assert counter_uniform(seed, (torch.tensor([key]),), 4)[0].tolist() == expected


def test_operations_on_levels_come_first_and_inputs_stay() -> None:
    inputs = batch(8)
    before = inputs[0].clone()
    drawn = make_plan([[DrawnOperation(Kind.INVERT)]] * 8, 16, Canvas("bicubic", (0, 0, 0)))
    result = transform(**FULL).train(*inputs, drawn)
    expected = transform(**FULL).train(255 - inputs[0], *inputs[1:])
    assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))
    assert torch.equal(inputs[0], before)


@pytest.mark.filterwarnings("ignore")
def test_compiled_it_is_few_kernels_and_equal() -> None:
    """195 operations one by one; by Inductor, which makes a GPU's kernels too, a tenth of that."""
    compiled = DeviceTransform(AugmentSettings(**FULL), CLASSES, 0, compiled=True)
    metrics.reset()
    for epoch in range(2):
        inputs = batch(12, epoch=epoch)
        for one, other in zip(compiled.train(*inputs), transform(**FULL).train(*inputs), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert 0 < metrics.generated_kernel_count <= 12


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_operations_on_a_gpu_equal_the_cpu_s_without_synchronising(compiled: bool) -> None:
    settings, count, size = AugmentSettings(rand_augment="rand-m9-n4-p1-mstd0.5-inc1", three_augment=False), 64, 32
    draw, drawn = build_operation_draw(settings, size), []
    for number in range(count):
        seed_generators(number)
        drawn.append([*draw(), DrawnOperation(Kind.BLUR, 0.1 + number / 40)])
    plan, packed = make_plan(drawn, size, canvas_of(settings))
    images = batch(count, size)[0]
    expected = DeviceAugment(settings, compiled=False)(images, plan, packed)
    on_device = DeviceAugment(settings, compiled=compiled)
    arguments = images.cuda(), plan, packed.cuda()
    on_device(*arguments)  # constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = on_device(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (result.cpu().int() - expected.int()).abs()
    assert (difference > 0).float().mean() < 1e-3  # where a compiler makes one rounding of two


@pytest.mark.gpu
@pytest.mark.parametrize("ids_on_device", [False, True])
def test_gpu_equals_cpu_without_synchronising(ids_on_device: bool) -> None:
    inputs = batch(32, size=64)
    images, targets = transform(**FULL).train(*inputs)
    device_transform = transform(**FULL)
    on_device = [values.cuda() if index < 2 or ids_on_device else values for index, values in enumerate(inputs)]
    device_transform.train(*on_device)  # constants are copied once
    torch.cuda.set_sync_debug_mode("error" if ids_on_device else "default")
    try:
        result = device_transform.train(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result[0].cpu(), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(result[1].cpu(), targets, rtol=0, atol=1e-6)
