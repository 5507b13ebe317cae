"""tools/gpu_check.py: parts fail, hang and crash, and the others are done all the same; everything is written down."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import tool

from benchmarks.gpu_check import PARTS, Part, Report, Workplace, run_parts, write_reports
from benchmarks.gpu_check.killed_run import newest_checkpoint, read_losses
from benchmarks.gpu_check.processes import Finished, Started
from benchmarks.gpu_check.report import Grid
from benchmarks.gpu_check.run import CannotGoOn
from benchmarks.gpu_check.trainings import Group, train_groups
from sar_dist.processes import identify

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_program_that_hangs_is_ended_with_its_children_and_says_where(tmp_path: Path) -> None:
    started = Started([sys.executable, "-c", HANGS], tmp_path / "log", tmp_path, {})
    while not (tmp_path / "log").read_text().strip():
        time.sleep(0.05)
    done = started.wait(0.2)
    assert done.timed_out
    assert not done.succeeded
    assert "its time limit" in done.problem()
    assert 'File "<string>", line 5' in done.text()  # the stack of the thread that slept
    child = identify(int(done.text().split()[0]))
    deadline = time.monotonic() + 10
    while child is not None and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child is None or not child.is_alive()


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    done = Started([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path / "log", tmp_path, {}).wait(60)
    assert (done.status, done.timed_out) == (1, False)
    assert done.problem() == f"exit status 1; no luck; all of it in {tmp_path / 'log'}"


def test_parts_go_on_and_share_the_time(tmp_path: Path) -> None:
    limits: dict[str, float] = {}

    def note(place: Workplace, report: Report) -> None:
        limits[report.name] = place.remaining()
        report.summary = "done"

    def lacks(place: Workplace, report: Report) -> None:
        raise CannotGoOn("no data")

    def is_faulty(place: Workplace, report: Report) -> None:
        raise KeyError("oops")

    parts = [
        Part("first", "", 1, note),
        Part("lacks", "", 1, lacks),
        Part("faulty", "", 1, is_faulty),
        Part("gpu", "", 1, note, needs_gpu=True),
        Part("last", "", 1, note),
    ]
    seen: list[int] = []
    reports = run_parts(parts, tmp_path, "cpu", 1.0, lambda reports: seen.append(len(reports)))
    assert [report.status for report in reports] == ["ok", "failed", "failed", "skipped", "ok"]
    assert reports[1].problems == ["no data"]
    assert "fault of gpu_check itself" in reports[2].problems[0]
    assert "KeyError" in reports[2].problems[0]
    assert reports[3].summary == "needs a GPU"
    assert limits["first"] == pytest.approx(12, abs=1)
    assert limits["last"] == pytest.approx(60, abs=3)  # what the others left
    assert seen == [1, 2, 3, 4, 5]
    late = run_parts(parts[:1], tmp_path, "cpu", 0.001, lambda reports: None)
    assert "no time was left" in late[0].problems[0]


class Trainer(Workplace):
    """A place where a "training" of the setting "crash" ends its process, and of "hang" takes all the time."""

    def run(self, name: str, arguments: Any, environment: Any = None) -> Finished:
        out = Path(arguments[arguments.index("--out") + 1])
        log = self.folder / f"{name}.log"
        log.write_text("CSAN detected a possible data race on tensor\nlast line\n" if "crash" in arguments else "stuck")
        for variant in arguments[arguments.index("--out") + 2 :]:
            if variant in ("crash", "hang"):
                return Finished(1, 1.0, variant == "hang", log)
            with out.open("a") as lines:
                problems = ["bad"] if variant == "bad" else []
                lines.write(json.dumps({"variant": variant, "problems": problems}) + "\n")
        return Finished(1 if "bad" in arguments else 0, 1.0, False, log)

    def demo_shards(self) -> Path:
        return self.folder


def test_settings_after_a_crash_get_a_new_process(tmp_path: Path) -> None:
    report = Report("steps")
    groups = [Group("one", ["a", "crash", "b", "hang", "c", "d"]), Group("two", ["bad", "e"])]
    found = train_groups(Trainer(tmp_path, "cuda"), report, groups)
    assert [result["variant"] for result in found] == ["a", "b", "bad", "e"]
    assert report.status == "failed"
    assert [problem.split(":")[0] for problem in report.problems] == [
        "crash (a race between streams)",
        "hang",
        "not reached in time",
        "bad",
    ]
    assert report.problems[2].endswith("c, d")


def test_reports_are_written(tmp_path: Path) -> None:
    report = Report("steps", "Short trainings", data={"x": 1}, commands=["python x.py"], summary="fine | good")
    report.grid = Grid(["setting", "loss"], [["zero1/bf16", "2.1"]])
    other = Report("loader", "Loader")
    other.fail("it broke")
    as_json, as_markdown = write_reports([report, other], tmp_path, "python tools/gpu_check.py")
    document = json.loads(as_json.read_text())
    assert [part["status"] for part in document["parts"]] == ["ok", "failed"]
    assert document["parts"][0]["data"] == {"x": 1}
    text = as_markdown.read_text()
    assert "| setting | loss |\n| --- | ---: |\n| zero1/bf16 | 2.1 |" in text
    assert r"fine \| good" in text
    assert "### Loader\n\n- **it broke**" in text
    assert not list(tmp_path.glob("*.part"))


def test_a_half_written_line_of_a_running_training_is_left_out(tmp_path: Path) -> None:
    assert (read_losses(tmp_path), newest_checkpoint(tmp_path)) == ({}, 0)
    lines = [{"step": 1, "prefix": "train", "loss": 2.0}, {"step": 1, "prefix": "val"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "pre')
    (tmp_path / "checkpoints" / "step_00000020").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-step_00000040").mkdir()
    assert (read_losses(tmp_path), newest_checkpoint(tmp_path)) == ({1: 2.0}, 20)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = tool("tools/gpu_check.py", f"--out={tmp_path / 'out'}", CUDA_VISIBLE_DEVICES="")
    assert done.status == 2
    assert done.stderr.count("\n") == 1
    assert "--device cpu runs the parts that need none" in done.stderr
    assert not (tmp_path / "out").exists()
    assert tool("tools/gpu_check.py", "--only", "nothing").status == 2
    assert tool("tools/gpu_check.py", "--minutes=0").status == 2
    taken = tmp_path / "file"
    taken.write_text("")
    assert "File exists" in tool("tools/gpu_check.py", "--device=cpu", f"--out={taken}").stderr


def test_parts_alone_on_the_cpu(tmp_path: Path) -> None:
    done = tool("tools/gpu_check.py", "--device=cpu", "--only", "versions", "tests", "validation", f"--out={tmp_path}")
    document = json.loads((tmp_path / "gpu_check.json").read_text())
    statuses = {part["name"]: part["status"] for part in document["parts"]}
    assert (done.status, statuses) == (0, {"versions": "ok", "tests": "skipped", "validation": "ok"}), done.stdout
    assert document["parts"][0]["data"]["cores"] == len(os.sched_getaffinity(0))
    assert [result["precision"] for result in document["parts"][2]["data"]["results"]] == [
        "fp32",
        "bf16",
        "bf16_parameters",
    ]


@pytest.mark.long
def test_every_part_on_the_cpu(tmp_path: Path) -> None:
    done = tool("tools/gpu_check.py", "--device=cpu", f"--out={tmp_path}", timeout=580)
    parts = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    statuses = {part["name"]: part["status"] for part in parts}
    needs_gpu = {part.name for part in PARTS if part.needs_gpu}
    assert statuses == {part.name: "skipped" if part.name in needs_gpu else "ok" for part in PARTS}, done.stdout
    assert done.status == 0
    resumed = next(part["data"] for part in parts if part["name"] == "resume")
    assert resumed["repeated"] > 0
    assert resumed["largest"] == 0.0
