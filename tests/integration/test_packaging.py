"""What is installed: the source distribution builds, and its wheel has the tools, the configurations and the pages' templates."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from support import ROOT

import sar_dist
from sar_dist.console import TOOLS


def test_wheel_from_the_source_distribution_runs(tmp_path: Path) -> None:
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
    installed = tmp_path / "installed"
    shutil.unpack_archive(wheel, installed, "zip")
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


def run(folder: Path, *arguments: str) -> str:
    """Run Python in ``folder``, where it finds nothing of this checkout; gives what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
