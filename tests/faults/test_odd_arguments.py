"""Files, folders and numbers that make no sense, given to every tool: one line that says what is wrong, status 2."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_factory import random_model, settings, write_run
from support import ROOT, jpeg, tool, write_tar

from sar_dist.models import export_run
from sar_dist.reports import load_runs, report_page

NOISE = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
LONG = "x" * 5000


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound run, export, tree of images and tars, and with things that are none of these."""
    root = tmp_path_factory.mktemp("odd")
    for name in ("empty", "empty.py", "empty.json", "empty.csv", "empty.png", "empty.parquet", "empty.tar"):
        (root / name).write_bytes(b"")
    for name in ("noise", "noise.py", "noise.json", "noise.csv", "noise.png", "noise.parquet", "noise.pth"):
        (root / name).write_bytes(NOISE)
    for name in ("folder", "folder.py", "folder.json", "folder.csv", "folder.png"):
        (root / name).mkdir()
    for name, content in JSON_FILES.items():
        (root / name).write_text(content)
    (root / "loop").symlink_to(root / "loop")
    for name in ("pipe.csv", "pipe/train2018.json", "pipe/train-0.parquet", "pipe/a.jpg", "pipe/config.json"):
        (root / name).parent.mkdir(exist_ok=True)
        os.mkfifo(root / name)
    (root / "pipe.tsv").write_text("path\tlabel\npipe/a.jpg\t0\n")
    model = settings()
    write_run(root, model, {1: random_model(model).vit})
    export_run(root / "small", root / "export")
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.jpg").write_bytes(jpeg(4 * number + label))
    write_tar(root / "tars" / "train-0.tar", {"a.jpg": jpeg(1), "a.cls": b"1", "b.jpg": jpeg(2), "b.cls": b"0"})
    write_tar(root / "plain" / "0.tar", {"a.jpg": jpeg(1), "a.cls": b"1"})
    (root / "links").mkdir()
    (root / "links" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    write_damaged_sets(root)
    return root


METRICS = b'{"step": 4, "prefix": "train", "time": 1.0, "epoch": 2.0, "loss_cls": 1.5}\n'
JSON_FILES = {
    "list.json": "[1, 2]",
    "null.json": "null",
    "cut.json": '{"run": {"name": "x", "di',
    "deep.json": "[" * 100_000,
    "nan.json": '{"run": {"name": "x"}, "optim": {"lr": NaN}}',
    "digits.json": '{"run": {"name": "x", "seed": ' + "1" * 5000 + "}}",
    "nul.csv": "path,label\na\0.jpg,1\n",
    "no_column.csv": "path,path\na.jpg,1\n",
    "half.csv": "path,label\na.jpg\n",
    "bad_spec.py": "import sys\nsys.exit(3)\n",
}


def write_damaged_sets(root: Path) -> None:
    """Copies of the sound things with one file each that is something else."""
    changes = {
        "export_list": ("export", "config.json", b"[1]"),
        "export_deep": ("export", "config.json", b"[" * 100_000),
        "export_noise": ("export", "config.json", NOISE),
        "export_empty": ("export", "model.safetensors", b""),
        "run_cut": ("small", "config.json", b'{"run": {"na'),
        "run_list": ("small", "config.json", b"[]"),
        "run_groups": ("small", "config.json", b'{"run": 3}'),
        "run_starts": ("small", "environment.json", b'{"started": 1}'),
        "run_deep": ("small", "environment.json", b"[" * 100_000),
        "run_begun": ("small", "metrics.jsonl", b'{"step": 0, "prefix": "hardware", "time": 1, "peak_tflops": 1}\n'),
        "run_lines": ("small", "metrics.jsonl", b'{"step": 1, "prefix": "train", "loss": null}\n' + b"[" * 100_000),
        "report_taken": ("small", "report.html", b"mine"),
        "run_processes": ("small", "environment.json", b'[{"world_size": 1' + b"0" * 400 + b"}]"),
        "run_large": ("small", "metrics.jsonl", METRICS.replace(b"1.5", b"1e299")),
        "run_term": ("small", "config.json", b'{"run": {"name": "x"}, "terms": [{"weight": 1}]}'),
        "run_seed": ("small", "config.json", b'{"run": {"name": "x", "seed": "nine"}}'),
        "run_world": ("small", "environment.json", b'[{"world_size": "two"}]'),
        "run_command": ("small", "environment.json", b'[{"command": [1]}]'),
        "run_digits": ("small", "metrics.jsonl", b'{"step": 1, "prefix": "train", "loss": 1' + b"0" * 400 + b"}\n"),
        "run_manifest": ("small", "checkpoints/step_00000001/manifest.json", b"[]"),
        "tars_list": ("tars", "manifest.json", b"[]"),
        "tars_infinite": ("tars", "manifest.json", INFINITE.encode()),
        "tars_info": ("tars", "_info.json", b'{"splits": {"train": {"filenames": 3}}}'),
        "tars_empty": ("tars", "train-1.tar", b""),
        "tars_noise": ("tars", "train-1.tar", NOISE),
        "tars_classes": ("tars", "classes.json", b"[[1], [2]]"),
        "plain_classes": ("plain", "classes.json", b"{}"),
        "tars_no_classes": ("tars", "classes.json", b"[]"),
        "images_classes": ("images", "classes.json", NOISE),
        "images_index": ("images", "classes.json", b'{"cat": {"index": Infinity, "name": "cat"}, "dog": {"index": 1}}'),
        "lists": ("folder", "train2018.json", b'{"images": [], "annotations": [], "categories": [{"id": Infinity}]}'),
    }
    shutil.copytree(root / "small", root / "run_pipe")
    os.mkfifo(root / "run_pipe" / "metrics.jsonl")
    for name, (base, file, content) in changes.items():
        shutil.copytree(root / base, root / name)
        (root / name / file).write_bytes(content)
    shutil.copytree(root / "tars", root / "tars_link")
    (root / "tars_link" / "train-1.tar").symlink_to(root / "nowhere.tar")
    shutil.copytree(root / "images", root / "images_loop")
    (root / "images_loop" / "train" / "cat" / "x.jpg").symlink_to(root / "images_loop" / "train" / "cat" / "x.jpg")
    shutil.copytree(root / "images", root / "images_folder")
    (root / "images_folder" / "classes.json").mkdir()


INFINITE = json.dumps(
    {
        "format": "sar_dist-shards-1",
        "split": "train",
        "classes": None,
        "total": 1,
        "shards": [{"name": "train-0.tar", "samples": float("inf"), "bytes": 1, "sha256": "x"}],
    }
)

# Arguments, with @ for the folder of inputs, and what the line says.
EXPORT = [
    (f"export {LONG} @/out", "File name too long"),
    ("export @/small @/empty/x", "cannot export to"),
    ("export @/empty @/out", "is no run directory"),
    ("export @/loop @/out", "is no run directory|symbolic links"),
    ("export @/run_cut @/out", "config.json is damaged or cut short"),
    ("export @/run_list @/out", "config.json is not a mapping of settings"),
    ("export @/run_manifest @/out", "no checkpoint of .* is intact"),
    ("export @/small @/out --step=7", "has no checkpoint of step 7"),
]
MAKE_SHARDS = [
    ("make_shards csv @/empty.csv @/out", "has no column 'path', only no header line"),
    ("make_shards csv @/noise.csv @/out", "cannot read .*noise.csv"),
    ("make_shards csv @/folder.csv @/out", "cannot read .*folder.csv"),
    ("make_shards csv @/nul.csv @/out", "cannot read .*nul.csv: it holds zero bytes"),
    ("make_shards csv @/no_column.csv @/out", "has no column 'label'"),
    ("make_shards csv @/half.csv @/out", "line 2: label is empty; fill it in, or take"),
    ("make_shards parquet @/empty.parquet @/out", "cannot read .*empty.parquet"),
    ("make_shards parquet @/noise.parquet @/out", "cannot read .*noise.parquet"),
    ("make_shards inaturalist @/lists @/out", "are not a list of objects with an id"),
    ("make_shards inaturalist @/empty @/out", "cannot read .*empty"),
    ("make_shards csv @/pipe.csv @/out", "cannot read .*pipe.csv: .*it is a pipe"),
    ("make_shards csv @/pipe.tsv @/out", "cannot read .*pipe/a.jpg: it is a pipe"),
    ("make_shards parquet @/pipe @/out", "cannot read .*train-0.parquet: it is a pipe"),
    ("make_shards inaturalist @/pipe @/out", "cannot read .*train2018.json: .*it is a pipe"),
    ("make_shards imagefolder @/loop @/out", "symbolic links"),
    ("make_shards imagefolder @/images_loop @/out", "symbolic links"),
    ("make_shards imagefolder @/images_folder @/out", "classes.json is no file"),
    ("make_shards imagefolder @/images_classes @/out", "cannot read .*classes.json"),
    ("make_shards imagefolder @/images_index @/out", "classes.json"),
    (f"make_shards imagefolder @/images {LONG}", "File name too long"),
    ("make_shards imagefolder @/images @/empty/out", "empty"),
    ("make_shards imagefolder @/images @/out --split =", "--split =: give train, val"),
    ("make_shards imagefolder @/images @/out --per-class 99", "a class has only 2 images"),
    ("make_shards tars @/tars @/out --label json.", "is no source of labels"),
    ("make_shards tars @/folder @/out", "no train shards|no val shards"),
    ("make_shards tars @/tars_list @/out", "manifest.json is not a valid manifest"),
    ("make_shards tars @/tars_infinite @/out", "manifest.json is not a valid manifest"),
    ("make_shards tars @/tars_info @/out", "_info.json is not a timm WebDataset description"),
    ("make_shards tars @/tars_empty @/out", "train-1.tar: the file is empty"),
    ("make_shards tars @/tars_noise @/out", "train-1.tar: damaged|train-1.tar"),
    ("make_shards tars @/tars_link @/out", "train-1.tar is a link to nothing"),
    ("make_shards tars @/tars_classes @/out", "classes.json does not name classes"),
    ("make_shards tars @/tars_no_classes @/out", "classes.json does not name classes"),
    ("make_shards verify @/tars_list", "manifest.json is not a valid manifest"),
    ("make_shards verify @/tars_infinite", "manifest.json is not a valid manifest"),
    ("make_shards verify @/empty", "is not a folder"),
    ("make_shards ade20k @/empty @/out", "has no folders images and annotations"),
    ("make_shards voc @/empty @/out", "has no ImageSets/Segmentation"),
]
CONFIGS = [
    (f"{program} --config @/{name} --nodes 1 --gpus-per-node 1" if program == "plan" else f"{program} --config @/{name}", message)
    for program in ("plan", "profile_flops")
    for name, message in (
        ("gone.py", "no configuration file"),
        ("folder.py", "no configuration file"),
        ("empty.py", "cannot be loaded"),
        ("noise.py", "cannot be loaded"),
        ("noise", "is not a Python file"),
        ("empty.json", "empty.json is damaged or cut short"),
        ("noise.json", "noise.json is damaged or cut short"),
        ("cut.json", "cut.json is damaged or cut short"),
        ("deep.json", "deep.json is damaged or cut short"),
        ("digits.json", "digits.json is damaged or cut short"),
        ("list.json", "list.json is not a mapping of settings"),
        ("null.json", "null.json is not a mapping of settings"),
        ("nan.json", "must be a finite number|should be a finite number"),
    )
]  # fmt: skip
TRANSFER = [
    (f"transfer_eval --task imagenet_val --model @/export --data @/{data} --out @/out workers=0 {rest}", message)
    for data, rest, message in (
        ("gone", "", "there is no "),
        ("empty", "", "there is no folder"),
        ("folder", "", "has no val split"),
        ("images", "label=json.", "label=json. says where shards have their labels"),
        ("plain", "label=json.", "is no source of labels"),
        ("tars", "label=", "label"),
        ("tars", "batch=nan", "batch"),
        ("tars", "batch=1e400", "batch"),
        ("plain", "seed=" + "9" * 5000, "a number of 5000 digits is too large"),
        ("tars", "limit=-1", "limit"),
        ("tars_list", "", "manifest.json is not a valid manifest"),
        ("tars_infinite", "", "manifest.json is not a valid manifest"),
        ("tars_info", "", "no val split|no val shards|is not a timm WebDataset description"),
        ("tars_link", "", "is a link to nothing"),
        ("plain_classes", "", "classes.json does not name classes"),
        ("images_classes", "", "cannot read .*classes.json"),
        ("images_folder", "", "classes.json is no file"),
    )
]
EXPERIMENT = [
    ("experiment @/bad_spec.py --out @/out", "cannot be loaded: SystemExit: 3"),
    ("experiment @/noise.py --out @/out", "cannot be loaded"),
    ("experiment @/folder --out @/out", "no experiment file"),
    (
        "experiment configs/experiments/small_cifar.py --out @/out --stage train --launcher '",
        "cannot be read as a command",
    ),
]
REPORT = [
    ("report @/loop --out @/out", "Symlink loop|symbolic links|is not a run directory"),
    ("report @/pipe --out @/out", "is not a run directory"),
    ("report @/run_pipe --out @/out", "metrics.jsonl: it is a pipe"),
    ("report @/run_begun --out @/out", "has no metrics yet"),
    ("report @/run_lines --out @/out", "has no metrics yet"),
    ("report @/run_groups --out @/out", "config.json is not what a run writes there: run"),
    ("report @/run_starts --out @/out", "environment.json is not what a run writes there"),
    ("report @/run_term --out @/out", "config.json is not what a run writes there: terms.0.name is missing"),
    ("report @/run_seed --out @/out", "config.json is not what a run writes there: run.seed='nine'"),
    ("report @/run_world --out @/out", "environment.json is not what a run writes there: 0.world_size='two'"),
    ("report @/run_command --out @/out", "environment.json is not what a run writes there: 0.command.0=1"),
    ("report @/small --out @/report_taken", "report.html would be overwritten"),
    ("report @/run_processes --out @/out", "environment.json is not what a run writes there: 0.world_size=1000"),
    ("report @/run_large --out @/out", "has no metrics yet"),
    ("report @/run_digits --out @/out", "has no metrics yet"),
    ("report @/run_deep --out @/out", "environment.json cannot be read: nested too deeply"),
    ("visualize_attention --model @/export --images @/images --out @/out", "images holds no images; folders in it"),
    ("visualize_attention --model @/export --images @/links --out @/out", "cannot read .*links/gone.jpg: No such file"),
    ("visualize_attention --model @/export --images @/pipe --out @/out", "cannot read .*pipe/a.jpg: it is a pipe"),
    (
        "profile_flops --config @/small/config.json --json @/pipe.csv",
        "cannot write .*pipe.csv: No such device or address",
    ),
    ("profile_flops --config @/small/config.json --json @/folder", "cannot write .*folder: Is a directory"),
    ("visualize_attention --model @/export --images @/pipe/a.jpg --out @/out", "cannot read .*a.jpg: it is a pipe"),
]
MODELS = [
    (f"{program} --model {model} {rest}", message)
    for program, rest in (
        ("visualize_attention", "--images @/images/val/cat/0.jpg --out @/out"),
        ("transfer_eval", "--task imagenet_val --data @/images --out @/out workers=0"),
    )
    for model, message in (
        (LONG, "File name too long"),
        (f"random:{LONG}", "File name too long|no model"),
        ("@/nowhere", "there is no such folder"),
        ("@/loop", "there is no such folder|symbolic links"),
        ("@/noise", "is no run directory"),
        ("@/run_cut", "config.json is damaged or cut short"),
        ("@/run_manifest", "no checkpoint of .* is intact"),
        ("@/export_list", "is not the configuration of an export"),
        ("@/export_noise", "config.json cannot be read"),
        ("@/export_deep", "config.json is nested too deeply"),
        ("@/export_empty", "is not an intact .safetensors file|has changed since it was exported"),
        ("timm:vit_tiny_patch16_224:@/noise.pth", "is damaged, or a pickle"),
        ("timm:vit_tiny_patch16_224:@/empty", "has no known kind of weights"),
    )
]

PLANNED = ["--config", "configs/demo.py", "--nodes", "1", "--gpus-per-node", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "@/small", "--out", ""], "argument --out: a path is empty"),
        (["report", ""], "argument RUN: a path is empty"),
        (["export", "@/small", ""], "argument OUT: a path is empty"),
        (["export", "@/small", "@/out", "--license", "a\nb: [c"], "is no identifier of a license"),
        (
            ["profile_flops", "--config", "x", "--depth", "-1"],
            "argument --depth: '-1' is no whole number from 0 to 999",
        ),
        (["profile_flops", "--config", "x", "--depth", "²"], "argument --depth: '²' is no whole number from 0 to 999"),
        (
            ["experiment", "x.py", "--out", "y", "--jobs", "²"],
            "argument --jobs: '²' is no whole number from 1 to 10000",
        ),
        (
            ["experiment", "x.py", "--out", "y", "--minutes", "1e300"],
            "argument --minutes: '1e300' is no number above 0 and",
        ),
        (["experiment", "x.py", "--out", "y", "--seed", "-1"], "argument --seed: '-1' is no whole number from 0 to"),
        (["plan", *PLANNED, "--nodes", "0"], "argument --nodes: '0' is no whole number from 1 to 1000000"),
        (["plan", *PLANNED, "--train-images", "9" * 400], "999... (400 characters)' is no whole number from 1 to"),
        (
            ["plan", *PLANNED, "--peak-tflops", "1e308"],
            "argument --peak-tflops: '1e308' is no number above 0 and at most",
        ),
        (["plan", *PLANNED, "--mfu", "nan"], "argument --mfu: 'nan' is no number above 0"),
        (["transfer_eval", "--task", "knn", "--limit", "0"], "argument --limit: '0' is no whole number from 1 to"),
        (["export", "@/small", "@/out", "--step", "9" * 30], "argument --step: '999999999999999999999999999999' is no"),
        (["make_shards", "demo", "@/out", "--seed", "x"], "argument --seed: 'x' is no whole number from 0 to"),
        (["transfer_eval", "--task", "knn", "--data", ""], "argument --data: a path is empty"),
        (["experiment", "configs/experiments/small_demo.py", "--out", " "], "argument --out: a path is empty"),
    ],
)
def test_an_argument_that_cannot_be_meant(
    arguments: list[str], message: str, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = (argument.replace("@", str(odd)) for argument in arguments)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *rest])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def line_of(command: str, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a tool in this process, which has paid for the slow imports; its one line, after a check of its status."""
    name, *arguments = command.replace("@", str(odd)).split()
    shutil.rmtree(odd / "out", ignore_errors=True)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert exit_.value.code == 2, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert len(lines[0]) < 1500
    return lines[0]


@pytest.mark.parametrize(
    ("command", "message"),
    [*EXPORT, *MAKE_SHARDS, *CONFIGS, *EXPERIMENT, *REPORT, *MODELS, *TRANSFER],
    ids=lambda text: text[:60],
)
def test_one_line_and_status_two(
    command: str, message: str, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(command, odd, monkeypatch, capsys)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.deepspeed={fp16: false}", "engine.deepspeed.fp16=False: should be a mapping"),
        ("augment.rand_augment=rand-zz", "rand_augment"),
        ("augment.crop_mode=stretch", "augment.crop_mode='stretch': .*center.*squash.*border"),
    ],
)
def test_training_says_it_before_anything_starts(override: str, message: str, odd: Path) -> None:
    data = [f"data.{split}={odd / 'plain'}" for split in ("train", "val")]  # what is not there is said before
    done = tool("tools/train.py", "--config", "configs/demo.py", *data, f"run.dir={odd / 'runs'}", override)
    assert (done.status, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.exists(odd / "runs")


def test_what_an_evaluation_left_behind_may_be_damaged(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = odd / "left" / "imagenet_val_plain"
    folder.mkdir(parents=True)
    for content, message in (("{", "job.json is damaged"), ("[]", "job.json says of no evaluation what it is")):
        (folder / "job.json").write_text(content)
        command = "transfer_eval --task imagenet_val --model @/export --data @/plain --out @/left workers=0"
        assert message in line_of(command, odd, monkeypatch, capsys)


def test_what_making_shards_left_behind_may_be_damaged(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "begun" / "train" / ".making").mkdir(parents=True)
    (odd / "begun" / "train" / ".making" / "plan.json").write_bytes(NOISE)
    line = line_of("make_shards imagefolder @/images @/begun", odd, monkeypatch, capsys)
    assert "holds unfinished shards of another source, other labels or other options" in line


KEPT: dict[str, dict[str, Any]] = {
    "attention": {
        "step": 4,
        "samples": [1],
        "labels": ["a"],
        "predicted": ["b"],
        "grid": [1, 1],
        "entropies": [[0.5]],
        "components": [[1]],
        "maps": "AA==",
    },
    "classes": {
        "step": 4,
        "classes": 2,
        "hardest": [{"name": "cat", "right": 1, "images": 2, "taken_for": [["dog", 1]], "examples": [[1, "dog"]]}],
    },
}
NOT_THESE = (None, -1, "x", [], {}, [None], [[1, 2, 3]], True, 10**30)


# What fits all the same: "x" as maps or a name, a list of three numbers for a sample, nothing that was taken for another.
FITTING = {"attention": 3, "classes": 4}


def test_kept_figures_of_other_types_are_left_out_and_counted(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = odd / "kept"
    shutil.copytree(odd / "small", run)
    (run / "metrics.jsonl").write_bytes(METRICS)
    (run / "figures").mkdir()
    wrong = {
        name: [{**line, key: value} for key in line if key != "step" for value in NOT_THESE]
        for name, line in KEPT.items()
    }
    (only,) = KEPT["classes"]["hardest"]
    rows = [*({**only, key: value} for key in only for value in NOT_THESE), {**only, "images": 0}]
    wrong["classes"] += [{**KEPT["classes"], "hardest": [row]} for row in rows]
    for name, lines in wrong.items():
        (run / "figures" / f"{name}.jsonl").write_text(
            "".join(json.dumps(each) + "\n" for each in [*lines, KEPT[name]])
        )
    assert "dog" in report_page(load_runs([run]), b"", [])
    assert capsys.readouterr().err.splitlines() == [
        f"{run}/figures/{name}.jsonl: left out {len(wrong[name]) - FITTING[name]} lines that are not what a run writes there"
        for name in KEPT
    ]
