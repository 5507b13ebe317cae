"""The command-line parser of a tool or benchmark, without running it: for the reference, and for the test of every command."""

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
    return sorted(path.stem for path in TOOLS.glob("*.py") if path.stem != "__init__")


def tool_parser(name: str) -> argparse.ArgumentParser:
    """The parser of ``tools/NAME.py``; see ``program_parser``."""
    return program_parser(TOOLS / f"{name}.py")


def program_parser(path: Path) -> argparse.ArgumentParser:
    """The parser that a program's ``main`` makes, caught at the moment when it would read the command line.

    Raises:
        FileNotFoundError: there is no such program.
    """

    def caught(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Made(parser)

    with (
        patch.object(argparse.ArgumentParser, "parse_args", caught),
        patch.object(argparse.ArgumentParser, "parse_intermixed_args", caught),
        patch("sar_dist.signals.install_handlers"),  # this process is not that tool
        patch.object(sys, "argv", [path.name]),
        patch.object(sys, "path", [str(path.parent), *sys.path]),  # as for a program that is started
    ):
        main = runpy.run_path(str(path), run_name=path.stem)["main"]
        try:
            main()
        except _Made as made:
            return made.parser
    raise AssertionError(f"{path} reads no command line")
