"""tools/visualize_attention.py, run in this process to save its imports."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "visualize_attention.py"


@pytest.fixture
def visualize(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_status:
            runpy.run_path(str(TOOL), run_name="__main__")
        return exit_status.value.code, capsys.readouterr()

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def test_pictures_and_a_page(visualize, photo, tmp_path):
    out = tmp_path / "out" / "attention"
    status, text = visualize("--model", "random:vit_tiny_patch16_224", "--images", photo, photo.parent, "--out", out)
    assert status == 0, text.err
    assert sorted(path.name for path in out.iterdir()) == ["00_a photo.png", "01_a photo.png", "index.html"]
    with Image.open(out / "00_a photo.png") as picture:
        assert picture.width == 1500
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "vit_tiny_patch16_224, random weights" in page
    assert text.out.splitlines()[-1] == str(out / "index.html")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("missing.jpg", None, "cannot read"), ("text.jpg", b"no image", "is not an image that can be used")],
)
def test_a_bad_image_is_one_line(visualize, tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    status, text = visualize("--model", "random:vit_tiny_patch16_224", "--images", path, "--out", tmp_path / "out")
    assert status == 2
    assert message in text.err
    assert text.err.count("\n") == 1


def test_the_folder_of_the_images_is_not_written_to(visualize, photo):
    (photo.parent / "index.html").write_text("mine")
    for out in (photo.parent, photo.parent / ".." / photo.parent.name):
        status, text = visualize("--model", "random:vit_tiny_patch16_224", "--images", photo, "--out", out)
        assert status == 2
        assert (
            text.err
            == f"error: --out {out} holds {photo.name}, one of the images; give another folder for the pictures\n"
        )
    assert (photo.parent / "index.html").read_text() == "mine"
    assert sorted(path.name for path in photo.parent.iterdir()) == [photo.name, "index.html"]


def test_a_place_that_cannot_be_written(visualize, photo):
    status, text = visualize("--model", "random:vit_tiny_patch16_224", "--images", photo, "--out", photo / "out")
    assert status == 2
    assert text.err.startswith("error: cannot write ")


def test_a_name_that_is_not_utf8_is_shown_escaped(visualize, photo, tmp_path):
    latin = photo.rename(photo.with_name("caf\udce9.jpg"))
    status, text = visualize("--model", "random:vit_tiny_patch16_224", "--images", latin, "--out", tmp_path / "out")
    assert status == 0, text.err
    assert "caf\\xe9.jpg" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("name", ["index.html", "00_a photo.png"])
def test_files_of_others_stay(visualize, photo, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    status, text = visualize("--model", "random:vit_tiny_patch16_224", "--images", photo, "--out", out)
    assert status == 2
    assert text.err.startswith(f"error: {out / name} would be overwritten and is no page of this program's")
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
