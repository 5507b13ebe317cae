"""``data.train`` with several sets, from what is typed to what is checked: one clear line for each thing that is wrong."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support import jpeg, write_tar

from sar_dist.config import DataSettings, RunConfig, load_config, locate_all_data, locate_data
from sar_dist.data import Manifest, TrainingSet, check_shards, load_manifest, match_classes, warn_of_validation_labels
from sar_dist.data.shards import ShardEntry, check_stage, check_stage_room, shared_images
from sar_dist.data.shards.checks import find_manifest
from sar_dist.errors import UserError
from sar_dist.observe import quantities_in
from sar_dist.training import checks
from sar_dist.training.checks import (
    check_run,
    check_same_classes,
    check_training_data,
    warn_of_shared_shards,
)
from sar_dist.training.images_by_set import describe_sets


def shards(folder: Path, classes: list[str] | None = None, labels: int = 4, extension: str = "cls") -> Path:
    """Eight images whose labels go round, with the names of the classes."""
    members: dict[str, bytes] = {}
    for number in range(8):
        members |= {f"{number:06d}.jpg": jpeg(number), f"{number:06d}.{extension}": b"%d" % (number % labels)}
    write_tar(folder / "train-0000.tar", members)
    if classes is not None:
        (folder / "classes.json").write_text(json.dumps(classes))
    return folder


def with_sets(config: Path, *entries: str) -> RunConfig:
    return load_config(config, [f"data.train=[{', '.join(f'{{{entry}}}' for entry in entries)}]"])


def test_sets_are_found_checked_and_described(small_config: Path, tmp_path: Path) -> None:
    one = shards(tmp_path / "one", ["cat", "dog", "owl", "yak"])
    other = shards(tmp_path / "other", ["yak", "hound"], labels=2, extension="y")
    config = with_sets(
        small_config,
        f"shards: {one}, weight: 0.75",
        f"shards: {other}, weight: 2.5e-1, label: y, classes: {{hound: dog}}",
    )
    first, second = check_training_data(config)
    assert (first.name, first.weight, first.classes) == ("one", Fraction(3, 4), None)
    assert (second.name, second.weight, second.classes) == ("other", Fraction(1, 4), (3, 1))
    assert describe_sets([first, second], 64) == [
        "training set one: 75.00% of the images, 8 samples, 6.00 passes an epoch of 64",
        "training set other: 25.00% of the images, 8 samples, 2.00 passes an epoch of 64; its 2 classes matched by name",
    ]
    assert describe_sets([first], 64) == []
    check_same_classes(first.manifest, first.manifest)


def test_classes_called_like_unnamed_places_and_numbers_that_may_be_names(tmp_path: Path) -> None:
    def manifest(root: str, *classes: str) -> Manifest:
        return Manifest(root, "train", classes or None, ())

    one, other = manifest("one", "class 0", "class 1"), manifest("other", "class 0", "class 1", "dog")
    assert match_classes("key", other, one, {}) == (0, 1)
    assert match_classes("key", manifest("more", "class 0", "class 1", "ape", "dog"), other, {}) == (0, 1, 3)
    with pytest.raises(UserError, match="'class 0'"):
        match_classes("key", manifest("pets", "cat", "dog"), one, {})
    with pytest.raises(UserError, match=r"one calls the class with label 1 '2', and other names no classes"):
        check_same_classes(manifest("one", "0", "2", "5"), manifest("other"))
    with pytest.raises(UserError, match="not clear whether a label 2 there"):
        match_classes("key", manifest("other"), manifest("one", "0", "2", "5"), {})


def test_a_set_that_does_not_name_its_classes_is_said(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = shards(tmp_path / "one", ["cat", "dog", "owl", "yak"]), shards(tmp_path / "other")
    sets = check_training_data(with_sets(small_config, f"shards: {one}, weight: 3", f"shards: {other}, weight: 1"))
    assert [each.classes for each in sets] == [None, None]
    assert "data.train: other does not name its classes, so that its labels are taken for" in capsys.readouterr().err


def test_sets_behind_one_without_names_are_matched_with_each_other(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first that names its classes says what labels mean; copies of a set are said."""
    names = ["cat", "dog", "owl", "yak"]
    places = [shards(tmp_path / "one"), shards(tmp_path / "two", names), shards(tmp_path / "three", names[::-1])]
    sets = check_training_data(with_sets(small_config, *(f"shards: {place}, weight: 1" for place in places)))
    assert [each.classes for each in sets] == [None, None, (3, 2, 1, 0)]
    assert "1 of the 1 shards of" in (said := capsys.readouterr().err)
    assert "three hold the same samples as shards of" in said


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("shards: A, weight: 3", "shards: B, weight: 0"), "data.train.1.weight=0: Input should be greater than 0"),
        (("shards: A, weight: -3",), "data.train.0.weight=-3: Input should be greater than 0"),
        (("shards: A, weight: nan",), "data.train.0.weight='nan': Input should be a finite number"),
        (("shards: A, weight: lots",), "data.train.0.weight='lots': Input should be a valid number"),
        (("shards: A, weight: true",), "data.train.0.weight=True: should be a number"),
        (("shards: A",), "several sets are written [{shards: A, weight: 1}]"),
        (("shards: A, weight: 1, classes: {a: b}",), "gives the first set other class names, but they are the run's"),
        ((), "data.train=[]: names no data set; write [{shards: A, weight: 3}, {shards: B, weight: 1}]"),
        (("shards: A, weight: 3", "shards: nowhere, weight: 1"), "data.train.1: there is no nowhere or"),
        (("shards: A, weight: 3", "shards: A/, weight: 1"), "A, which is in data.train already; give it once"),
        (("shards: A, weight: 3", "shards: LINK, weight: 1"), "LINK, which is in data.train already; give it once"),
        (("shards: A, weight: 3", "shards: B, weight: 1"), "2 of the 4 classes of B are not among the 4 of A, the first"),
        (("shards: A, weight: 3", "shards: C, weight: 1"), "without a label in 0..1 (model.num_classes=2); the first is sample "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shards(Path("A"), ["cat", "dog", "owl", "yak"])
    shards(Path("B"), ["emu", "dog", "fox", "yak"])
    shards(Path("C"), ["dog", "yak"])  # with labels that are none of its classes
    Path("LINK").symlink_to("A")
    with pytest.raises(UserError) as error:
        check_training_data(with_sets(small_config, *entries))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (
            "[{shards: A}, {shards: B, label: json.y}]",
            "[{shards: A, weight: 1}, {shards: B, weight: 1, label: json.y}]",
        ),
        ("[{shards: A, weight: 3}, {shards: B}]", "[{shards: A, weight: 3}, {shards: B, weight: 1}]"),
        ("[A, s3://b/c]", "[{shards: A, weight: 1}, {shards: s3://b/c, weight: 1}]"),
        ('["two words", A]', '[{shards: "two words", weight: 1}, {shards: A, weight: 1}]'),
        ("[{shards: [A, B], weight: 2}]", "[{shards: A, weight: 2}, {shards: B, weight: 2}]"),
        ("[{shard: A, weight: 1}]", "{shard: A, weight: 1} names no shards; a set is {shards: A, weight: 1}"),
        ("[[A, B]]", "[{shards: A, weight: 1}, {shards: B, weight: 1}]"),
        ("[A, 3]", "[{shards: A, weight: 1}, {shards: 3, weight: 1}]"),
        ("[{A: 3, B: 1}]", "[{shards: A, weight: 3}, {shards: B, weight: 1}]"),
        ("{shards: A, weight: 1}", "are written as a list: [{shards: A, weight: 1}]"),
    ],
)
def test_the_right_form_is_said_with_what_was_given(small_config: Path, given: str, written: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(small_config, [f"data.train={given}"])
    assert written in str(error.value)
    assert str(error.value).startswith("data.train")


def test_forms_of_a_configuration_file_and_of_validation() -> None:
    for value, written in (
        ({"A": 3, "B": 1}, "weight: 3}, {shards: B"),
        ([1, [2]], "[{shards: 1, weight: 1}, {shards: 2,"),
    ):
        with pytest.raises(ValidationError, match=re.escape(written)):
            DataSettings(train=value)  # type: ignore[arg-type]
    for val in ("[{shards: A}]", ["A"], {"shards": "A"}):
        with pytest.raises(ValidationError, match="validation is one set"):
            DataSettings(val=val)  # type: ignore[arg-type]


def test_several_validation_sets_are_refused() -> None:
    with pytest.raises(UserError, match="validation is one set, so give its folder or URL alone"):
        locate_data("data.val", "[A, B]")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/data/in1k/train-{000000..000001}.tar", "is a pattern, .* data.train=/data/in1k: all in it"),
        ("in1k/*.tar", "data.train=in1k: all in it"),
        ("https://host/in1k/train-{00..10}.tar", "data.train=https://host/in1k: all in it"),
        ("/a/{0..9}.tar::/b/{0..9}.tar", r"data.train=\[{shards: /a, weight: 1}, {shards: /b, weight: 1}\]"),
        (
            "pipe:curl https://host/a.tar",
            r"is a command, as WebDataset runs it; give the folder of the shards, or its URL",
        ),
        ("/nowhere", "there is no /nowhere; make shards"),
    ],
)
def test_patterns_of_shards_are_told_what_to_give(small_config: Path, path: str, advice: str) -> None:
    config = load_config(small_config).model_copy(update={"data": DataSettings(train=path)})
    with pytest.raises(UserError, match=advice):
        locate_all_data(config)


