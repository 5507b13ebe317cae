import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_factory import CLASSES, jpeg_of, png_of, scene, small_task, write_ade_layout

from sar_dist.data.making.sources import VOC_CLASSES, ade20k_sources
from sar_dist.data.making.writing import WritingOptions, write_splits
from sar_dist.errors import UserError
from sar_dist.transfer.tasks.attention.regions import MaskedSamples
from sar_dist.transfer.tasks.segmentation.samples import SegmentationSamples, decode_labels, remap_labels, take_census
from sar_dist.transfer.tasks.segmentation.tasks import Ade20k, VocSegmentation


class Listed:
    """A ``SampleSet`` in memory."""

    classes = None
    fingerprint = "listed"

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def sample(self, number):
        return f"sample{number}", self.samples[number]


def members(labels):
    return {"jpg": jpeg_of(labels), "seg.png": png_of(labels)}


def test_labels_of_ade20k_are_moved_and_those_of_voc_are_not():
    stored = torch.tensor([0, 1, 2, 150, 255], dtype=torch.uint8)
    assert remap_labels(stored, zero_is_void=True).tolist() == [255, 0, 1, 149, 255]
    assert remap_labels(stored, zero_is_void=False).tolist() == [0, 1, 2, 150, 255]


def test_a_palette_image_gives_its_indices(tmp_path):
    labels = scene(0)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "map.png")
    assert np.array_equal(decode_labels((tmp_path / "map.png").read_bytes(), "x").numpy(), labels)


def test_maps_of_16_bits_are_read_where_8_hold_their_labels():
    stored = np.array([[0, 7, 254, 255, 65535]], np.uint16)
    assert decode_labels(png_of(stored), "x").tolist() == [[0, 7, 254, 255, 255]]
    assert decode_labels(png_of(stored), "x").dtype == torch.uint8


def grey_png(bits: int) -> bytes:
    """A grey PNG of 96 x 64 zeros with few bits a pixel, which Pillow cannot write."""
    row = b"\0" + bytes(96 * bits // 8)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 96, 64, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * 64)),
        (b"IEND", b""),
    ]
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"jpg": jpeg_of(scene(0)), "seg.png": png_of(scene(0, height=32))}, "96x64 pixels, its map of labels 96x32"),
        (
            {"jpg": jpeg_of(scene(0)), "seg.png": png_of(np.full((64, 96), 7, np.uint8))},
            "has the label 7, but .* 4 classes",
        ),
        (
            {"jpg": jpeg_of(scene(0)), "seg.png": png_of(np.zeros((64, 96, 3), np.uint8))},
            "mode RGB, expected 8-bit grey",
        ),
        ({"jpg": jpeg_of(scene(0)), "seg.png": grey_png(4)}, r"has 4 bits of grey, which readers stretch to 0\.\.255"),
        ({"jpg": jpeg_of(scene(0)), "seg.png": grey_png(2)}, "has 2 bits of grey"),
        (
            {"jpg": jpeg_of(scene(0)), "seg.png": png_of(np.full((64, 96), 26001, np.uint16))},
            "16 bits has the label 26001, and at most 254 classes",
        ),
    ],
)
def test_what_does_not_go_together_is_a_user_error(sample, message, tmp_path):
    data = SegmentationSamples(Listed(members(scene(1)), sample), CLASSES, zero_is_void=True)
    with pytest.raises(UserError, match=f"^sample1: .*{message}"):
        data.check_some()
    with pytest.raises(UserError, match=f"^sample1: .*{message}"):
        take_census(data, tmp_path / "census.json", workers=0, say=print)


