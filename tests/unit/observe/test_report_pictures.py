"""The pictures of a report: the newest ones, with words for those who cannot see them, on a page that can be sent."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_factory import some_result

from sar_dist.reports.page import PAGE_BYTES, report_page
from sar_dist.reports.pictures import LEAST_BYTES, find_pictures, fit_pictures, newest_figures, shrunk
from sar_dist.reports.runs import ReportedRun


def noise(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG file that cannot be compressed."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def put(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def run_with(folder: Path, files: dict[str, bytes], *evaluations: str) -> ReportedRun:
    for name, content in files.items():
        put(folder / name, content)
    records = [{"step": 20, "prefix": "train", "epoch": 1.0, "loss_cls": 1.0}]
    return ReportedRun(folder.name, folder, {}, {}, records, {name: some_result(label=name) for name in evaluations})


def shown(page: str) -> list[tuple[str, bytes]]:
    """Alternative text and content of each picture."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/(?:png|jpeg);base64,([^"]*)">', page)
    return [(alt, base64.b64decode(content)) for alt, content in found]


def test_the_newest_of_each_figure_and_those_of_evaluations(tmp_path: Path) -> None:
    files = {
        "figures/attention_step_00000010.png": noise(4, 4, 1),
        "figures/attention_step_00000020.png": noise(4, 4, 2),
        "figures/attention_heads/image_0_step_00000020.png": noise(4, 4, 3),
        "figures/confusion_step_00000009.png": noise(4, 4, 4),
        "figures/.attention_step_00000030.png.tmp": b"half a picture",
        "transfer/knn/sweep.png": noise(4, 4, 5),
        "transfer/my_task/features/x.png": noise(4, 4, 6),
        "transfer/my_task/own_picture.png": noise(4, 4, 7),
        "transfer/unfinished/a.png": noise(4, 4, 8),
    }
    runs = [run_with(tmp_path / "one <&>", files, "knn", "my_task"), run_with(tmp_path / "two", {})]
    page = report_page(runs, b"curves")
    assert shown(page) == [
        ("curves of all runs, one chart for each logged quantity", b"curves"),
        ("one &lt;&amp;&gt;: attention, step 20: what the heads attend to on some validation images", noise(4, 4, 2)),
        ("one &lt;&amp;&gt;: sweep of the evaluation knn", noise(4, 4, 5)),
        ("one &lt;&amp;&gt;: own picture of the evaluation my_task", noise(4, 4, 7)),
        ("one &lt;&amp;&gt;: confusion, step 9: confusion matrix over the validation set", noise(4, 4, 4)),
        (
            "one &lt;&amp;&gt;: attention heads, image 0, step 20: similarity, mask, components and overlay of each head on one "
            "validation image",
            noise(4, 4, 3),
        ),
    ]
    assert "<figcaption>one &lt;&amp;&gt;: attention heads, image 0, step 20</figcaption>" in page
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[headings.index("Attention at the end") :][:4] == [
        "Attention at the end",
        "Pictures of the evaluations",
        "Confusion",
        "Attention, head by head",
    ]
    assert "further pictures" not in page
    assert newest_figures(tmp_path / "two" / "figures") == {}


def test_runs_take_turns_and_attention_comes_first(tmp_path: Path) -> None:
    names = ("figures/a_step_00000001.png", "figures/attention_step_00000001.png", "transfer/knn/b.png")
    runs = [run_with(tmp_path / name, dict.fromkeys(names, b""), "knn") for name in ("x", "y")]
    order = [(found.run, found.title) for found in find_pictures(runs)]
    assert [run for run, _ in order] == ["x", "y"] * 3
    assert [title for _, title in order[::2]] == ["attention, step 1", "knn: b", "a, step 1"]


def test_the_page_stays_below_5_mb(tmp_path: Path) -> None:
    large = noise(1500, 1000)
    assert len(large) > 4_000_000
    files = {f"figures/figure{number}_step_00000001.png": large for number in range(6)}
    files["figures/attention_step_00000001.png"] = noise(40, 40)
    page = report_page([run_with(tmp_path / "large", files)], noise(200, 200))
    pictures = shown(page)
    assert 0.7 * PAGE_BYTES < len(page.encode()) < PAGE_BYTES
    assert len(pictures) == 8
    assert pictures[1][1] == noise(40, 40)  # small ones stay as they are
    with Image.open(io.BytesIO(pictures[2][1])) as smaller:
        assert smaller.format == "JPEG"
        assert smaller.width / smaller.height == pytest.approx(1.5, abs=0.01)
        assert smaller.width > 500


def test_what_finds_no_room_or_is_damaged_is_said(tmp_path: Path) -> None:
    files = {f"figures/figure{number}_step_00000001.png": noise(200, 200) for number in range(4)}
    files["figures/attention_step_00000001.png"] = noise(30, 30)[:-600]
    run = run_with(tmp_path / "run", files)
    fitted = fit_pictures(find_pictures([run]), 3 * LEAST_BYTES)
    assert [picture.title for picture in fitted.by_section["Further pictures"]] == [
        "figure0, step 1",
        "figure1, step 1",
    ]
    assert sum(len(picture.content) for picture in fitted.by_section["Further pictures"]) <= 3 * LEAST_BYTES
    assert fitted.left_out == 2
    assert fitted.unreadable == [run.path / "figures" / "attention_step_00000001.png"]
    assert fit_pictures(find_pictures([run]), -1).left_out == 5
    page = report_page([run], noise(1200, 1000))  # curves that leave room for a few pictures at most
    assert "attention_step_00000001.png is damaged and not shown" in page
    many = {f"figures/more{number}_step_00000001.png": noise(8, 8) for number in range(80)}
    assert "further pictures are in the run directories" in report_page([run_with(run.path, many)], b"")


def test_a_transparent_picture_is_shrunk_onto_white() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (400, 300), (0, 0, 0, 0)).save(out, "PNG")
    content, kind = shrunk(out.getvalue(), 500)
    assert kind == "image/jpeg"
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.getpixel((0, 0)) == (255, 255, 255)
