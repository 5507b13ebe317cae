"""`make_shards.py --max-short-side`: which images are made smaller and how, and that all else stays."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from shard_factory import contents, tar_bytes, train_loader

from sar_dist.config import RunConfig, load_config
from sar_dist.data import Manifest, ShardEntry, load_manifest
from sar_dist.data.images import UndecodableImage, decode_image
from sar_dist.data.making import ResizedSource, WritingOptions, write_shards, write_splits
from sar_dist.data.making.resizing import resized_image
from sar_dist.data.making.sources import DemoScenes, tar_sources
from sar_dist.data.making.sources.copied_shards import CopiedShards
from sar_dist.data.making.verify import verify_folder
from sar_dist.data.shards import Resizing, ShardReader, open_shards
from sar_dist.errors import UserError
from sar_dist.training.checks import _warn_of_small_images
from tools import make_shards

MAX_PIXELS = 10**6
TO_32 = Resizing(32, 95)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth coloured picture, with a little noise."""
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    pixels = np.asarray(coarse, np.float64) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def file_of(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def rotated_by_its_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(picture(90, 60), exif=exif)


WIDE_GREY = Image.fromarray(np.asarray(picture(90, 60, "L")).astype(np.uint16) << 8)


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (file_of(picture(90, 60), quality=95), "RGB"),
        (file_of(picture(90, 60, "L")), "L"),
        (file_of(picture(90, 60, "CMYK")), "RGB"),
        (file_of(picture(90, 60, "RGBA"), "PNG"), "RGB"),
        (file_of(picture(90, 60, "P"), "PNG"), "RGB"),
        (file_of(WIDE_GREY, "PNG"), "L"),
        (file_of(picture(90, 60), "WEBP"), "RGB"),
        (rotated_by_its_exif(), "RGB"),
    ],
    ids=["rgb", "grey", "cmyk", "rgba", "palette", "16 bits", "webp", "exif"],
)
def test_larger_images_become_what_training_would_have_made_of_them(data: bytes, mode: str) -> None:
    """The stored pixels, resized by the filter that training has; within what a JPEG of quality 95 costs."""
    smaller = resized_image(data, TO_32, MAX_PIXELS)
    assert smaller is not None
    image = opened(smaller)
    assert (image.format, image.size, image.mode, dict(image.getexif())) == ("JPEG", (48, 32), mode, {})
    pixels = decode_image(data, MAX_PIXELS)[None]
    wanted = F.interpolate(pixels, size=(32, 48), mode="bicubic", antialias=True)[0].float()
    difference = (decode_image(smaller, MAX_PIXELS).float() - wanted).abs()
    assert difference.mean() < 5
    assert (decode_image(smaller, MAX_PIXELS).float() - wanted.flip(2)).abs().mean() > 10


def test_the_filter_is_training_s() -> None:
    """Without a JPEG in between: a tenth of a grey level, which is what the two implementations differ by."""
    image = picture(500, 375)
    ours = np.asarray(image.resize((341, 256), Image.Resampling.BICUBIC), np.float32)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    training = F.interpolate(pixels, size=(256, 341), mode="bicubic", antialias=True)[0].permute(1, 2, 0).float()
    assert np.abs(ours - training.numpy()).mean() < 0.1
    smaller = resized_image(file_of(image, quality=100, subsampling=0), Resizing(256, 100), MAX_PIXELS)
    assert smaller is not None
    assert np.abs(np.asarray(opened(smaller), np.float32) - training.numpy()).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_only_the_short_side_counts(kind: str) -> None:
    assert resized_image(file_of(picture(300, 32), kind), TO_32, MAX_PIXELS) is None
    assert resized_image(file_of(picture(20, 20), kind), TO_32, MAX_PIXELS) is None
    slim = resized_image(file_of(picture(33, 330), kind), TO_32, MAX_PIXELS)
    assert slim is not None
    assert opened(slim).size == (32, 320)