def test_the_census_counts_pixels_and_names_the_unreadable(tmp_path):
    good = [scene(seed) for seed in range(3)]
    broken_image = {"jpg": jpeg_of(good[0])[:200], "seg.png": png_of(good[0])}
    broken_map = {"jpg": jpeg_of(good[1]), "seg.png": png_of(good[1])[:60]}
    no_map = {"jpg": jpeg_of(good[1])}
    listed = Listed(members(good[0]), broken_image, members(good[1]), broken_map, no_map, members(good[2]))
    data = SegmentationSamples(listed, CLASSES, zero_is_void=True)
    census = take_census(data, tmp_path / "census.json", workers=0, say=print)
    stored = np.bincount(np.stack(good).ravel(), minlength=5)
    assert census.pixels == stored[1:].tolist()
    assert census.majority == stored[1:].argmax()
    assert census.unreadable == [1, 3, 4]
    assert census.without_map == 2
    assert [reason.split(":")[0] for reason in census.reasons] == ["sample1", "sample3", "sample4"]
    listed.samples = ()  # the second time it is read from the file
    assert take_census(data, tmp_path / "census.json", workers=0, say=print) == census


def test_shards_give_what_the_folder_gives(tmp_path):
    root = write_ade_layout(tmp_path / "scenes")
    write_splits(ade20k_sources(root), tmp_path / "shards", WritingOptions(seed=0, samples_per_shard=4, processes=1))
    folder, shards = (small_task(data, tmp_path / "out").prepare() for data in (root, tmp_path / "shards"))
    for split in ("train", "val"):
        first, second = getattr(folder, split), getattr(shards, split)
        assert first.classes == second.classes == CLASSES
        samples = [{key: rest for key, *rest in map(data.read, range(len(data)))} for data in (first, second)]
        assert samples[0].keys() == samples[1].keys()
        for key, (image, label) in samples[0].items():
            assert torch.equal(image, samples[1][key][0])
            assert torch.equal(label, samples[1][key][1])


def test_missing_data_is_one_line_that_says_what_to_do(tmp_path):
    how = r"objectInfo150.txt.*ADEChallengeData2016.zip.*make_shards.py ade20k SRC OUT"
    with pytest.raises(UserError, match=rf"no folder .*nowhere; expected .*{how}"):
        small_task(tmp_path / "nowhere", tmp_path).prepare()
    with pytest.raises(UserError, match=rf"has no folders images and annotations.*{how}"):
        small_task(tmp_path, tmp_path).prepare()
    root = write_ade_layout(tmp_path / "scenes")
    (root / "objectInfo4.txt").rename(tmp_path / "kept.txt")
    with pytest.raises(UserError, match=rf"does not name its classes.*{how}"):
        small_task(root, tmp_path).prepare()
    (tmp_path / "kept.txt").rename(root / "objectInfo4.txt")
    next((root / "annotations" / "validation").iterdir()).unlink()
    with pytest.raises(UserError, match=rf"have no map of the same name.*{how}"):
        small_task(root, tmp_path).prepare()


def test_maps_of_nothing_but_void_are_refused_by_the_census(tmp_path):
    void = np.zeros((8, 8), np.uint8)
    samples = SegmentationSamples(Listed(members(void), members(void)), CLASSES, zero_is_void=True)
    with pytest.raises(UserError, match="nothing but void"):
        take_census(samples, tmp_path / "census.json", 0, lambda _: None)


@pytest.mark.parametrize(("zero_is_void", "most", "void"), [(True, 254, "0 and 255 are"), (False, 255, "255 is")])
def test_more_classes_than_a_map_has_numbers_for_are_refused(zero_is_void, most, void):
    names = tuple(map(str, range(most + 1)))
    SegmentationSamples(Listed(), names[:-1], zero_is_void=zero_is_void)
    with pytest.raises(UserError, match=f"names {most + 1} classes, .* numbers for {most}, as {void} void"):
        SegmentationSamples(Listed(), names, zero_is_void=zero_is_void)


@pytest.mark.parametrize(("layout", "label"), [("voc", 4), ("ade20k", 5)])
def test_attention_refuses_labels_and_classes_as_segmentation_does(layout, label):
    names = CLASSES if layout == "voc" else ("other", *CLASSES)
    good = {"jpg": jpeg_of(scene(0)), "seg.png": png_of(np.full((64, 96), label - 1, np.uint8))}
    MaskedSamples(Listed(good), layout, names).check()
    sample = {"jpg": jpeg_of(scene(0)), "seg.png": png_of(np.full((64, 96), label, np.uint8))}
    with pytest.raises(UserError, match=f"sample0: its map has the label {label}, but there are only 4 classes"):
        MaskedSamples(Listed(sample), layout, names).check()
    with pytest.raises(UserError, match=r"names 2\d\d classes, but maps"):
        MaskedSamples(Listed(sample), layout, tuple(map(str, range(256)))).check()


