"""Flip, RandAugment, 3-Augment and colour jitter on the training device, for all images of a batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sar_dist.config import AugmentSettings
from sar_dist.data.images import device_operations as operations
from sar_dist.data.images.compiled import Compiled
from sar_dist.data.images.device_plan import DevicePlan, Family, Group
from sar_dist.data.images.rand_augment import canvas_of

# Families that change levels by tables: all of them look their images' levels up together.
_BY_TABLE = (Family.TABLE, Family.CONTRAST, Family.AUTO_CONTRAST, Family.EQUALIZE)


class DeviceAugment:
    """Does what a plan says to a batch, without waiting for the device.

    Args:
        augment: how geometric operations resample and fill.
        compiled: whether the operations are compiled, each to a few kernels for any number of images.
    """

    def __init__(self, augment: AugmentSettings, *, compiled: bool) -> None:
        canvas = canvas_of(augment)
        self._cubic = canvas.interpolation == "bicubic"
        self._fill = torch.tensor(canvas.fill, dtype=torch.uint8)
        self._compiled = compiled
        self._functions: dict[Callable[..., Tensor], Compiled] = {}
        self._constants: dict[tuple[str, torch.device], Tensor] = {}

    def __call__(self, images: Tensor, plan: DevicePlan, packed: Tensor) -> Tensor:
        """The images after everything that was drawn for them.

        Args:
            images: uint8 (b, 3, H, W); left alone.
            plan, packed: as of ``make_plan``, the bytes on the device of the images.

        Returns:
            uint8 (b, 3, H, W).
        """
        index, amounts, tables, flips = plan.unpack(packed)
        images = self._run(operations.flip, images, constants=(flips,))
        for layer in plan.layers:
            by_table = [group for group in layer if group.family in _BY_TABLE]
            if by_table:
                self._look_up(images, by_table, index, amounts, tables)
            for group in layer[len(by_table) :]:
                chosen = index[group.start : group.stop]
                images.index_copy_(0, chosen, self._changed(images, group, chosen, amounts))
        return images

    def _look_up(self, images: Tensor, groups: list[Group], index: Tensor, amounts: Tensor, tables: Tensor) -> None:
        """Change in place the images of a layer's first groups, those whose levels a table changes."""
        found = [self._tables(images, group, index[group.start : group.stop], amounts, tables) for group in groups]
        chosen = index[groups[0].start : groups[-1].stop]
        images.index_copy_(0, chosen, self._run(operations.look_up, images, chosen, torch.cat(found)))

    def _tables(self, images: Tensor, group: Group, chosen: Tensor, amounts: Tensor, tables: Tensor) -> Tensor:
        """uint8 (n, 3, 256), for the n images of a group."""
        if group.family is Family.TABLE:
            known = tables[group.table : group.table + group.stop - group.start]
            return known[:, None].expand(-1, 3, -1)
        if group.family is Family.CONTRAST:
            return self._run(operations.contrast_tables, images, chosen, amounts[group.start : group.stop, :1])
        if group.family is Family.AUTO_CONTRAST:
            stretches = self._on("stretches", images.device, operations.stretch_tables)
            return self._run(operations.auto_contrast_tables, images, chosen, constants=(stretches,))
        return self._run(operations.equalize_tables, images, chosen)

    def _changed(self, images: Tensor, group: Group, chosen: Tensor, amounts: Tensor) -> Tensor:
        """The group's images after its operation."""
        own = amounts[group.start : group.stop]
        if group.family is Family.COLOR:
            return self._run(operations.recolor, images, chosen, own[:, :1])
        if group.family is Family.SHARPNESS:
            return self._run(operations.sharpen, images, chosen, own[:, :1])
        if group.family is Family.BLUR:
            return self._run(operations.blur, images, chosen, own[:, :3])
        fill = self._on("fill", images.device, lambda: self._fill)
        return self._run(operations.resample, images, chosen, own, constants=(fill, self._cubic))

    def _run(
        self, function: Callable[..., Tensor], images: Tensor, *own: Tensor, constants: tuple[Tensor | bool, ...] = ()
    ) -> Tensor:
        """Call one of the operations; ``own`` are of as many images as the plan happens to have for it."""
        if not self._compiled:
            return function(images, *own, *constants)
        if function not in self._functions:
            self._functions[function] = Compiled(function)
        return self._functions[function](images, *own, *constants, lengths=own)

    def _on(self, name: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        """A constant, made and copied to a device once."""
        if (name, device) not in self._constants:
            self._constants[name, device] = make().to(device)
        return self._constants[name, device]
