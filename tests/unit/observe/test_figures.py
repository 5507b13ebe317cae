import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from scipy import ndimage

from sar_dist.observe.attention_figures import (
    COMPONENT_COLORS,
    attention_detail_figure,
    attention_figure,
    overlay_components,
    rank_components,
)


def make_inputs(count=2, heads=3, grid=(6, 8), size=48):
    torch.manual_seed(0)
    similarity = torch.randn(count, heads, *grid)
    masks = similarity > similarity.mean((-2, -1), keepdim=True)
    labels = torch.stack([torch.from_numpy(ndimage.label(mask, np.ones((3, 3)))[0]) for mask in masks.flatten(0, 1)])
    return torch.rand(count, 3, size, size), similarity, torch.rand(count, heads), labels.view_as(similarity)


def test_components_are_ranked_by_mass():
    labels = np.array([[7, 7, 0], [0, 0, 3], [9, 0, 3]])
    mass = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 4.0], [0.5, 0.0, 4.0]])
    np.testing.assert_array_equal(rank_components(labels, mass), [[2, 2, 0], [0, 0, 1], [3, 0, 1]])


def test_components_that_cover_the_map_leave_no_background():
    np.testing.assert_array_equal(rank_components(np.array([[2, 5]]), np.array([[1.0, 2.0]])), [[2, 1]])


def test_overlay_colours_the_component_and_darkens_the_rest():
    image = np.full((4, 4, 3), 0.5)
    similarity = np.array([[4.0, 0.0], [0.0, 0.0]])
    overlay = overlay_components(image, similarity, np.array([[1, 0], [0, 0]]))
    color = np.array(to_rgb(COMPONENT_COLORS[0]))
    assert np.abs(overlay[0, 0] - color).max() < 0.15
    np.testing.assert_allclose(overlay[0, 0], overlay[1, 1])
    np.testing.assert_allclose(overlay[3, 3], 0.5 * 0.4)
    np.testing.assert_allclose(overlay[0, 2], overlay[3, 0])


def test_a_constant_map_is_all_background():
    overlay = overlay_components(np.full((4, 4, 3), 0.5), np.ones((2, 2)), np.zeros((2, 2), dtype=np.int64))
    np.testing.assert_allclose(overlay, 0.2)


def test_every_head_says_its_entropy_and_components():
    images, similarity, entropies, labels = make_inputs()
    figure = attention_figure(images, similarity, entropies, labels, ["a dog", "cost: $5 or $6"])
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 2 * (1 + 3)
    assert titles[0] == "a dog"
    assert titles[4] == "cost: $5 or $6"
    assert titles[2] == f"head 1: H {entropies[0, 1]:.2f}, {labels[0, 1].max()} comp."


@pytest.mark.parametrize(("heads", "grid"), [(1, (4, 4)), (6, (14, 14)), (12, (7, 5)), (16, (14, 14))])
def test_nothing_overlaps(heads, grid):
    captions = ["M" * 100, "class name\npredicted another class name\nand a third line"]
    assert_no_overlap(attention_figure(*make_inputs(2, heads, grid), captions=captions))
    images, similarity, entropies, labels = make_inputs(1, heads, grid)
    labels[0, -1, -1, -1] = labels.max() + 1
    assert_no_overlap(attention_detail_figure(images[0], similarity[0], 10 + entropies[0], labels[0], "M" * 100))


def assert_no_overlap(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = canvas.get_width_height()
    assert width == 1500
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_captions_may_have_two_lines():
    images, similarity, entropies, labels = make_inputs(2, 3)
    figure = attention_figure(images, similarity, entropies, labels, ["cat\npredicted dog\nlost", ""])
    assert figure.axes[0].get_title() == "cat\npredicted dog"
    assert figure.axes[4].get_title() == ""


def test_a_caption_is_cut_to_its_panel():
    images, similarity, entropies, labels = make_inputs(1, 8)
    title = attention_figure(images, similarity, entropies, labels, ["x" * 100]).axes[0].get_title()
    assert 10 < len(title) < 30
    assert title.endswith("x…")


def test_the_stages_of_every_head():
    images, similarity, entropies, labels = make_inputs(1, 2, grid=(4, 4))
    figure = attention_detail_figure(images[0], similarity[0], entropies[0], labels[0], "cat.jpg")
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    assert len(shown) == 1 + 2 * 4
    mask = labels[0, 0].numpy() > 0
    np.testing.assert_array_equal(shown[2][..., 0] > 0.5, mask)
    np.testing.assert_array_equal(shown[3].max(axis=-1) > 0, mask)
    assert shown[1].reshape(-1, 3).tolist().index([0.993248, 0.906157, 0.143936]) == similarity[0, 0].argmax()
    assert shown[4].shape == shown[0].shape == (48, 48, 3)
    assert [text.get_text() for text in figure.texts[:4]] == ["similarity", "above the mean", "components", "overlay"]


def test_half_precision_and_gradients_are_welcome():
    images, similarity, entropies, labels = make_inputs(1, 2)
    figure = attention_figure(images, similarity.bfloat16().requires_grad_(), entropies.requires_grad_(), labels)
    assert figure.axes[0].get_title() == "image 0"


def test_shapes_that_do_not_match_are_refused():
    images, similarity, entropies, labels = make_inputs()
    with pytest.raises(ValueError, match="do not go together"):
        attention_figure(images[:1], similarity, entropies, labels)
    with pytest.raises(ValueError, match="entropies"):
        attention_figure(images, similarity, entropies[:, :2], labels)
    with pytest.raises(ValueError, match="captions"):
        attention_figure(images, similarity, entropies, labels, ["one"])
