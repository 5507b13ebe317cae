"""Samples whose random numbers are drawn before any of them is decoded become the same images."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from sar_dist.config import AugmentSettings
from sar_dist.data.batching import TrainDecoding
from sar_dist.data.images import (
    BadSample,
    CroppedImage,
    SampleDecoder,
    augment,
    build_operation_draw,
    build_train_transform,
)

LIMIT = 10**6
ALL = AugmentSettings(rand_augment="rand-m9-mstd0.5-inc1", color_jitter=0.3)


def file_of(mode: str, kind: str, size: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(buffer, kind)
    return buffer.getvalue()


FILES = [
    file_of("RGB", "JPEG", (90, 61)),
    file_of("L", "JPEG", (64, 200)),
    file_of("CMYK", "JPEG", (50, 50)),
    file_of("RGBA", "PNG", (80, 40)),  # no header of a JPEG: nothing can be drawn before
    file_of("RGB", "JPEG", (1, 300)),
]


def sample_of(number: int, data: bytes | None, **others: object) -> dict:
    keys = {"__key__": str(number), "__url__": "tar", "jpg": data, "cls": 0, "sample": number, "damage": None}
    return {**keys, "epoch": 3, "batch": 0, "substitutes": iter(()), **others}


def decoder_of(where: str) -> SampleDecoder:
    settings = ALL.model_copy(update={"where": where})
    later = build_operation_draw(settings, 32) if where == "device" else None
    return SampleDecoder(build_train_transform(settings, 32, LIMIT), 1, seed=5, draw=later)


def finished(image: object) -> torch.Tensor:
    """The image with what was put off done to it."""
    if isinstance(image, CroppedImage):
        return image.finished()
    assert isinstance(image, torch.Tensor)
    return image


@pytest.mark.parametrize("where", ["worker", "device"])
def test_drawing_ahead_changes_nothing(where: str) -> None:
    decoder = decoder_of(where)
    samples = [sample_of(number, data) for number, data in enumerate(FILES)]
    ahead = [decoder.draw_ahead(sample) for sample in samples]
    assert [drawn is None for drawn in ahead] == [False, False, False, True, False]
    for sample, drawn in zip(samples, ahead, strict=True):
        image, later = decoder.decode_and_draw(sample, drawn)
        expected, expected_later = decoder.decode_and_draw(sample)
        assert isinstance(image, CroppedImage) == (drawn is not None)
        assert torch.equal(finished(image), expected)
        assert later == expected_later
        assert (later != []) <= (where == "device")


def test_drawing_ahead_in_this_process_leaves_its_random_numbers_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    assert decoder_of("worker").draw_ahead(sample_of(0, FILES[0])) is not None
    assert random.random() == expected


def test_header_that_lies_about_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, sample = decoder_of("device"), sample_of(0, FILES[0])
    image, later = decoder.decode_and_draw(sample)
    for claimed in ((61, 91), (6, 9), (0, 90)):
        with monkeypatch.context() as patched:
            patched.setattr(augment, "jpeg_size", lambda _data, claimed=claimed: claimed)
            ahead = decoder.draw_ahead(sample)
        assert (ahead is None) == (0 in claimed)
        again, later_again = decoder.decode_and_draw(sample, ahead)
        assert torch.equal(finished(again), image)
        assert later_again == later


def test_bad_samples_and_their_substitutes_among_those_drawn_for_together() -> None:
    decoder = decoder_of("device")
    cut = FILES[0][: len(FILES[0]) // 2]
    bad = [
        sample_of(0, cut),
        sample_of(1, None),
        sample_of(2, FILES[0], cls=7),
        sample_of(3, FILES[0], damage="altered"),
    ]
    for number, sample in enumerate(bad):
        sample["substitutes"] = iter([sample_of(9, cut), sample_of(10 + number, FILES[1])])
    group = [bad[0], sample_of(4, FILES[0]), *bad[1:]]
    found = list(TrainDecoding(lambda _: decoder, len(group))(group))
    assert [sample["sample"] for sample in found] == [10, 4, 11, 12, 13]
    assert [len(sample["bad"]) for sample in found] == [2, 0, 2, 2, 2]
    for sample in found:
        expected, drawn = decoder.decode_and_draw(sample)
        assert torch.equal(finished(sample["image"]), expected)
        assert sample["drawn"] == drawn
    with pytest.raises(BadSample, match="tar/0: "):
        decoder.decode_and_draw(bad[0], decoder.draw_ahead(bad[0]))


def test_no_sample_is_taken_that_is_not_of_the_last_micro_batch() -> None:
    """Behind its last sample a source closes the files from which substitutes would be read."""
    decoder, ended = decoder_of("worker"), []

    def samples(count: int):
        for number in range(count):
            yield sample_of(number, FILES[0])
        ended.append(True)

    decoded = TrainDecoding(lambda _: decoder, 20)(samples(40))
    for _ in range(40):
        next(decoded)
    assert not ended
    assert next(decoded, None) is None
