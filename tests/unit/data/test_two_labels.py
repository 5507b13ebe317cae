"""The same image under two labels, in shards that somebody else made: said before training and by `verify`, by the index alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shard_factory import image_of, tar_bytes

from sar_dist.data import TrainingSet, load_manifest
from sar_dist.data.making.verify import verify_folder
from sar_dist.data.shards import Manifest, two_labels
from sar_dist.errors import UserError
from sar_dist.training.checks import warn_of_two_labels


def shards(folder: Path, *samples: tuple[int, int | None]) -> Manifest:
    """Two tars with (image, label) each, keys by their place."""
    folder.mkdir()
    for half in range(2):
        members = []
        for place, (image, label) in enumerate(samples[half::2]):
            members.append((f"{half}{place}.png", image_of(image)))
            members += [] if label is None else [(f"{half}{place}.cls", b"%d" % label)]
        (folder / f"train-{half}.tar").write_bytes(tar_bytes(members))
    return load_manifest(folder, "train")


def test_training_and_verify_say_images_under_two_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [(1, 0), (2, 1), (1, 3), (1, 2), (2, 1), (3, None), (3, None), (3, 4), (5, 5), (5, 0)]
    manifest = shards(tmp_path / "a", *samples)
    warn_of_two_labels([TrainingSet(manifest)])
    said = capsys.readouterr().err
    assert "data.train: 2 images are there under two labels, such as " in said
    assert said.count("(label ") == 2
    with pytest.raises(UserError, match="2 problems"):  # the samples without a label
        verify_folder(tmp_path / "a")
    assert "a: 2 images are there under two labels" in capsys.readouterr().err
    (tmp_path / "a" / "train-1.tar").write_bytes(b"")
    warn_of_two_labels([TrainingSet(manifest)])  # what is wrong with a shard is said where all of it is read
    assert "two labels" not in capsys.readouterr().err


def test_labels_of_several_sets_are_compared_by_what_they_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = shards(tmp_path / "a", (1, 0), (2, 1), (3, 2)), shards(tmp_path / "b", (1, 1), (2, 0), (3, 5))
    warn_of_two_labels([TrainingSet(one), TrainingSet(other, classes=(1, 0))])
    assert capsys.readouterr().err == ""
    warn_of_two_labels([TrainingSet(one), TrainingSet(other, classes=(1, 2))])
    said = capsys.readouterr().err
    assert "1 image is there" in said
    assert f"00 (label 0) in {tmp_path}/a/train-0.tar and 00 (label 1) in {tmp_path}/b/train-0.tar" in said


def test_images_alike_by_the_index_alone_are_no_contradiction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = shards(tmp_path / "a", (1, 0), (2, 1), (3, 2))
    monkeypatch.setattr(two_labels, "image_keys", lambda records: np.zeros(len(records), np.uint64))
    warn_of_two_labels([TrainingSet(manifest)])
    assert capsys.readouterr().err == ""
