"""How well attention maps agree with where an object is: pure functions of maps and regions.

A *similarity* map is scaled products of the [CLS] query with the patch keys; its softmax over the patches is the
attention, without the share that [CLS] and register tokens take. A *region* is the object, or its box, in pixels of the
model's input. Thresholded is what lies above the map's own mean, as in the regularizer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sar_dist.regularizer import connected_components
from sar_dist.transfer.tasks.attention.mass import patch_attention

HIT_IOU = 0.5  # the usual criterion of a correct localisation


def attention_measures(similarity: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Score every map against its image's region.

    Args:
        similarity: float (B, H, gh, gw), on the CPU.
        regions: bool (B, S, T) with at least one pixel each; S and T are multiples of gh and gw.

    Returns:
        name -> (B, H) in 0..1:
        ``mass`` attention inside the region; ``pointing`` whether the centre of the most attended patch lies in it;
        ``jaccard`` of the thresholded patches with the region; ``box_iou`` of the box around the thresholded
        component with the most attention with the region's box, ``box_hit`` whether that is at least .5.
    """
    rows, columns = similarity.shape[2:]
    patch = (regions.shape[1] // rows, regions.shape[2] // columns)
    attention = torch.from_numpy(patch_attention(similarity.numpy())).to(similarity.dtype).flatten(2)  # B H N
    coverage = avg_pool2d(regions.float()[:, None], patch).flatten(2)  # B 1 N
    centres = regions[:, patch[0] // 2 :: patch[0], patch[1] // 2 :: patch[1]].flatten(1)  # B N
    above = similarity > similarity.mean(dim=(2, 3), keepdim=True)
    overlap = box_iou(scaled(tight_boxes(main_component(above, attention)), patch), tight_boxes(regions)[:, None])
    return {
        "mass": (attention * coverage).sum(dim=2),
        "pointing": centres.gather(1, attention.argmax(dim=2)).float(),
        "jaccard": _jaccard(above.flatten(2).float(), coverage),
        "box_iou": overlap,
        "box_hit": (overlap >= HIT_IOU).float(),
    }


def uniform_measures(regions: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """What a map without any preference scores: equal attention, a patch drawn by lot, all patches, the whole image.

    Args:
        regions: bool (B, S, T). grid: patches along each side.

    Returns:
        the names of ``attention_measures`` -> (B,).
    """
    patch = (regions.shape[1] // grid[0], regions.shape[2] // grid[1])
    area = regions.float().mean(dim=(1, 2))
    whole = torch.tensor([0, 0, regions.shape[1], regions.shape[2]])
    overlap = box_iou(whole.expand(len(regions), 4), tight_boxes(regions))
    return {
        "mass": area,
        "pointing": regions[:, patch[0] // 2 :: patch[0], patch[1] // 2 :: patch[1]].float().mean(dim=(1, 2)),
        "jaccard": area,
        "box_iou": overlap,
        "box_hit": (overlap >= HIT_IOU).float(),
    }


def mean_map(similarity: Tensor) -> Tensor:
    """(B, H, gh, gw) -> (B, 1, gh, gw): the logarithm of the heads' mean attention, itself a similarity."""
    attention = similarity.flatten(2).log_softmax(dim=2)
    return attention.logsumexp(dim=1, keepdim=True).view(len(similarity), 1, *similarity.shape[2:])


def main_component(mask: Tensor, attention: Tensor) -> Tensor:
    """The 8-connected component with the most attention.

    Args:
        mask: bool (B, H, gh, gw). attention: (B, H, gh * gw).

    Returns:
        bool (B, H, gh, gw); empty where the mask is.
    """
    labels, counts = connected_components(mask)
    labels = labels.flatten(2).long()  # B H N
    sums = attention.new_zeros(*labels.shape[:2], int(counts.max()) + 1).scatter_add_(2, labels, attention)
    sums[..., 0] = -1.0  # the background, which is chosen only where there is nothing else
    chosen = sums.argmax(dim=2, keepdim=True)
    return ((labels == chosen) & (labels > 0)).view_as(mask)


def tight_boxes(masks: Tensor) -> Tensor:
    """int64 (..., 4): top, left, bottom, right (exclusive) around the pixels of bool (..., h, w); zeros for none."""
    edges = []
    for other in (-1, -2):
        hit = masks.any(dim=other).long()  # ... h, then ... w
        last = hit.shape[-1] - hit.flip(-1).argmax(dim=-1)
        some = hit.any(dim=-1)
        edges.append((hit.argmax(dim=-1) * some, last * some))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right], dim=-1)


def scaled(boxes: Tensor, patch: tuple[int, int]) -> Tensor:
    """Boxes in patches (..., 4) as boxes in pixels."""
    return boxes * torch.tensor([*patch, *patch])


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that are broadcast against each other; 0 where both are empty."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (first, second)]
    return common / (areas[0] + areas[1] - common).clamp(min=1)


def _jaccard(patches: Tensor, coverage: Tensor) -> Tensor:
    """Of patches (B, H, N) in {0, 1}, whole in pixels, with regions that cover ``coverage`` (B, 1, N) of each patch."""
    common = (patches * coverage).sum(dim=2)
    return common / (patches.sum(dim=2) + coverage.sum(dim=2) - common)
