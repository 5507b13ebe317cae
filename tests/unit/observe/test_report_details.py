"""What a run keeps for its report, and what the page makes of it: attention over training, the hardest classes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_runs import keep_details, write_run

from sar_dist.observe import LEVELS, RunLogger, packed_maps
from sar_dist.reports import load_runs, report_page
from sar_dist.reports.attention_steps import attention_steps, evenly
from sar_dist.reports.classes import hardest_classes


def test_a_patch_is_a_byte_of_component_and_level() -> None:
    similarity = torch.tensor([[0.0, 1.0, 2.0], [9.0, 0.0, 6.0]])  # mean 3
    labels = torch.tensor([[0, 0, 0], [5, 0, 2]])
    packed = np.frombuffer(base64.b64decode(packed_maps(similarity[None], labels[None])), dtype=np.uint8)
    components, levels = np.divmod(packed, LEVELS)
    assert components.tolist() == [0, 0, 0, 1, 0, 2]  # by falling mass, whatever their labels are
    assert levels.tolist() == [0, 5, 10, 15, 0, 8]  # from the lowest value to the mean, and from there to the highest
    nothing = packed_maps(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert base64.b64decode(nothing) == bytes(4)
    assert len(base64.b64decode(packed_maps(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2)))) == 4


def test_details_are_forgotten_as_metrics_are_and_images_kept_once(tmp_path: Path) -> None:
    def logger() -> RunLogger:
        return RunLogger(tmp_path, enabled=True, total_steps=9, description="x", to=())

    first = logger()
    image = np.full((200, 200, 3), 99, dtype=np.uint8)
    for step in (2, 4, 6):
        first.details("classes", step, {"hardest": []}, {12: image})
    first.details("classes", 6, {"hardest": []}, {12: image // 2})  # is not written again
    assert first.unseen([12, 13, 13]) == [13]
    with Image.open(tmp_path / "figures" / "samples" / "00000012.jpg") as kept:
        assert (kept.size, kept.getpixel((0, 0))) == ((160, 160), (99, 99, 99))
    first.details("classes", 7, {"hardest": []}, {5: image, 14: image})
    first.forget_samples({12, 14})
    assert sorted(file.name for file in (tmp_path / "figures" / "samples").iterdir()) == [
        "00000012.jpg",
        "00000014.jpg",
    ]
    assert first.unseen([5, 12]) == [5]
    first.close()
    resumed = logger()
    assert resumed.unseen([12]) == [12]
    resumed.start({}, 4)
    resumed.details("classes", 6, {"hardest": [1]}, {12: image // 2})
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "figures" / "classes.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "hardest": []}, {"step": 4, "hardest": []}, {"step": 6, "hardest": [1]}]
    with Image.open(tmp_path / "figures" / "samples" / "00000012.jpg") as kept:
        assert kept.getpixel((0, 0)) == (49, 49, 49)
    assert resumed.failures == 0


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    runs = [write_run(tmp_path, "reg", 0.01, 62.0), write_run(tmp_path, "base", 0.0)]
    keep_details(runs[0], [10, 20, 30])
    keep_details(runs[1], [20, 40], samples=(7, 0))
    return runs


def test_the_slider_has_the_steps_of_all_runs_and_each_image_once(pair: list[Path]) -> None:
    found = attention_steps(load_runs(pair))
    assert found is not None
    assert found.steps == [10, 20, 30, 40]
    assert [image.title for image in found.images] == [
        "cat, sample 0",
        "dog, sample 7",
        "cat, sample 7",
        "dog, sample 0",
    ][:2]
    assert [list(run.images) for run in found.runs] == [[0, 1], [1, 0]]
    assert found.left_out == 0
    thinned = attention_steps(load_runs(pair), room=2 * 2 * 32)
    assert thinned is not None
    assert [[record["step"] for record in run.records] for run in thinned.runs] == [[20, 30], [20, 40]]
    assert thinned.left_out == 1


def test_steps_are_left_out_evenly() -> None:
    steps = [{"step": step} for step in range(1, 11)]
    assert [each["step"] for each in evenly(steps, 3)] == [3, 7, 10]
    assert evenly(steps, 10) == steps
    assert [each["step"] for each in evenly(steps, 1)] == [10]


def test_the_newest_line_of_a_step_counts_and_torn_ones_do_not(pair: list[Path]) -> None:
    file = pair[0] / "figures" / "classes.jsonl"
    again = {"name": "cow", "images": 4, "right": 1, "taken_for": [["dog", 3]], "examples": [[99, "dog"]]}
    with file.open("a") as stream:
        stream.write(json.dumps({"step": 30, "classes": 3, "hardest": [again]}) + '\n{"step": 40, "cla')
    (table, other) = hardest_classes(load_runs(pair))
    assert (table.run, table.step, table.classes) == ("reg", 30, 3)
    (row,) = table.rows
    assert (row.name, row.accuracy, row.taken_for) == ("cow", "25.0 % of 4", "dog (3)")
    assert row.examples == []  # its image is lost
    assert [picture.title for picture in other.rows[0].examples] == ["dog"]
    assert hardest_classes(load_runs(pair), room=10)[1].rows[0].examples == []


def test_a_run_without_details_has_neither_section(pair: list[Path], tmp_path: Path) -> None:
    bare = report_page(load_runs([write_run(tmp_path, "old", 0.0)]), b"")
    assert "Attention over training" not in bare
    assert "Hardest classes" not in bare
    page = report_page(load_runs(pair), b"")
    assert '<tr><th scope="row">cat</th><td>25.0 % of 8</td><td>dog (5), cow (1)</td>' in page
    assert 'alt="sample 3 of cat, taken for dog"' in page
