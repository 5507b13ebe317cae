"""Backbone and head as one model, its parameter groups, and what of it a checkpoint holds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sar_dist.models import DropPaths, parameter_groups
from sar_dist.transfer import Backbone
from sar_dist.transfer.tasks.segmentation.heads import build_head
from sar_dist.transfer.tasks.segmentation.layers import DropKeys, with_global_batch_norm
from sar_dist.transfer.tasks.segmentation.settings import SegmentationRecipe, SegmentationSettings, resolve_recipe


def recipe_for(settings: SegmentationSettings, backbone: Backbone) -> SegmentationRecipe:
    """The recipe for a backbone. Raises UserError.

    The method's last block has no skip connection around its attention. What comes out at a patch is then a mixture of
    other patches, chosen by a query that training never used (its classifier sees [CLS] only): the patch tokens know
    little of where they are. The linear head looks at the block before.
    """
    depth = backbone.depth
    skips = bool(getattr(backbone.vit.blocks[-1], "skip", True))
    return resolve_recipe(
        settings, depth=depth, width=backbone.width, last_skip=depth - 1 if skips or depth == 1 else depth - 2
    )


class SegmentationModel(nn.Module):
    """Tokens of chosen blocks, and a head on them.

    Args:
        backbone: its weights are copied, never changed.
        recipe: see there; a frozen backbone stays in evaluation mode and outside the gradient.
        classes: number of classes.
        seed: of the head's weights and of what is dropped in training.
    """

    def __init__(self, backbone: Backbone, recipe: SegmentationRecipe, classes: int, seed: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.keys = DropKeys(seed)
        self.drop_paths: DropPaths | None = None
        self.vit = copy.deepcopy(backbone.resized(recipe.crop, recipe.crop).vit)
        self.has_prefix = self.vit.num_prefix_tokens > 0
        self._prepare_backbone()
        head = build_head(
            recipe.head,
            width=backbone.width,
            classes=classes,
            channels=recipe.channels,
            keys=self.keys,
            has_prefix=self.has_prefix,
            seed=seed,
        )
        self.head = with_global_batch_norm(head, backbone.device)
        self.to(backbone.device)

    def _prepare_backbone(self) -> None:
        self.vit.reset_classifier(0)
        self.vit.requires_grad_(not self.recipe.frozen)
        if self.recipe.frozen:
            return
        self.vit.norm.requires_grad_(False)  # the blocks are looked at before it
        self.vit.fc_norm = nn.Identity()
        self.drop_paths = DropPaths(self.vit.blocks, self.recipe.drop_path, self.keys.seed)

    def train(self, mode: bool = True) -> SegmentationModel:
        """As torch's, but that a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.recipe.frozen:
            self.vit.eval()
        return self

    def forward(self, images: Tensor, positions: Tensor | None = None) -> list[Tensor]:
        """Logits at full resolution, and in training also those of an auxiliary head.

        Args:
            images: normalised (B, 3, crop, crop).
            positions: int64 (B,), needed in training, see ``DropKeys``.

        Returns:
            float32 (B, C, crop, crop) each.
        """
        if self.training:
            assert positions is not None, "what is dropped in training depends on the positions"
            self.keys.positions = positions
            if self.drop_paths is not None:
                self.drop_paths.draw(positions)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.recipe.frozen):
            maps, prefixes = self._tokens(images)
        size = images.shape[-2:]
        return [
            functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
            for logits in self.head(maps, prefixes)
        ]

    def _tokens(self, images: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Patch tokens (B, C, gh, gw) after each block of the recipe, normalised for the linear head, and prefix tokens."""
        blocks = sorted(set(self.recipe.blocks))
        found: Any = self.vit.forward_intermediates(
            images,
            indices=blocks,
            return_prefix_tokens=self.has_prefix,
            norm=self.recipe.head == "linear",
            intermediates_only=True,
        )
        pairs = dict(zip(blocks, found if self.has_prefix else [(patches, None) for patches in found], strict=True))
        chosen = [pairs[block] for block in self.recipe.blocks]
        return [patches for patches, _ in chosen], [prefix for _, prefix in chosen]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: the backbone's with decayed rates (none when frozen), the head's two at the full rate."""
        recipe = self.recipe
        groups = []
        if not recipe.frozen:
            # Rates are counted from the last layer of what is given; the head is one layer above the last block.
            lr = recipe.lr * recipe.layer_decay
            groups = parameter_groups(self.vit, lr=lr, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
        for decayed in (True, False):
            chosen = [parameter for parameter in self.head.parameters() if (parameter.ndim > 1) == decayed]
            groups.append({"params": chosen, "lr": recipe.lr, "weight_decay": recipe.weight_decay if decayed else 0.0})
        return groups

    def trained_state(self) -> dict[str, Tensor]:
        """Parameters and buffers that training changes: the head's, and the backbone's unless it is frozen."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not (self.recipe.frozen and name.startswith("vit."))
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Load what ``trained_state`` gave."""
        kept = {} if not self.recipe.frozen else {f"vit.{name}": value for name, value in self.vit.state_dict().items()}
        self.load_state_dict({**kept, **state})
