"""The command-line parser of each tool, without running the tool: for the reference, and for the test of every command."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

TOOLS = Path(__file__).resolve().parents[1] / "tools"


class _Made(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def tool_names() -> list[str]:
    """The tools by their names, such as "train"; sorted."""
    return sorted(path.stem for path in TOOLS.glob("*.py"))


def tool_parser(name: str) -> argparse.ArgumentParser:
    """The parser that ``tools/NAME.py`` makes, caught at the moment when it would read the command line.

    Raises:
        FileNotFoundError: there is no such tool.
    """
    path = TOOLS / f"{name}.py"

    def caught(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Made(parser)

    with (
        patch.object(argparse.ArgumentParser, "parse_args", caught),
        patch.object(argparse.ArgumentParser, "parse_intermixed_args", caught),
        patch("sar_dist.signals.install_handlers"),  # this process is not that tool
        patch.object(sys, "argv", [path.name]),
        patch.object(sys, "path", [*sys.path]),
    ):
        main = runpy.run_path(str(path), run_name=f"tools.{name}")["main"]
        try:
            main()
        except _Made as made:
            return made.parser
    raise AssertionError(f"{path} reads no command line")
