"""A trained model as transfer tasks use it: frozen, fingerprinted, with its own preprocessing, at any input size."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sar_dist.config import AugmentSettings, DataSettings, as_image_size
from sar_dist.data.images import DeviceTransform, Transform, build_eval_transform
from sar_dist.errors import UserError
from sar_dist.models import LoadedModel, TimmViT, load_model, open_weights
from sar_dist.regularizer import class_similarity

MAX_PIXELS = DataSettings().max_pixels  # the limit of training


class Backbone:
    """A frozen Vision Transformer in evaluation mode.

    Attributes:
        vit: the timm model.
        model: the same model with its attention tap.
        spec, description: what the user typed, and what it stands for.
        fingerprint: sha256 over names, shapes and bytes of all weights.
        image_size: of the input it was trained at.
        augment: its resizing, cropping and normalisation of validation images.
        loaded: what ``model_spec`` loaded.
        has_class_token: it has a [CLS] token.
        width, depth, heads, patch, num_classes: of the architecture; ``num_classes`` 0 means that it has no classifier.
        classes: names of its classes by label; None where they are not known.
    """

    def __init__(
        self, spec: str, loaded: LoadedModel, device: torch.device, precision: Literal["fp32", "bf16"]
    ) -> None:
        self.spec = spec
        self.description = loaded.description
        check_weights(spec, loaded.model)
        self.fingerprint = weights_fingerprint(loaded.model)
        self.model = loaded.model.to(device).eval().requires_grad_(False)
        self.vit: TimmViT = self.model.vit
        self.image_size = loaded.image_size
        self.augment: AugmentSettings = loaded.augment
        self.device = device
        self.precision = precision
        self.has_class_token = self.vit.cls_token is not None
        self.width: int = self.vit.embed_dim
        self.depth = len(self.vit.blocks)
        attention: Any = self.vit.blocks[-1].attn
        self.heads: int = attention.num_heads
        self.patch: int = self.vit.patch_embed.patch_size[0]
        self.num_classes: int = self.vit.num_classes
        self.classes = loaded.classes
        self.loaded = loaded
        self._normalise = DeviceTransform(loaded.augment, num_classes=2, seed=0)

    @classmethod
    def load(cls, spec: str, device: torch.device, precision: Literal["fp32", "bf16"] = "fp32") -> Backbone:
        """The backbone that ``spec`` names, see ``model_spec.load_model``. Raises UserError."""
        return cls(spec, load_model(spec), device, precision)

    def preparation(self) -> dict[str, Any]:
        """What its numbers depend on beside the weights, as JSON values; the same for a run and its export."""
        images = {"mean", "std", "crop_fraction", "crop_mode", "interpolation"}
        architecture = {"name", "image_size", "patch_size", "no_skip_last_block", "options"}
        return {
            "model": self.loaded.settings.model_dump(mode="json", include=architecture),
            "images": self.augment.model_dump(mode="json", include=images),
        }

    def to(self, device: torch.device) -> Backbone:
        """Move the weights to ``device``, in place."""
        self.model.to(device)
        self.device = device
        return self

    def randomly_initialised(self, seed: int = 0) -> Backbone:
        """The same architecture with fresh weights: the baseline that shows what the trained weights are worth."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.loaded.build_untrained().eval()
        description = f"{self.description}: its architecture, random weights"
        loaded = replace(self.loaded, model=model, description=description, weights=None)
        return Backbone(f"random:{self.spec}", loaded, self.device, self.precision)

    def resized(self, height: int, width: int) -> Backbone:
        """The same weights for inputs of ``height`` x ``width`` pixels; the position embedding is resampled.

        Raises:
            UserError: the patch size does not divide them.
        """
        if height % self.patch or width % self.patch:
            raise UserError(f"inputs of {height}x{width} pixels do not divide into patches of {self.patch}")
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.vit = other.model.vit
        other.vit.set_input_size(img_size=(height, width))
        other.vit.requires_grad_(False)
        other.image_size = as_image_size(height, width)
        return other

    def eval_transform(self) -> Transform:
        """The model's own validation transform: bytes of an image file to uint8 (3, H, W)."""
        return build_eval_transform(self.augment, self.image_size, MAX_PIXELS)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 on ``device`` with the model's mean and standard deviation."""
        return self._normalise.evaluate(images.to(self.device, non_blocking=True))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """float32 (B, num_classes) of normalised images. Raises UserError for a model without a classifier."""
        if not self.num_classes:
            raise UserError(f"{self.spec} has no classifier; use a task that trains one, such as linear or knn")
        with self.autocast():
            return self.vit(images).float()

    @torch.no_grad()
    def tokens(self, images: Tensor, last_blocks: int = 1) -> tuple[Tensor, Tensor]:
        """Features of the last blocks, each through the final norm (as DINO and DINOv2 take them).

        Args:
            images: normalised (B, 3, H, W).
            last_blocks: L.

        Returns:
            float32 [CLS] tokens (B, L, C), the last block last (the mean patch token where a model has no [CLS]), and
            the mean patch token of the last block (B, C).
        """
        found = self._intermediates(images, list(range(self.depth - last_blocks, self.depth)), norm=True)
        means = [patches.mean(dim=(2, 3)) for patches, _ in found]
        if not self.has_class_token:
            return torch.stack(means, dim=1), means[-1]
        return torch.stack([prefix[:, 0] for _, prefix in found], dim=1), means[-1]

    @torch.no_grad()
    def similarity(self, images: Tensor) -> Tensor:
        """float32 (B, heads, gh, gw): scaled products of the last block's [CLS] query with the patch keys.

        A softmax over a map gives the attention of [CLS] to the patches, up to the share that goes to other tokens.
        """
        with self.autocast():
            output = self.model(images)
        return class_similarity(output["queries"][-1].float(), output["keys"][-1].float(), self.model.grid)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """bfloat16 arithmetic where ``precision`` asks for it."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _intermediates(self, images: Tensor, blocks: list[int], *, norm: bool) -> list[tuple[Tensor, Tensor]]:
        has_prefix = self.vit.num_prefix_tokens > 0
        with self.autocast():
            found: list[Any] = self.vit.forward_intermediates(  # type: ignore[assignment]
                images, indices=blocks, return_prefix_tokens=has_prefix, norm=norm, intermediates_only=True
            )
        if not has_prefix:
            return [(patches.float(), patches.new_empty(0)) for patches in found]
        return [(patches.float(), prefix.float()) for patches, prefix in found]


def check_weights(spec: str, model: nn.Module) -> None:
    """Raise UserError if a parameter or buffer of the model is NaN or infinite."""
    broken = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise UserError(f"{spec}: {len(broken)} of its tensors hold values that are not finite, such as {broken[0]}")


def weights_fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and float32 bytes of the state dict, so that the same weights have the same in any file."""
    return _fingerprint(sorted(model.state_dict().items()))


def export_fingerprint(export: Path) -> str:
    """The fingerprint that an evaluation of an export finds, tensor by tensor. Raises UserError."""
    weights = open_weights(str(export))
    return _fingerprint((f"vit.{name}", weights.read(name)) for name in sorted(weights.shapes))


def _fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
