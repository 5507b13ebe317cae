"""The patch embedding as a matrix product: the same weights, without a convolution.

A convolution whose stride is its size multiplies each patch with one matrix. cuDNN has no fast path for it, and its weight
gradient may differ between two runs of the same step; a matrix product is fast everywhere. Sums come in another order, so
that the result differs from the convolution's by rounding.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from sar_dist.errors import UserError


class LinearPatchProjection(nn.Conv2d):
    """A convolution without overlap and padding, computed as a linear layer over patches."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / p, W / q) for patches of p x q pixels."""
        rows, columns = self.kernel_size
        patches = rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=rows, q=columns)
        return rearrange(functional.linear(patches, self.weight.flatten(1), self.bias), "b h w d -> b d h w")


def project_linearly(embedding: nn.Module) -> None:
    """Let timm's ``PatchEmbed`` use a ``LinearPatchProjection`` with the parameters that it has.

    Raises:
        UserError: it has no convolution that is one matrix per patch.
    """
    old = getattr(embedding, "proj", None)
    plain = isinstance(old, nn.Conv2d) and old.stride == old.kernel_size and old.groups == 1 and old.padding == (0, 0)
    if not plain:
        raise UserError("model.patch_projection=linear needs a patch embedding of one convolution without overlap")
    assert isinstance(old, nn.Conv2d)
    new = nn.utils.skip_init(
        LinearPatchProjection,
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        bias=old.bias is not None,
        device=old.weight.device,
    )
    new.weight, new.bias = old.weight, old.bias
    embedding.proj = new
