import json
import math

import pytest
from written_records import append_record

from sar_dist.observe.records import read_metrics, read_records, truncate_records


def write_steps(path, steps, prefix="train"):
    for step in steps:
        append_record(path, step, prefix, 12.3456789, {"loss": 1 / (step + 1)})


def test_a_record_is_one_line_of_json(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    append_record(path, 3, "val", 12.3456789, {"top1": 0.5, "images": 500})
    assert path.read_text() == '{"step": 3, "prefix": "val", "time": 12.346, "top1": 0.5, "images": 500.0}\n'


def test_numbers_that_json_lacks_are_strings_that_float_reads(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_record(path, 1, "train", 0.0, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert math.isnan(float(record["a"]))
    assert float(record["b"]) == math.inf
    assert float(record["c"]) == -math.inf


@pytest.mark.parametrize("name", ["step", "prefix", "time"])
def test_a_metric_cannot_hide_a_key_of_the_record(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        append_record(tmp_path / "metrics.jsonl", 1, "train", 0.0, {name: 1.0})
    assert list(read_records(tmp_path / "metrics.jsonl")) == []


def test_metrics_are_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_record(path, 1, "train", 0.0, {"loss": float("nan")})
    values = ('"loss": null', '"loss": "x"', '"loss": [1]', '"loss": true', '"prefix": 5')
    lines = [f'{{"step": 2, "prefix": "train", {value}}}' for value in values]
    with path.open("a") as file:
        file.write("\n".join([*lines, '{"step": 3}', "[" * 100_000, ""]))
    assert [record["step"] for record in read_metrics(path)] == [1]
    assert [record["step"] for record in read_records(path)] == [1, 2, 2, 2, 2, 2, 3]


def test_truncation_drops_later_steps_and_only_those(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [10, 20, 30, 40])
    write_steps(path, [20, 40], prefix="val")
    before = path.read_bytes().splitlines()
    assert truncate_records(path, 20) == 3
    assert path.read_bytes().splitlines() == [before[0], before[1], before[4]]
    assert truncate_records(path, 20) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_truncation_of_a_missing_file(tmp_path):
    assert truncate_records(tmp_path / "metrics.jsonl", 5) == 0


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "pre', b'{"step": 3, "prefix": "train"}', b"[1]\n", b"\xff\xfe\n", b'{"a": 1}\n']
)
def test_a_line_torn_by_a_kill_goes_at_the_next_resume(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert truncate_records(path, 100) == 1
    assert path.read_bytes() == whole
    assert [record["step"] for record in read_records(path)] == [1, 2]
