"""What needs no PyTorch is answered without importing it: that alone takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, jpeg, program_environment

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")
WITHOUT_TORCH = (
    "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, 'tools'); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        *[([f"tools/{name}.py", "--help"], 0, "usage: ") for name in TOOLS],
        (["tools/train.py", "--config", "configs/demo.py", "optim.lrr=1"], 2, "error: unknown key 'optim.lrr'"),
        (
            ["tools/plan.py", "--config", "configs/gone.py", *"--nodes 1 --gpus-per-node 8".split()],
            2,
            "no configuration file",
        ),
        (["tools/train.py", "--config", "configs/gone.py"], 2, "error: no configuration file"),
        (["tools/make_shards.py", "imagefolder", "--help"], 0, "--val-per-class"),
        (["tools/make_shards.py", "imagefolder", "gone", "out"], 2, "error: cannot read gone"),
        (["tools/make_shards.py", *"csv gone.csv out --max-short-side 0".split()], 2, "'0' is not a positive number"),
        (["tools/transfer_eval.py", "--list"], 0, "weighted k-nearest neighbours"),
        (["tools/transfer_eval.py"], 2, "error: --task NAME is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_without_pytorch(arguments: list[str], status: int, said: str) -> None:
    done = run_without_torch(*arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr


def test_shards_are_made_without_pytorch(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "pictures" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    out = str(tmp_path / "out")
    done = run_without_torch(
        "tools/make_shards.py", "imagefolder", str(tmp_path / "pictures"), out, "--val-per-class", "1"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{out}/train: 4 samples of 2 classes in 1 shard, 0.0 MB",
        f"{out}/val: 2 samples of 2 classes in 1 shard, 0.0 MB",
    ]


def run_without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=ROOT,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
