"""What is done to a batch on the training device: normalise, random erasing, mixup and cutmix, label smoothing.

Workers ship uint8 images; the float work is done here for the whole batch at once, after the operations on levels
(``device_augment``) where these are done here too. Every random number is a pure
function of (seed, epoch, sample) for an image and of (seed, epoch, pair) for a pair, so the result does not depend on
how the global batch is split over ranks and micro-batches, nor on the device.

Mixing. timm's ``Mixup`` draws ONE lambda and one box for a whole micro-batch by default and mixes image i with image
B - 1 - i; its result changes with the micro-batch size, and all images of a rank share their lambda. Here the
neighbours (2i, 2i + 1) are mixed with each other, with a lambda and box of their own: timm's ``mode="pair"`` with other
partners. The marginal distribution of every mixed image and target is that of timm (Beta, probability, switch
probability, box, lambda corrected to the clipped box), and the gradient noise is lower because lambdas are independent.

Erasing follows normalisation and precedes mixing, the order of DeiT's data pipeline.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from sar_dist.config import AugmentSettings
from sar_dist.data.images.compiled import Compiled
from sar_dist.data.images.device_augment import DeviceAugment
from sar_dist.data.images.device_plan import DevicePlan
from sar_dist.errors import UserError
from sar_dist.keys import seed_of
from sar_dist.randomness import counter_uniform

# Random erasing as in timm: share of the area, aspect ratio height / width, tries to place it.
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
ERASE_ATTEMPTS = 10

# Erased pixels take their noise from one of these many windows of a table of normal numbers.
_NOISE_WINDOWS = 4096
_NOISE_STRIDE = 61

# Beta-distributed lambdas are drawn from this many equally likely quantiles.
_QUANTILES = 1 << 14


class DeviceTransform:
    """Device-side part of augmentation; works on whatever device its input is on, without synchronising with the host.

    Args:
        augment: what to do.
        num_classes: C, length of the target vectors.
        seed: seed of the run.
        compiled: whether training batches are augmented by compiled functions, in few kernels.
    """

    def __init__(self, augment: AugmentSettings, num_classes: int, seed: int, *, compiled: bool = False) -> None:
        self.augment = augment
        self.num_classes = num_classes
        self._erase_seed = seed_of("random erasing", seed)
        self._mix_seed = seed_of("mixup", seed)
        self._noise_seed = seed_of("erasing noise", seed)
        mean = torch.tensor(augment.mean).view(3, 1, 1) * 255
        std = torch.tensor(augment.std).view(3, 1, 1) * 255
        self._constants = {"mean": mean, "std": std}
        for name, alpha in (("mixup", augment.mixup), ("cutmix", augment.cutmix)):
            if alpha > 0:
                self._constants[name] = _beta_quantiles(alpha)
        self._cache: dict[tuple[str, torch.device], Tensor] = {}
        self._operations = DeviceAugment(augment, compiled=compiled)
        self._finish = Compiled(self._finished) if compiled else self._finished

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs, which needs micro-batches of even size."""
        return (self.augment.mixup > 0 or self.augment.cutmix > 0) and self.augment.mixup_probability > 0

    @torch.no_grad()
    def train(
        self,
        images: Tensor,
        labels: Tensor,
        epoch: Tensor,
        sample: Tensor,
        position: Tensor,
        drawn: tuple[DevicePlan, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normalise and augment a training micro-batch.

        Args:
            images: uint8 (b, 3, H, W).
            labels: int64 (b,), class of each image.
            epoch, sample: int64 (b,), epoch and dataset index of each image; they decide its erasing.
            position: int64 (b,), place of each image in the global order of the epoch; ``position // 2`` decides how a
                pair is mixed, so images 2i and 2i + 1 of the micro-batch must be neighbours in that order.
            drawn: flip, RandAugment and so on as ``make_plan`` gives them, the bytes on the device; None: done already.

        Returns:
            float32 images (b, 3, H, W), float32 targets (b, C) whose rows sum to 1.

        Raises:
            UserError: mixing is on and b is odd.
        """
        if self.mixes and len(images) % 2:
            raise UserError(f"mixup and cutmix mix pairs of images, so engine.micro_batch={len(images)} must be even")
        if drawn is not None:
            images = self._operations(images, *drawn)
        finished: tuple[Tensor, Tensor] = self._finish(
            images, labels, epoch, sample, position, self._constants_on(images)
        )
        return finished

    def evaluate(self, images: Tensor) -> Tensor:
        """Normalise: uint8 (b, 3, H, W) to float32 (b, 3, H, W)."""
        return _normalised(images, self._on("mean", images.device), self._on("std", images.device))

    def _finished(
        self,
        images: Tensor,
        labels: Tensor,
        epoch: Tensor,
        sample: Tensor,
        position: Tensor,
        constants: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """What follows the operations on levels; ``constants`` are those of ``_constants_on``."""
        images = _normalised(images, constants["mean"], constants["std"])
        targets = self._smoothed(labels)
        if self.augment.random_erasing > 0:
            images = self._erase(images, epoch, sample, constants["noise"])
        if self.mixes:
            images, targets = self._mix(images, targets, epoch, position, constants)
        return images, targets

    def _smoothed(self, labels: Tensor) -> Tensor:
        """One-hot targets with timm's label smoothing: the smoothed mass is spread over all classes."""
        low = self.augment.label_smoothing / self.num_classes
        targets = torch.full((len(labels), self.num_classes), low, device=labels.device)
        return targets.scatter_(1, labels.unsqueeze(1), 1 - self.augment.label_smoothing + low)

    def _erase(self, images: Tensor, epoch: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        height, width = images.shape[2:]
        uniform = counter_uniform(self._erase_seed, (epoch, sample), 4 + 2 * ERASE_ATTEMPTS).to(images.device)
        top, left, rows, columns = _erase_box(uniform[:, 2:], height, width)
        erased = (uniform[:, 0] < self.augment.random_erasing) & (rows > 0)
        inside = _box_mask(top, left, top + rows, left + columns, height, width) & erased.view(-1, 1, 1)
        # A gather of rows costs a copy; drawing b x 3 x H x W normal numbers, of which 4 % are used, costs far more.
        windows = noise.unfold(0, images[0].numel(), _NOISE_STRIDE)
        chosen = windows[(uniform[:, 1] * _NOISE_WINDOWS).long()].view_as(images)
        return torch.where(inside.unsqueeze(1), chosen, images)

    def _mix(
        self, images: Tensor, targets: Tensor, epoch: Tensor, position: Tensor, constants: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        uniform = counter_uniform(self._mix_seed, (epoch[0::2], position[0::2] // 2), 5).to(images.device)  # b/2 5
        use_cutmix, share = self._mix_parameters(uniform, constants)
        top, left, bottom, right = _cutmix_box(share, uniform[:, 3:], height, width)
        cut_share = 1 - (bottom - top) * (right - left) / (height * width)
        share = torch.where(use_cutmix, cut_share, share).to(torch.float32)
        inside = _box_mask(top, left, bottom, right, height, width)  # b/2 H W
        weight = torch.where(use_cutmix.view(-1, 1, 1), (~inside).to(torch.float32), share.view(-1, 1, 1))
        return _mix_pairs(images, weight[:, None, None]), _mix_pairs(targets, share.view(-1, 1, 1))

    def _mix_parameters(self, uniform: Tensor, constants: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Per pair: whether it is cutmix, and the share (lambda) of an image that stays its own; 1 where not mixed."""
        augment = self.augment
        if augment.mixup > 0 and augment.cutmix > 0:
            use_cutmix = uniform[:, 0] < augment.cutmix_probability
        else:
            use_cutmix = torch.full_like(uniform[:, 0], augment.cutmix > 0, dtype=torch.bool)
        quantile = (uniform[:, 1] * _QUANTILES).long()
        kinds = [constants[name][quantile] for name in ("cutmix", "mixup") if name in constants]
        share = torch.where(use_cutmix, kinds[0], kinds[-1])
        return use_cutmix, torch.where(uniform[:, 2] < augment.mixup_probability, share, torch.ones_like(share))

    def _constants_on(self, images: Tensor) -> dict[str, Tensor]:
        """What training needs beside the batch, on the images' device."""
        found = {name: self._on(name, images.device) for name in self._constants if not name.startswith("noise")}
        if self.augment.random_erasing > 0:
            found["noise"] = self._on(self._noise_table(images[0].numel()), images.device)
        return found

    def _noise_table(self, numbers: int) -> str:
        """Name of the constant with normal numbers whose windows have ``numbers`` of them each."""
        name = f"noise {numbers}"
        if name not in self._constants:
            generator = np.random.Generator(np.random.Philox(key=self._noise_seed % (1 << 64)))
            table = generator.standard_normal(numbers + _NOISE_WINDOWS * _NOISE_STRIDE, dtype=np.float32)
            self._constants[name] = torch.from_numpy(table)
        return name

    def _on(self, name: str, device: torch.device) -> Tensor:
        """A constant, copied to a device once."""
        if (name, device) not in self._cache:
            self._cache[name, device] = self._constants[name].to(device)
        return self._cache[name, device]


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return images.to(torch.float32).sub_(mean).div_(std)


def _beta_quantiles(alpha: float) -> Tensor:
    """Equally likely values of Beta(alpha, alpha): float64 (quantiles,), ascending."""
    return torch.from_numpy(betaincinv(alpha, alpha, (np.arange(_QUANTILES) + 0.5) / _QUANTILES))


def _erase_box(uniform: Tensor, image_height: int, image_width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes to erase from uniform numbers (b, 2 + 2 attempts): top, left, height, width, int64 (b,).

    As in timm, the first of ten drawn boxes that is smaller than the image; height 0 where none is.
    """
    draws = uniform[:, 2:].view(-1, 2, ERASE_ATTEMPTS)
    area = (ERASE_AREA[0] + draws[:, 0] * (ERASE_AREA[1] - ERASE_AREA[0])) * (image_height * image_width)
    log_low, log_high = math.log(ERASE_ASPECT[0]), math.log(ERASE_ASPECT[1])
    aspect = torch.exp(log_low + draws[:, 1] * (log_high - log_low))
    height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # b attempts
    fits = (height < image_height) & (width < image_width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    height, width = ((side * fits).gather(1, first).squeeze(1) for side in (height, width))
    top = (uniform[:, 0] * (image_height - height + 1)).floor()
    left = (uniform[:, 1] * (image_width - width + 1)).floor()
    return top.long(), left.long(), height.long(), width.long()


def _cutmix_box(share: Tensor, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes of the image's shape and of area 1 - share around a uniform centre, clipped to the image, int64 (n,) each.

    Returns:
        top, left, bottom, right.
    """
    lows, highs = [], []
    for axis, size in enumerate((height, width)):
        side = (size * (1 - share).sqrt()).long()
        centre = (uniform[:, axis] * size).long()
        lows.append((centre - side // 2).clamp(0, size))
        highs.append((centre + (side + 1) // 2).clamp(0, size))
    return lows[0], lows[1], highs[0], highs[1]


def _box_mask(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """bool (n, height, width), true inside the half-open boxes."""
    row, column = torch.arange(height, device=top.device), torch.arange(width, device=top.device)
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    return rows[:, :, None] & columns[:, None, :]


def _mix_pairs(values: Tensor, weight: Tensor) -> Tensor:
    """weight * own + (1 - weight) * neighbour, for neighbours (2i, 2i + 1) along the first dimension."""
    pairs = values.unflatten(0, (-1, 2))
    return torch.lerp(pairs.flip(1), pairs, weight.to(values.dtype)).flatten(0, 1)