def test_what_cannot_be_resized_says_why() -> None:
    with pytest.raises(UndecodableImage, match="exceed the limit"):
        resized_image(file_of(picture(90, 60)), TO_32, 1000)
    with pytest.raises(UndecodableImage, match="more than a JPEG can hold"):
        resized_image(file_of(Image.new("L", (200_000, 3)), "PNG"), Resizing(2), MAX_PIXELS)
    with pytest.raises(UndecodableImage):
        resized_image(b"\x89PNG nothing", TO_32, MAX_PIXELS)


LARGE, SMALL = file_of(picture(90, 60)), file_of(picture(40, 30))


def stored_shards(folder: Path) -> Path:
    """Two bare tars: large, small, PNG, broken, and labels in two places; captions beside them."""
    folder.mkdir()
    images = [("jpg", LARGE), ("jpg", SMALL), ("png", file_of(picture(60, 90), "PNG")), ("jpeg", LARGE[:300])]
    for shard in range(2):
        members = []
        for place, (extension, data) in enumerate(images):
            key = f"a/{shard}-{place}"
            members += [(f"{key}.{extension}", data), (f"{key}.json", json.dumps({"label": place}).encode())]
        (folder / f"some-{shard:02d}.tar").write_bytes(tar_bytes(members))
    return folder


def samples_of(manifest: Manifest) -> list[tuple[str, dict[str, bytes]]]:
    reader = ShardReader(open_shards(manifest, SimpleNamespace()))  # type: ignore[arg-type]  # local shards need none
    return [reader.members(*manifest.locate(number)) for number in range(manifest.total)]


def resized_shards(source: Path, out: Path, processes: int = 1) -> Manifest:
    original = CopiedShards(load_manifest(source, "train", "json.label"), "train", "json.label")
    write_splits([ResizedSource(original, TO_32)], out, WritingOptions(processes=processes))
    return load_manifest(out, "train")


