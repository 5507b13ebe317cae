import pytest
import torch
from torch.nn import functional

from sar_dist.transfer.tasks.segmentation import sliding_window
from sar_dist.transfer.tasks.segmentation.sliding_window import resized_argmax, sliding_logits, window_starts


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(512, 512, 341), (683, 512, 341), (2048, 512, 256), (100, 512, 1)]
)
def test_windows_are_those_of_mmsegmentation(size, window, stride):
    starts = []
    for number in range(max(size - window + stride - 1, 0) // stride + 1):
        end = min(number * stride + window, size)
        starts.append(max(end - window, 0))
    assert window_starts(size, window, stride) == starts
    seen = {pixel for start in starts for pixel in range(start, start + window)}
    assert seen >= set(range(size))


def per_pixel(images):
    """A model that looks at single pixels only: 5 classes."""
    weights = torch.linspace(-1, 1, 15).view(5, 3)
    return torch.einsum("ck,nkhw->nchw", weights, images)


def global_model(images):
    """A model that looks at the whole of its input."""
    return torch.cat([images, images * images.mean(dim=(2, 3), keepdim=True)], dim=1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 45), (50, 33), (20, 100), (7, 9)])
@pytest.mark.parametrize("batch", [1, 3])
def test_sliding_is_whole_for_a_model_of_single_pixels(height, width, batch):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    found = sliding_logits(per_pixel, image, window=32, stride=21, batch=batch)
    torch.testing.assert_close(found, per_pixel(image[None])[0])


def test_sliding_is_whole_where_the_image_is_one_window():
    image = torch.rand(3, 32, 32)
    found = sliding_logits(global_model, image, window=32, stride=21, batch=4)
    torch.testing.assert_close(found, global_model(image[None])[0])


def test_overlaps_are_averaged():
    image = torch.rand(3, 32, 40)
    found = sliding_logits(global_model, image, window=32, stride=8, batch=2)
    left, right = global_model(image[None, :, :, :32])[0], global_model(image[None, :, :, 8:])[0]
    torch.testing.assert_close(found[:, :, :8], left[:, :, :8])
    torch.testing.assert_close(found[:, :, 8:32], (left[:, :, 8:] + right[:, :, :24]) / 2)
    torch.testing.assert_close(found[:, :, 32:], right[:, :, 24:])


def test_an_image_of_aspect_over_four_is_padded_with_zeros_and_cropped():
    image = torch.rand(3, 20, 100)
    inputs = []

    def remember(images):
        inputs.append(images)
        return per_pixel(images)

    assert sliding_logits(remember, image, window=32, stride=21, batch=8).shape == (5, 20, 100)
    assert inputs[0].shape[1:] == (3, 32, 32)
    assert not inputs[0][:, :, 20:].any()


def test_classes_in_chunks_are_those_of_all_logits_at_once(monkeypatch):
    logits = torch.randn(11, 13, 17, generator=torch.Generator().manual_seed(1))
    size = (40, 31)
    whole = functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    assert torch.equal(resized_argmax(logits, size), whole)
    monkeypatch.setattr(sliding_window, "MAX_RESIZED_VALUES", 3 * 40 * 31)
    assert torch.equal(resized_argmax(logits, size), whole)
    logits[9] = logits[4]  # of equal logits the first counts
    assert torch.equal(resized_argmax(logits, (13, 17)), logits.argmax(dim=0))