def test_folders_and_urls_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a{1,2}*").mkdir()
    for path in (str(tmp_path / "a{1,2}*"), "https://host/in1k?version=2", "s3://bucket/in1k"):
        assert locate_data("data.train", path) == path


def test_paths_with_a_comma_between_are_several_sets(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "AB":
        Path(name).mkdir()
    with pytest.raises(UserError, match=re.escape("data.train=[{shards: A, weight: 1}, {shards: B, weight: 1}]")):
        check_training_data(load_config(small_config, ["data.train=A,B"]))


def test_bad_samples_are_counted_by_cause_and_a_command_names_them(small_config: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.cls": b"0", "b.jpg": jpeg(1), "b.cls": b"99"})
    with pytest.raises(UserError) as error:
        check_training_data(load_config(small_config, [f"data.train={tmp_path}"]))
    assert "2 of the 2 train samples" in str(error.value)
    assert "are bad, 1 without an image and 1 without a label in 0..3 (model.num_classes=4); the first" in str(
        error.value
    )
    assert f"`make_shards.py verify {tmp_path}` names every one" in str(error.value)


def test_labels_from_one_are_refused_however_few_are_beyond_the_classes(small_config: Path, tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number, label in enumerate((1, 2, 3, 4)):
        members |= {f"{number}.jpg": jpeg(number), f"{number}.cls": b"%d" % label}
    write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(
        UserError, match="begin at 1: none is 0, and some are 4, of 4 classes; number the classes from 0"
    ):
        check_training_data(load_config(small_config, [f"data.train={tmp_path}", "data.max_bad_fraction=1"]))


def test_labels_that_are_nowhere_are_said_with_where_they_may_be(small_config: Path, tmp_path: Path) -> None:
    shards(tmp_path / "A", extension="y")
    with pytest.raises(
        UserError, match=r"none of the 8 train samples in .* has a label in cls; data\.label says where"
    ):
        check_training_data(load_config(small_config, [f"data.train={tmp_path / 'A'}"]))


def test_validation_labels_that_mean_other_classes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def labelled(name: str, labels: list[int]) -> Manifest:
        members = [(f"{place}.jpg", jpeg(place)) for place in range(len(labels))]
        members += [(f"{place}.cls", b"%d" % label) for place, label in enumerate(labels)]
        write_tar(tmp_path / name / f"{name.partition('-')[0]}-0.tar", dict(members))
        return load_manifest(tmp_path / name, "train" if name.startswith("train") else "val")

    train = (TrainingSet(labelled("train-a", [0, 1, 2, 3])),)
    for number, (labels, said) in enumerate(
        (
            ([0, 1, 2, 3], ""),
            ([2, 2], ""),
            (
                [1, 2, 3, 4],
                "1 labels are those of no training image, such as 4: labels are 1 to 4, and those of data.train 0 to",
            ),
            ([1, 2, 3], "labels are 1 to 3, and those of data.train 0 to 3; make sure that classes"),
        )
    ):
        warn_of_validation_labels(train, labelled(f"val-{number}", labels))
        printed = capsys.readouterr().err
        assert said in printed
        assert bool(said) == bool(printed)
    with pytest.raises(
        UserError, match=r"val samples in .* begin at 1: .* some are 4, of 4 classes; number the classes from 0"
    ):
        check_shards(labelled("val-last", [1, 2, 3, 4]), num_classes=4)
    capsys.readouterr()
    other = TrainingSet(labelled("train-b", [0]), classes=(4,))
    warn_of_validation_labels((*train, other), labelled("val-all", [0, 4]))
    assert capsys.readouterr().err == ""


def test_training_on_what_is_validation_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards(tmp_path / "A")
    (tmp_path / "A" / "train-0000.tar").rename(tmp_path / "A" / "0000.tar")  # tells no split
    train, val = (load_manifest(tmp_path / "A", split) for split in ("train", "val"))
    warn_of_shared_shards(train, val)
    assert "data.val: 1 of the 1 shards hold the same samples as shards of" in capsys.readouterr().err
    write_tar(tmp_path / "B" / "val-0.tar", {"a.jpg": jpeg(99), "a.cls": b"0"})
    warn_of_shared_shards(train, load_manifest(tmp_path / "B", "val"))
    assert capsys.readouterr().err == ""
    content = {"format": "sar_dist-shards-1", "split": "val", "classes": None, "total": 0, "shards": []}
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "manifest.json").write_text(json.dumps(content))
    for split, expected in (("val", ""), ("train", "were made as a validation split, and are taken for training")):
        find_manifest(tmp_path / "C", split)
        assert expected in capsys.readouterr().err


def test_a_model_of_more_classes_than_there_are_is_said(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards(tmp_path / "A", ["cat", "dog"], labels=2)
    check_training_data(load_config(small_config, [f"data.train={tmp_path / 'A'}"]))
    assert "data.train has 2 classes and the model 4; unless the others are meant" in capsys.readouterr().err
    check_training_data(load_config(small_config, [f"data.train={tmp_path / 'A'}", "model.num_classes=2"]))
    assert capsys.readouterr().err == ""


def test_a_model_of_fewer_classes_than_there_are_is_told_their_number(small_config: Path, tmp_path: Path) -> None:
    shards(tmp_path / "A", ["cat", "dog", "hen", "ant"])
    with pytest.raises(UserError, match=r"has 4 classes, the model 2; set model\.num_classes=4"):
        check_training_data(load_config(small_config, [f"data.train={tmp_path / 'A'}", "model.num_classes=2"]))


@pytest.mark.parametrize("key", ["run.dir", "data.stage"])
def test_places_that_are_written_are_looked_at_before_anything_is_computed(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(checks, "model_on_meta", lambda *_: pytest.fail("the model was built first"))
    config = load_config(small_config, [f"{key}={tmp_path}/file/x", "data.val=https://127.0.0.1:9/nowhere"])
    with pytest.raises(UserError, match=rf"^{key}=.*/file/x: nothing can be written there \(.*file is not a folder"):
        check_run(config, torch.device("cpu"), 1)


def test_a_stage_for_local_shards_is_not_looked_at(small_config: Path) -> None:
    check_stage(load_config(small_config, ["data.stage=/proc/nowhere"]).data)


def test_room_for_remote_shards_is_asked_for(tmp_path: Path) -> None:
    """As far as they are kept, and without what is staged already; local shards take none."""
    entries = tuple(ShardEntry(f"{name}.tar", 1, 10**17) for name in "ab")
    remote, local = (Manifest(root, "train", None, entries) for root in ("https://host/a", "/data/a"))
    data = DataSettings(stage=f"{tmp_path}/stage", stage_gigabytes=1e9)
    with pytest.raises(UserError, match=r"remote shards take 200000000\.00 GB; lower data\.stage_gigabytes, or set"):
        check_stage_room(data, [remote, local])
    check_stage_room(data.model_copy(update={"stage_gigabytes": 1e-6}), [remote])
    check_stage_room(data, [local])


def test_text_stays_a_path(small_config: Path) -> None:
    for text in ("123", "true", "{a: b}", "s3://bucket/a", "a, b"):
        assert load_config(small_config, [f"data.train={text}"]).data.train == text
    assert load_config(small_config, ["data.train=none"]).data.training_sets == ()
    assert [each.shards for each in load_config(small_config, ["data.train=a"]).data.training_sets] == ["a"]


def test_reports_know_the_sets_of_a_log() -> None:
    records = [{"step": 1, "prefix": "data", "time": 0.0, "images_of_a": 3.0, "images_of_b": 1.0}]
    found = [quantity.summed_up for quantity in quantities_in(records) if quantity.prefix == "data"]
    assert found == [{"training images of a": "last"}, {"training images of b": "last"}]


def test_images_that_two_sets_share_are_said_however_they_are_packed(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, numbers in {"one/train": range(8), "two/train": range(12, 5, -1), "val/val": (20, 7, 21)}.items():
        members = {f"{name[:3]}{number}.jpg": jpeg(number) for number in numbers}
        members |= {f"{name[:3]}{number}.cls": b"0" for number in numbers} | (
            {"none.cls": b"0"} if name == "val/val" else {}
        )
        write_tar(tmp_path / f"{name}-0.tar", members)
    places = [f"shards: {tmp_path / name}, weight: 1" for name in ("one", "two")]
    sets = check_training_data(with_sets(small_config, *places))
    said = f"data.train: 2 of the 7 images of {tmp_path / 'two'} are in {tmp_path / 'one'} too"
    assert said in capsys.readouterr().err
    val = load_manifest(tmp_path / "val", "val")
    warn_of_shared_shards(sets[0].manifest, val)
    assert f"data.val: 1 of the 3 images are in {tmp_path / 'one'} too" in capsys.readouterr().err
    assert shared_images(val, sets[1].manifest) == (3, 1)
    (tmp_path / "two" / "train-0.tar").rename(tmp_path / "gone.tar")
    assert shared_images(val, sets[1].manifest) == (0, 0), "what is wrong with shards is said elsewhere"


def test_all_images_are_looked_for_and_those_of_equal_checksums_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one shared image of 300 is found; images that are alike by the index alone are not."""
    image = jpeg(0)
    for name, letters in (("train", range(300)), ("val", range(300, 600))):
        members = {f"{name}{n}.jpg": image + n.to_bytes(2, "big") for n in letters}
        write_tar(
            tmp_path / name / f"{name}-0.tar", members | ({f"{name}x.jpg": image + b"\0\7"} if name == "val" else {})
        )
    sets = [load_manifest(tmp_path / name, name) for name in ("val", "train")]
    assert shared_images(*sets) == (301, 1)
    assert shared_images(sets[1], sets[0]) == (300, 1)
    module = sys.modules["sar_dist.data.shards.shared_images"]  # the package has a function of this name
    monkeypatch.setattr(module, "image_keys", lambda records: records["image_size"].astype(np.uint64))
    monkeypatch.setattr(module, "_MOST_ALIKE", 301)
    monkeypatch.setattr(module, "_COMPARED", 301)
    assert shared_images(*sets) == (301, 1)
