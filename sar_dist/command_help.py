"""What command lines have in common: a ``--help`` that fits the terminal, paths, which are never empty, numbers with bounds."""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from sar_dist.errors import shortened

_WIDEST = 118
_COMMAND = re.compile(r"\s*(python|deepspeed|torchrun) ")
# What a table has in its first column.
_FIRST_COLUMN = re.compile(r"\s+\S+( \S+)*\s{2,}(?=\S)")


class TerminalHelp(argparse.HelpFormatter):
    """Paragraphs are filled, indented lines (tables, settings) wrapped below themselves; commands stay whole, to be copied."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(_wrapped(line, width) for line in _lines(text))


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """``type=`` of an argument that counts something, with bounds, so that no number is too long to be used."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{shortened(text, _WIDEST)!r} is no whole number from {least} to {most}")
        return value

    return read


class Once(argparse.Action):
    """``action=`` of an option that may be given once: argparse would drop all but the last one without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        """Keep the value. Ends the program where there is one already."""
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} is given twice; give it once, and make the rest by another command")
        setattr(namespace, self.dest, values)


def positive_number(most: float) -> Callable[[str], float]:
    """``type=`` of an argument that measures something: above 0, with a bound, so that what follows from it is finite."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 1 / most <= value <= most:
            raise argparse.ArgumentTypeError(f"{shortened(text, _WIDEST)!r} is no number above 0 and at most {most:g}")
        return value

    return read


def given_path(text: str) -> Path:
    """A path of the command line, as ``type=`` of an argument. Nothing is no path: it would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a path is empty, as of a variable that is not set")
    return Path(text)


def given_local_path(text: str) -> Path:
    """As ``given_path``, where no URL is taken: as a path it would be a folder called ``s3:`` or ``file:``."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL, which is not taken here; give a folder or file of this machine, and copy to or from the URL"
        )
    return given_path(text)


def fitted(text: str) -> str:
    """A text that is printed, wrapped like a help where the output is a terminal."""
    return "\n".join(_wrapped(line, _width()) for line in _lines(text)) if sys.stdout.isatty() else text


def _width() -> int:
    return min(shutil.get_terminal_size().columns - 2, _WIDEST)


def _lines(text: str) -> list[str]:
    """The lines of a text, with those of a paragraph joined."""
    lines: list[str] = []
    joins = False  # whether the last line goes on with the next
    for line in text.strip("\n").splitlines():
        plain = bool(line) and not line[0].isspace() and not _COMMAND.match(line)
        if plain and joins:
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        joins = plain
    return lines


def _wrapped(line: str, width: int) -> str:
    table = _FIRST_COLUMN.match(line)
    narrow = table is None or table.end() > 2 * width // 3
    if narrow and _COMMAND.match(line):
        return line
    hanging = table.end() if table is not None and not narrow else len(line) - len(line.lstrip())
    return textwrap.fill(line, width, subsequent_indent=hanging * " ", break_long_words=False, break_on_hyphens=False)
