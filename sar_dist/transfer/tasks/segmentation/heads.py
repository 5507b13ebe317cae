"""Heads that turn maps of patch tokens into class logits: linear, UPerNet and DPT.

The decoders are those of segmentation_models_pytorch (MIT). It offers none of them for a backbone like ours, so the
neck, which makes four scales of a Vision Transformer's single one, and the classifiers are here. All scales are
relative to the token grid (x4, x2, x1, x0.5), whatever the patch size.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from sar_dist.transfer.tasks.segmentation.layers import DropKeys, SampleDrop

DROPOUT = 0.1
AUXILIARY_CHANNELS = 256
AUXILIARY_WEIGHT = 0.4
CLASSIFIER_STD = 0.01
# Numbers of the layers that drop channels; the backbone's drop paths use those from 0.
_HEAD_LAYER = 1_000_000


class Classifier(nn.Sequential):
    """Channel dropout and a 1x1 convolution to the classes, its weights drawn from N(0, 0.01)."""

    def __init__(self, channels: int, classes: int, keys: DropKeys, number: int = 0) -> None:
        convolution = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(convolution.weight, std=CLASSIFIER_STD)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        super().__init__(SampleDrop(DROPOUT, _HEAD_LAYER + number, keys, channels), convolution)


class LinearHead(nn.Module):
    """BatchNorm and a 1x1 convolution on the last map, as DINOv2 evaluates frozen features."""

    def __init__(self, width: int, classes: int, keys: DropKeys) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.classifier = Classifier(width, classes, keys)

    def forward(self, maps: list[Tensor], prefixes: list[Tensor | None]) -> list[Tensor]:
        """One map (B, C, gh, gw) to [logits (B, classes, gh, gw)]."""
        return [self.classifier(self.norm(maps[-1]))]


class ScaleNeck(nn.Module):
    """Four maps of one resolution to x4, x2, x1 and x0.5 of it, as BEiT and MAE do for UPerNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            [
                nn.Sequential(_doubling(width), nn.BatchNorm2d(width), nn.GELU(), _doubling(width)),
                _doubling(width),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2, stride=2),
            ]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Four (B, C, gh, gw) to (B, C, 4 gh, 4 gw), (B, C, 2 gh, 2 gw), (B, C, gh, gw) and (B, C, gh / 2, gw / 2)."""
        return [scale(part) for scale, part in zip(self.scales, maps, strict=True)]


class UPerNetHead(nn.Module):
    """Neck, UPerNet decoder and classifier, with an auxiliary FCN head on the third map (weight 0.4 of the loss).

    Differs from mmsegmentation's in that the decoder normalises (LayerNorm) the four maps first.
    """

    def __init__(self, width: int, classes: int, channels: int, keys: DropKeys) -> None:
        super().__init__()
        self.neck = ScaleNeck(width)
        # The decoder leaves out the first two of its scales, which a network of convolutions would have.
        self.decoder = UPerNetDecoder((3, width, width, width, width, width), decoder_channels=channels)
        initialize_decoder(self.decoder)
        self.classifier = Classifier(channels, classes, keys)
        self.auxiliary = nn.Sequential(
            nn.Conv2d(width, AUXILIARY_CHANNELS, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(AUXILIARY_CHANNELS),
            nn.ReLU(),
            Classifier(AUXILIARY_CHANNELS, classes, keys, number=1),
        )

    def forward(self, maps: list[Tensor], prefixes: list[Tensor | None]) -> list[Tensor]:
        """Four maps (B, C, gh, gw) to logits (B, classes, 4 gh, 4 gw) and, in training, auxiliary ones (.., gh, gw)."""
        scales = self.neck(maps)
        logits = self.classifier(self.decoder([scales[0], scales[0], *scales]))
        return [logits, self.auxiliary(scales[2])] if self.training else [logits]


class DPTHead(nn.Module):
    """DPT decoder (Ranftl et al., https://arxiv.org/abs/2103.13413) with [CLS] read out by projection, and classifier."""

    def __init__(self, width: int, classes: int, channels: int, keys: DropKeys, *, has_prefix: bool) -> None:
        super().__init__()
        self.decoder = DPTDecoder(
            encoder_out_channels=(width,) * 4,
            encoder_output_strides=(16,) * 4,  # makes the scales x4, x2, x1, x0.5 of the grid, whatever the patch
            encoder_has_prefix_tokens=has_prefix,
            readout="cat" if has_prefix else "ignore",
            intermediate_channels=_reassembled_channels(width),
            fusion_channels=channels,
        )
        initialize_decoder(self.decoder)
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            Classifier(channels, classes, keys),
        )

    def forward(self, maps: list[Tensor], prefixes: list[Tensor | None]) -> list[Tensor]:
        """Four maps (B, C, gh, gw) of an even grid, with prefix tokens (B, P, C), to [logits (B, classes, 8 gh, 8 gw)]."""
        return [self.classifier(self.decoder(maps, prefixes))]


def build_head(
    head: str, *, width: int, classes: int, channels: int, keys: DropKeys, has_prefix: bool, seed: int
) -> nn.Module:
    """A new head of a kind of ``settings.Head``, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if head == "linear":
            return LinearHead(width, classes, keys)
        if head == "upernet":
            return UPerNetHead(width, classes, channels, keys)
        return DPTHead(width, classes, channels, keys, has_prefix=has_prefix)


def _doubling(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


def _reassembled_channels(width: int) -> tuple[int, int, int, int]:
    """Channels of the four reassembled maps: DPT's own for Large, and its ratios for others."""
    return (256, 512, 1024, 1024) if width == 1024 else (max(1, width // 8), max(1, width // 4), width // 2, width)