def test_shards_are_resized_sample_by_sample(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Names, keys, order and other members stay; and the bytes are the same for any number of processes."""
    source = stored_shards(tmp_path / "source")
    manifest = resized_shards(source, tmp_path / "one")
    printed = capsys.readouterr()
    assert "4 images resized (short side <= 32 px, JPEG quality 95), 2 no larger than that" in printed.out
    assert "2 without an image that can be decoded left as they are" in printed.out
    assert printed.err.count("a/0-3 stays as it is: ") == 1
    resized_shards(source, tmp_path / "three", processes=3)
    assert "4 images resized" in capsys.readouterr().out, "counted over all processes"
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert [shard.name for shard in manifest.shards] == ["some-00.tar", "some-01.tar"]
    before, after = samples_of(load_manifest(source, "train")), samples_of(manifest)
    assert [key for key, _ in before] == [key for key, _ in after]
    kept = [("jpg", True), ("jpg", False), ("jpg", True), ("jpeg", False)] * 2
    for (_, old), (_, new), (extension, smaller), label in zip(before, after, kept, [0, 1, 2, 3] * 2, strict=True):
        assert set(new) == {extension, "json", "cls"}
        assert (new["json"], new["cls"]) == (old["json"], b"%d" % label)
        assert (min(opened(new[extension]).size) == 32) if smaller else (new[extension] == old[extension])


def test_the_manifest_and_the_order_s_fingerprint_say_it(tmp_path: Path) -> None:
    source = stored_shards(tmp_path / "source")
    manifest = resized_shards(source, tmp_path / "once")
    content = json.loads((tmp_path / "once" / "manifest.json").read_text())
    assert content["source"] == {"kind": "shards", "folder": "source", "label": "json.label"}
    (step,) = content["resized"]
    assert (step["max_short_side"], step["quality"], step["subsampling"]) == (32, 95, "4:2:0")
    assert manifest.resized == (TO_32,)
    # A copy in other shards knows it as well, and a second step is told apart from the first.
    (again,) = tar_sources(tmp_path / "once", "cls", None)
    write_shards(ResizedSource(again, Resizing(16)), tmp_path / "twice", WritingOptions())
    assert load_manifest(tmp_path / "twice", "train").resized == (TO_32, Resizing(16, 90))
    options = {"global_batch": 2, "micro_batch": 2}
    state = train_loader(load_manifest(source, "train"), **options).state_dict(1)
    with pytest.raises(UserError, match=r"resized None -> short side <= 32 px, JPEG quality 95"):
        train_loader(manifest, **options).load_state_dict(state)
    del state["fingerprint"]["resized"]  # of a checkpoint from before
    train_loader(load_manifest(source, "train"), **options).load_state_dict(state)


def test_an_unfinished_set_is_not_completed_in_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored_shards(tmp_path / "source")
    with monkeypatch.context() as patch:
        patch.setattr("sar_dist.data.making.writing.index_new_shards", None)
        with pytest.raises(TypeError):
            resized_shards(source, tmp_path / "out")
    original = CopiedShards(load_manifest(source, "train", "json.label"), "train", "json.label")
    for other in (original, ResizedSource(original, Resizing(32, 90)), ResizedSource(original, Resizing(31, 95))):
        with pytest.raises(UserError, match="another source, other labels or other options"):
            write_shards(other, tmp_path / "out", WritingOptions())
    resized_shards(source, tmp_path / "out")
    verify_folder(tmp_path / "out")


def test_a_mask_that_would_no_longer_fit_is_refused(tmp_path: Path) -> None:
    scenes = DemoScenes("val", 4, 3, 64, 0)
    with pytest.raises(UserError, match=r"second image, mask\.png, that would no longer fit"):
        write_shards(ResizedSource(scenes, TO_32), tmp_path / "small", WritingOptions())
    write_shards(ResizedSource(scenes, Resizing(64)), tmp_path / "same", WritingOptions())
    write_shards(scenes, tmp_path / "plain", WritingOptions())
    shard = "val-000000.tar"
    assert (tmp_path / "same" / shard).read_bytes() == (tmp_path / "plain" / shard).read_bytes()


def test_the_space_that_is_asked_for_is_that_of_the_smaller_images(tmp_path: Path) -> None:
    source = CopiedShards(load_manifest(stored_shards(tmp_path / "source"), "train"), "train", "cls")
    resized = ResizedSource(source, TO_32)
    usable = (0, 1, 2, 4, 5, 6)
    exact = source.size() * sum(len(data) for n in usable for data in resized.sample(n)[1].values())
    exact //= sum(len(data) for n in usable for data in source.sample(n)[1].values())
    assert resized.size() == exact < source.size()


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["make_shards.py", *map(str, arguments)])
    make_shards.main()


def test_every_format_has_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    (tmp_path / "tree" / "cat" / "a.webp").write_bytes(file_of(picture(90, 60), "WEBP"))
    run_tool(monkeypatch, "imagefolder", tmp_path / "tree", tmp_path / "a", "--split", "train", "--max-short-side", 32)
    assert load_manifest(tmp_path / "a", "train").resized == (Resizing(32, 90),)
    run_tool(monkeypatch, "shards", tmp_path / "a", tmp_path / "b", "--max-short-side", 16, "--quality", 80)
    manifest = load_manifest(tmp_path / "b", "train")
    ((_, members),) = samples_of(manifest)
    assert (opened(members["jpg"]).size, members["cls"], manifest.classes) == ((24, 16), b"0", ("cat",))
    for wrong, message in (
        (["--quality", 80], "give --max-short-side too"),
        (["--max-short-side", 16, "--quality", 101], "from 1 to 100"),
    ):
        with pytest.raises(UserError, match=message):
            run_tool(monkeypatch, "shards", tmp_path / "a", tmp_path / "c", *wrong)


def test_images_smaller_than_the_model_takes_them_are_said(capsys: pytest.CaptureFixture) -> None:
    config: RunConfig = load_config(Path("configs/vit_l_in1k.py"), ["model.image_size=224"])
    entries = (ShardEntry("a.tar", 1),)
    for side, key, wanted in ((160, "data.train", 224), (224, "data.val", 256)):
        _warn_of_small_images(key, Manifest("x", "train", None, entries, resized=(Resizing(side),)), config)
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(rf"{key}: .*at most {side} px.*takes them at {wanted}; .*--max-short-side {wanted} or", line)
    _warn_of_small_images("data.val", Manifest("x", "val", None, entries, resized=(Resizing(256),)), config)
    _warn_of_small_images("data.train", Manifest("x", "train", None, entries), config)
    assert capsys.readouterr().err == ""
