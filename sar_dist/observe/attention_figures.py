"""Pictures of what the [CLS] token attends to, drawn with matplotlib's object interface: no global state, no display."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from einops import rearrange
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from sar_dist.observe.panels import FloatArray, PanelGrid

IntArray = npt.NDArray[np.int64]

MAX_HEADS_PER_LINE = 8
MAX_CAPTION_LINES = 2
STAGES = ("similarity", "above the mean", "components", "overlay")
TITLES = "Titles: head, spatial entropy H in nats, number of components"
# Components by their share of the mass above the threshold, largest first; all further ones share the last colour.
COMPONENT_COLORS = ("#ffb000", "#35a7ff", "#ff4f79", "#5ee06b", "#b887ff", "#00d1c7", "#ff8c42", "#f5f56b")
FURTHER_COLOR = "#c8c8c8"
BACKGROUND_BRIGHTNESS = 0.4
FAINTEST_OVERLAY = 0.3
STRONGEST_OVERLAY = 0.85


def rank_components(labels: IntArray, mass: FloatArray) -> IntArray:
    """Relabel components by falling mass: 1 is the one with the most, 0 stays background.

    Args:
        labels: (gh, gw), 0 for background, any positive number for a component.
        mass: (gh, gw), not negative.
    """
    values, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    totals = np.bincount(inverse.ravel(), weights=mass.ravel(), minlength=len(values))
    totals[values == 0] = np.inf  # the background keeps rank 0
    order = np.argsort(-totals, kind="stable")
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) + (0 if 0 in values else 1)
    return ranks[inverse]


def mass_and_ranks(similarity: FloatArray, labels: IntArray) -> tuple[FloatArray, IntArray]:
    """Excess over the mean inside the components, and the rank of each patch's component by it, both (gh, gw)."""
    mass = np.where(labels > 0, np.maximum(similarity - similarity.mean(), 0), 0.0)
    return mass, rank_components(labels, mass)


