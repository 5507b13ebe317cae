"""What the names of shards and Parquet files tell: splits in words that are not whole, doubled and missing parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sar_dist.data.layout import check_parts, refuse_doubled_parts, splits_by_name
from sar_dist.data.making.sources.parquet_reading import refuse_copies
from sar_dist.errors import UserError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mytrain0.tar", "myval0.tar"),
        ("x_tr_0.tar", "x_va_0.tar"),
        ("trains-0.tar", "vals-0.tar"),
        ("imagenettrain.parquet", "imagenetval.parquet"),
        ("fit.parquet", "eval.parquet"),
        ("trn.parquet", "dev.parquet"),
        ("mytrain/0.parquet", "mytest/0.parquet"),
    ],
)
def test_files_that_are_called_by_parts_of_split_words_are_refused(one: str, other: str) -> None:
    with pytest.raises(UserError, match=r"seem to be the splits .*--split"):
        splits_by_name([one, other], "set")


def test_a_kind_of_files_can_be_chosen_as_a_split() -> None:
    found = splits_by_name(["mytrain0.tar", "myval0.tar"], "set", "myval")
    assert found == {"myval": ["myval0.tar"], "train": ["mytrain0.tar"]}
    with pytest.raises(UserError, match=r"more\.tar, mytrain0\.tar in set name no split"):
        splits_by_name(["mytrain0.tar", "myval0.tar", "more.tar"], "set", "myval")


@pytest.mark.parametrize(
    "names", [["a-0.tar", "b-0.tar"], ["coral.tar", "oral.tar"], ["strain0.tar", "vale0.tar"], ["developed.tar"]]
)
def test_other_names_are_of_one_split(names: list[str]) -> None:
    assert splits_by_name(names, "set") == {}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["coyo-0.tar", "coyo-1.tar", "laion-0.tar"], "files of 2 kinds are read as one set: coyo, laion"),
        (["train-0.parquet", "train-2.parquet"], "1 of the files train-0.parquet to train-2.parquet are not there"),
        (["d/t-000001.tar", "d/t-000002.tar", "d/t-000004.tar"], "such as d/t-000003.tar"),
        (["part-00000-8ab1-c000.parquet", "part-00002-8ab1-c000.parquet"], "such as part-00001-8ab1-c000.parquet"),
        (["train-0.tar", "train-1.tar"], ""),
        (["train-2012.tar", "train-2014.tar"], ""),  # years
        (["train-0.tar", "train-50.tar", "train-100.tar"], ""),
        ([f"{letter}.tar" for letter in "abcdefghij"], ""),
    ],
)
def test_kinds_and_gaps_are_said(names: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_parts(names, "set")
    printed = capsys.readouterr().err
    assert said in printed if said else not printed


@pytest.mark.parametrize("copy", ["-a1b2c3", " (1)", " - Copy", "_copy"])
def test_a_part_that_is_there_twice_is_refused(copy: str) -> None:
    with pytest.raises(UserError, match="part 00000 of 00001 twice"):
        refuse_doubled_parts(["data/train-00000-of-00001.parquet", f"data/train-00000-of-00001{copy}.parquet"], "set")


@pytest.mark.parametrize("copy", [" (1)", "(2)", " - Copy", " - Copy (2)", "_copy", "-copy2"])
def test_a_file_called_as_a_copy_of_another_is_refused(copy: str) -> None:
    with pytest.raises(UserError, match=r"holds a/train-0\.tar and a/train-0.*\.tar, whose images would be read twice"):
        refuse_doubled_parts([f"a/train-0{copy}.tar", "a/train-0.tar"], "set")
    refuse_doubled_parts([f"a/train-0{copy}.tar", "b/train-0.tar", f"a/train-1{copy}.tar"], "set")


def test_parts_of_several_kinds_are_not_the_same() -> None:
    refuse_doubled_parts(["00000-of-00001-en.parquet", "00000-of-00001-facade.parquet"], "set")
    refuse_doubled_parts(["train-00000-of-00002-a1b2c3.parquet", "train-00001-of-00002-d4e5f6.parquet"], "set")


def test_equal_files_are_refused(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    files = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.parquet", "d.parquet", "e.parquet")]
    for file, numbers in zip(files, ([1], [2], [1], [], []), strict=True):
        pq.write_table(pa.table({"number": pa.array(numbers, pa.int64())}), file)
    refuse_copies(files[:2])
    refuse_copies(files[3:])  # without rows, as some programs write them
    with pytest.raises(UserError, match=r"a\.parquet and .*c\.parquet are the same"):
        refuse_copies(files)
