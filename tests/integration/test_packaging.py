"""What is installed: the source distribution builds, and its wheel has the tools, the configurations and the pages' templates."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
from support import ROOT, read_metrics

import sar_dist
from sar_dist.console import TOOLS


def build_wheel(tmp_path: Path) -> Path:
    """The wheel of the source distribution of a copy of this checkout."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("sar_dist", "tools", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    run(checkout, "setup.py", "-q", "sdist")
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert source.name == f"sar_dist-{sar_dist.__version__}"
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(source, *pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), ".")
    (wheel,) = tmp_path.glob("*.whl")
    return wheel


def test_wheel_from_the_source_distribution_runs(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    installed = tmp_path / "installed"
    shutil.unpack_archive(wheel, installed, "zip")
    for folder, packed in (("sar_dist", ""), ("tools", "tools"), ("configs", "configs")):
        needed = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file()}
        needed = {path for path in needed if "__pycache__" not in path.parts and path.suffix != ".pyc"}
        there = installed / "sar_dist" / packed
        assert sorted(str(path) for path in needed if not (there / path).is_file()) == []
    configuration = installed / "sar_dist" / "configs" / "vit_l_in1k.py"  # it imports another one
    shown = run(installed, "-m", "sar_dist.tools.plan", "--help")
    assert "--config" in shown
    program = "from sar_dist.config import load_config; import sar_dist, sys; print(load_config(sys.argv[1]).run.name, sar_dist.__file__)"
    assert run(installed, "-c", program, str(configuration)).split() == [
        "vit_l_in1k",
        str(installed / "sar_dist" / "__init__.py"),
    ]
    shown = run(installed, "-c", "from sar_dist.console import plan; plan()", "--help")
    assert shown.startswith("usage: sar-plan ")
    program = "from sar_dist import load_config; print(load_config('configs/vit_l_in1k.py').run.name)"
    assert run(installed, "-c", program).strip() == "vit_l_in1k"  # it comes with the package
    entry_points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert [f"sar-{name.replace('_', '-')} = sar_dist.console:{name}" for name in sorted(TOOLS)] == sorted(
        line for line in entry_points.splitlines() if "=" in line
    )
    program = (
        "from sar_dist.reports import PictureSection, attention_page; import sar_dist.reports as reports;"
        "print(reports.__file__); print(attention_page('From a wheel', [PictureSection('x', b'png', [0.5], [1])]))"
    )
    place, page = run(installed, "-c", program).split("\n", 1)
    assert place == str(installed / "sar_dist" / "reports" / "__init__.py")
    assert "<h1>From a wheel</h1>" in page
    assert "prefers-color-scheme: dark" in page
    vendored = installed / "sar_dist" / "reports" / "vendor"
    assert {"uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE"} <= {file.name for file in vendored.iterdir()}


def test_the_commands_of_this_environment_run(tmp_path: Path) -> None:
    """Of an editable install, mostly, as ``make install`` makes it: another finder than a wheel's, without the checkout's folder."""
    for name in ("sar-plan", "sar-make-shards"):
        command = Path(sys.executable).with_name(name)
        assert run_command(tmp_path, command, "--help").startswith(f"usage: {name} ")
    node = ("--nodes", "1", "--gpus-per-node", "8")
    command = Path(sys.executable).with_name("sar-plan")
    assert "vit_large" in run_command(tmp_path, command, "--config", "vit_l_in1k", *node)


@pytest.mark.long
def test_an_installed_wheel_trains_the_demo_from_another_folder(tmp_path: Path) -> None:
    """In a new virtual environment that borrows the libraries, and not this checkout, which an editable install names."""
    wheel = build_wheel(tmp_path)
    venv.create(tmp_path / "env", with_pip=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files in that folder stay unread
    python, commands = tmp_path / "env" / "bin" / "python", tmp_path / "env" / "bin"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "HOME": str(elsewhere), "DS_ACCELERATOR": "cpu"}

    def command(*words: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=elsewhere,
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command(python, "-m", "pip", "--quiet", "install", "--no-deps", "--no-index", wheel)
    where = command(python, "-c", "import sar_dist; print(sar_dist.__file__)").strip()
    assert where == str(site / "sar_dist" / "__init__.py")
    command(commands / "sar-make-shards", "demo", "data/demo", "--train", "160", "--val", "48")
    said = command(commands / "sar-train", "--config", "configs/demo.py", "run.max_steps=3", "log.every=1")
    assert "finished 3 steps" in said
    assert sorted(read_metrics(elsewhere / "runs" / "demo")) == [1, 2, 3]
    knn = ("--task", "knn", "--model", "runs/demo", "--data", "data/demo", "workers=0")
    assert "top1" in command(commands / "sar-transfer-eval", *knn)
    command(commands / "sar-report", "runs/demo", "--out", "report")
    assert (elsewhere / "report" / "report.html").is_file()


def run(folder: Path, *arguments: str) -> str:
    """Run Python in ``folder``, where it finds nothing of this checkout; gives what it printed."""
    return run_command(folder, sys.executable, *arguments, python_path=str(folder))


def run_command(folder: Path, *arguments: str | Path, python_path: str = "") -> str:
    """Run a program in ``folder``; gives what it printed."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": python_path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