def test_a_map_that_cannot_be_read_is_not_scored_and_an_image_that_cannot_is_wrong(tmp_path):
    root = write_ade_layout(tmp_path / "scenes", val=4)
    for path, size in (("annotations/validation/001001.png", 60), ("images/validation/001002.jpg", 200)):
        (root / path).write_bytes((root / path).read_bytes()[:size])
    said = []
    task = small_task(root, tmp_path / "out", said, iterations=1, random_baseline=False, pictures=0)
    found = task.run(task.prepare())
    assert (found.samples, found.skipped) == (3, 1)
    assert "val: 1 maps of labels cannot be read: these images are not scored" in said
    assert sum(row["pixels"] for row in found.tables["per_class"]) == sum(
        (scene(number) > 0).sum() for number in (1000, 1002, 1003)
    )


def test_validation_maps_that_count_classes_in_another_order_are_compared_by_name(tmp_path):
    root, shards = write_ade_layout(tmp_path / "scenes"), tmp_path / "shards"
    write_splits(ade20k_sources(root), shards, WritingOptions(seed=0, samples_per_shard=8, processes=1))
    manifest = json.loads((shards / "val" / "manifest.json").read_bytes())
    (shards / "val" / "manifest.json").write_text(json.dumps({**manifest, "classes": CLASSES[::-1]}))
    said = []
    mixed = small_task(shards, tmp_path / "out", said).prepare()
    plain = small_task(root, tmp_path / "out").prepare()
    assert any("compared by name" in line for line in said)
    assert mixed.fingerprints["val"] != mixed.val.samples.fingerprint
    labels = {key: label for key, _, label in map(plain.val.read, range(len(plain.val)))}
    for key, _, label in map(mixed.val.read, range(len(mixed.val))):
        assert torch.equal(label, torch.where(labels[key] == 255, 255, 3 - labels[key].int()).to(torch.uint8))


def test_validation_maps_may_lack_classes_and_have_no_others():
    sample = Listed(members(np.ones((64, 96), np.uint8)))
    assert not SegmentationSamples(sample, CLASSES, zero_is_void=True, own=CLASSES[:2]).renumbered
    other = SegmentationSamples(sample, CLASSES, zero_is_void=True, own=("sand",))
    assert other.read(0)[2].unique().tolist() == [2]
    with pytest.raises(UserError, match="label 1 is lake in the data and sea there, and 1 of its classes"):
        SegmentationSamples(sample, CLASSES, zero_is_void=True, own=("sky", "lake"))


def test_labels_of_voc_and_of_ade20k_are_not_taken_for_each_other(tmp_path):
    ade, voc = Listed(members(scene(0))), Listed(members(scene(0)))
    ade.classes, voc.classes = CLASSES, tuple(VOC_CLASSES)
    job = small_task(tmp_path, tmp_path / "out").job
    with pytest.raises(UserError, match=r"of which 0 is a class .* --task voc_seg"):
        Ade20k(job).class_names(voc)
    with pytest.raises(UserError, match=r"4 classes that are not VOC's, such as sky: .* --task ade20k"):
        VocSegmentation(job).class_names(ade)
    assert Ade20k(job).class_names(ade) == CLASSES
    assert VocSegmentation(job).class_names(voc) == tuple(VOC_CLASSES)


@pytest.mark.parametrize("shift", [0, 1])
def test_maps_that_count_from_0_are_pointed_out(tmp_path, shift):
    root = write_ade_layout(tmp_path / "scenes")
    for path in root.glob("annotations/*/*.png"):
        labels = np.array(Image.open(path))
        path.write_bytes(png_of(np.where(labels == 0, 255, labels - shift).astype(np.uint8)))
    said = []
    task = small_task(root, tmp_path / "out", said, iterations=1, random_baseline=False, pictures=0)
    task.run(task.prepare())
    assert any("no map has the label 4, that of crab, and 0 is void" in line for line in said) == bool(shift)
