"""What docs/python.md says can be typed in Python."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys

import pytest
from support import ROOT, program_environment

import sar_dist

PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:40])
def test_the_pages_code_runs_and_prints_what_it_says(block: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/python.md", "exec"), {})
    said = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert printed.getvalue().splitlines() == said


def test_every_public_name_is_there_and_on_the_page() -> None:
    for name in sar_dist.__all__:
        assert getattr(sar_dist, name).__name__ == name
        assert f"`{name}`" in PAGE
    assert set(sar_dist.__all__) < set(dir(sar_dist))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        sar_dist.train  # noqa: B018


def test_the_package_itself_imports_nothing_slow() -> None:
    program = "import sys, sar_dist; print(sorted({'torch', 'timm', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=program_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
