"""What a format of ``tools/make_shards.py`` tells about itself: its subcommand."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sar_dist.data.making.sources.base import Source


@dataclass(frozen=True)
class SourceCommand:
    """A subcommand that makes shards.

    Attributes:
        name: of the subcommand.
        usage, summary: two columns of the tool's help.
        add_arguments: adds the format's own arguments to its parser.
        sources: the splits to write, from the parsed arguments. Raises UserError.
        reads_files: there is an argument ``source``, what to read.
        chooses_split: there is an argument ``--split``, a ``SplitChoice``.
        arranges_samples: there are arguments ``--seed`` and ``--samples-per-shard``.
        samples_per_shard: default of ``--samples-per-shard``; None: that of the writer.
    """

    name: str
    usage: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    sources: Callable[[argparse.Namespace], Sequence[Source]]
    reads_files: bool = True
    chooses_split: bool = True
    arranges_samples: bool = True
    samples_per_shard: int | None = None


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """For a format that has no arguments of its own."""


def positive(text: str) -> int:
    """A positive number on the command line."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
