"""Where a run comes from and what went wrong in it, as the report says it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report_runs import write_run
from result_factory import some_result
from written_records import append_record

from sar_dist.reports import load_runs, report_page
from sar_dist.reports.incidents import incidents_table
from sar_dist.reports.provenance import commands, environment_table, settings_table
from sar_dist.reports.runs import ReportedRun
from sar_dist.transfer.result import write_result

START = {"world_size": 4, "device": "X", "git_commit": "0123", "git_changes": True, "packages": {"torch": "2.9"}}


@pytest.fixture
def runs(tmp_path: Path) -> list[ReportedRun]:
    """The first run was started twice, skipped steps and lost images; the second one is from before that was recorded."""
    folders = [write_run(tmp_path, "reg", 0.01), write_run(tmp_path, "base <", 0.0)]
    starts = [
        {**START, "started": f"2026-01-0{day}", "command": ["tools/train.py", "--local_rank=0", "--config", "a b.py"]}
        for day in (1, 2)
    ]
    (folders[0] / "environment.json").write_text(json.dumps(starts))
    (folders[1] / "environment.json").unlink()
    append_record(
        folders[0] / "metrics.jsonl", 40, "train", 0.0, {"epoch": 4.0, "skipped_steps": 3.0, "bad_images": 14.0}
    )
    append_record(folders[0] / "metrics.jsonl", 40, "val", 0.0, {"top1": 60.0, "bad_images": 2.0})
    lines = [json.dumps({"step": 1, "key": f"image{number}"}) for number in (0, 0, *range(12))]
    (folders[0] / "bad_images.jsonl").write_text("\n".join(lines))
    (folders[0] / "transfer" / "knn").mkdir(parents=True)
    environment = {"command": ["tools/transfer_eval.py", "--task", "knn"]}
    write_result(some_result(environment=environment), folders[0] / "transfer" / "knn")
    return load_runs(folders)


def test_incidents(runs: list[ReportedRun]) -> None:
    table = {row[0]: row[1:] for row in incidents_table(runs).rows}
    names = ", ".join(f"image{number}" for number in range(10))
    assert table["starts"] == ["2: 2026-01-01, 2026-01-02", "not recorded"]
    assert table["skipped steps"] == ["3", "not recorded"]
    assert table["replaced images"] == [f"14: {names} and 2 further ones", "not recorded"]
    assert table["unreadable validation images"] == ["2", "not recorded"]


def test_what_differs_is_marked(runs: list[ReportedRun]) -> None:
    settings = settings_table(runs)
    assert [settings.rows[number] for number in settings.differing] == [["regularizer.weight", "0.01", "0.0"]]
    environment = environment_table(runs)
    assert environment is not None
    rows = {row[0]: (row[1:], number in environment.differing) for number, row in enumerate(environment.rows)}
    assert rows["commit"] == (["0123 with local changes", "–"], True)
    assert rows["torch"] == (["2.9", "–"], True)
    assert rows["started"] == (["2026-01-02", "–"], False)  # which no two runs share
    page = report_page(runs, b"")
    assert '<tr class="differs"><th scope="row">regularizer.weight ≠</th>' in page
    assert environment_table(runs[1:]) is None


def test_the_commands_can_be_pasted(runs: list[ReportedRun]) -> None:
    training = "deepspeed --num_accelerators 4 tools/train.py --config 'a b.py'"
    assert commands(runs) == [("reg", [training, "python tools/transfer_eval.py --task knn"])]
    assert commands(runs[1:]) == []


def test_the_contents_lead_to_every_section(runs: list[ReportedRun]) -> None:

    page = report_page(runs, b"")
    links = re.findall(r'<li><a href="#(.*?)">', page)
    assert links == re.findall(r'<section[^>]* id="(.*?)"', page)
    assert {"final-figures", "curves", "incidents", "all-settings", "commands"} <= set(links)