def mass_and_colors(similarity: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Excess over the mean inside the components, (gh, gw), and the colour of each patch's component, (gh, gw, 3)."""
    mass, ranks = mass_and_ranks(similarity, labels)
    palette = np.array([to_rgb(color) for color in ("black", *COMPONENT_COLORS, FURTHER_COLOR)])
    return mass, palette[np.minimum(ranks, len(palette) - 1)]


def overlay_components(image: FloatArray, similarity: FloatArray, labels: IntArray) -> FloatArray:
    """Components in colour over the darkened image; the stronger the similarity, the more opaque the patch.

    Args:
        image: (S, S, 3) in [0, 1].
        similarity: (gh, gw), any grid; it is stretched over the image patch by patch.
        labels: (gh, gw), 0 for background.

    Returns:
        (S, S, 3) in [0, 1].
    """
    mass, colors = mass_and_colors(similarity, labels)  # gh gw, gh gw 3
    strength = mass / mass.max() if mass.max() > 0 else mass
    opacity = np.where(labels > 0, FAINTEST_OVERLAY + (STRONGEST_OVERLAY - FAINTEST_OVERLAY) * strength, 0.0)  # gh gw

    height, width = image.shape[:2]
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    opacity = opacity[rows][:, columns, None]  # S S 1
    gray = image.mean(axis=-1, keepdims=True) * BACKGROUND_BRIGHTNESS
    return np.clip((1 - opacity) * gray + opacity * colors[rows][:, columns], 0, 1)


def _check_shapes(images: Tensor, similarity: Tensor, entropies: Tensor, component_labels: Tensor) -> None:
    count, heads = similarity.shape[:2]
    if count == 0 or images.shape[:2] != (count, 3) or images.ndim != 4 or similarity.ndim != 4:
        raise ValueError(f"images {tuple(images.shape)} and similarity {tuple(similarity.shape)} do not go together")
    if entropies.shape != (count, heads) or component_labels.shape != similarity.shape:
        raise ValueError(
            f"similarity {tuple(similarity.shape)} needs entropies {(count, heads)}, got {tuple(entropies.shape)}, and "
            f"as many component labels, got {tuple(component_labels.shape)}"
        )


def _numpy(tensor: Tensor) -> FloatArray:
    return tensor.detach().cpu().double().numpy()


def _labels(tensor: Tensor) -> IntArray:
    return tensor.detach().cpu().long().numpy()


def head_lines(heads: int) -> tuple[int, int]:
    """Lines that so many heads take, and heads in a line."""
    lines = math.ceil(heads / MAX_HEADS_PER_LINE)
    return lines, math.ceil(heads / lines)


def head_title(head: int, entropy: float, labels: IntArray) -> str:
    """Number, entropy in nats and number of components of a head."""
    components = len(np.unique(labels[labels > 0]))
    return f"head {head}: H {entropy:.2f}, {components} comp."


def attention_figure(
    images: Tensor,
    similarity: Tensor,
    entropies: Tensor,
    component_labels: Tensor,
    captions: Sequence[str] | None = None,
) -> Figure:
    """The input and, for each head, the components of its [CLS] similarity map; one row for each image.

    Heads beyond eight go on in further lines below. Patches at or below the map's mean are dark; the others have the
    colour of their component, more opaque where the similarity is higher.

    Args:
        images: (n, 3, S, S) in [0, 1], not normalised.
        similarity: (n, H, gh, gw) similarity of [CLS] and patches, before softmax.
        entropies: (n, H) spatial entropies in nats.
        component_labels: (n, H, gh, gw) integer component labels, 0 for background.
        captions: one text of at most two lines for each image, shortened to fit; None numbers them.

    Raises:
        ValueError: the shapes do not go together.
    """
    _check_shapes(images, similarity, entropies, component_labels)
    count, heads = entropies.shape
    if captions is None:
        captions = [f"image {index}" for index in range(count)]
    if len(captions) != count:
        raise ValueError(f"{len(captions)} captions for {count} images")

    line_count, heads_per_line = head_lines(heads)
    caption_lines = [min(MAX_CAPTION_LINES, len(caption.splitlines()) or 1) for caption in captions]
    grid = PanelGrid(
        1 + max(heads_per_line, 4), [lines for first in caption_lines for lines in (first, *[1] * (line_count - 1))]
    )
    pixels = np.clip(_numpy(rearrange(images, "n c y x -> n y x c")), 0, 1)
    maps, values, labels = _numpy(similarity), _numpy(entropies), _labels(component_labels)
    for image in range(count):
        first_line = image * line_count
        caption = "\n".join(captions[image].splitlines()[:MAX_CAPTION_LINES])
        grid.panel(first_line, 0, pixels[image], grid.shorten(caption))
        for head in range(heads):
            line, column = divmod(head, heads_per_line)
            overlay = overlay_components(pixels[image], maps[image, head], labels[image, head])
            grid.panel(
                first_line + line, 1 + column, overlay, head_title(head, values[image, head], labels[image, head])
            )
    grid.legend(
        "components of the [CLS] similarity above its mean, largest first; more opaque: higher similarity.   " + TITLES,
        (*COMPONENT_COLORS, FURTHER_COLOR),
    )
    return grid.figure


def attention_detail_figure(
    image: Tensor, similarity: Tensor, entropies: Tensor, component_labels: Tensor, caption: str = "input"
) -> Figure:
    """One image's heads from similarity to components: map, mask, components, overlay, one below the other.

    Args:
        image: (3, S, S) in [0, 1], not normalised.
        similarity: (H, gh, gw) similarity of [CLS] and patches, before softmax.
        entropies: (H,) spatial entropies in nats.
        component_labels: (H, gh, gw) integer component labels, 0 for background.
        caption: text above the image.

    Raises:
        ValueError: the shapes do not go together.
    """
    _check_shapes(image[None], similarity[None], entropies[None], component_labels[None])
    heads = len(entropies)
    line_count, heads_per_line = head_lines(heads)
    title_lines = (1, *[0] * (len(STAGES) - 1)) * line_count
    grid = PanelGrid(1 + max(heads_per_line, 4), title_lines, label_inches=0.3)
    pixels = np.clip(_numpy(rearrange(image, "c y x -> y x c")), 0, 1)
    maps, values, labels = _numpy(similarity), _numpy(entropies), _labels(component_labels)
    grid.panel(0, 0, pixels, grid.shorten(caption))
    for head in range(heads):
        line, column = divmod(head, heads_per_line)
        stages = _stages(pixels, maps[head], labels[head])
        for number, stage in enumerate(stages):
            title = head_title(head, values[head], labels[head]) if number == 0 else ""
            grid.panel(line * len(STAGES) + number, 1 + column, stage, title)
    for line in range(line_count * len(STAGES)):
        grid.label(line, STAGES[line % len(STAGES)])
    grid.legend(
        "components, largest first.   similarity: each map from its lowest (dark) to its highest (bright) value.   "
        + TITLES,
        (*COMPONENT_COLORS, FURTHER_COLOR),
    )
    return grid.figure


def _stages(pixels: FloatArray, similarity: FloatArray, labels: IntArray) -> tuple[FloatArray, ...]:
    """The pictures of one head in the order of ``STAGES``, each (height, width, 3) in [0, 1]."""
    span = similarity.max() - similarity.min()
    unit = (similarity - similarity.min()) / span if span > 0 else np.zeros_like(similarity)
    mask = np.repeat(np.where(labels > 0, 0.8, 0.1)[..., None], 3, axis=-1)
    _, colors = mass_and_colors(similarity, labels)
    return colormaps["viridis"](unit)[..., :3], mask, colors, overlay_components(pixels, similarity, labels)
