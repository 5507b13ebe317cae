"""The command line of the tools that take a run's configuration: ``--config FILE [key=value ...]``."""

from __future__ import annotations

import argparse
import sys

from sar_dist.command_help import TerminalHelp
from sar_dist.config.load import help_text


def parse_run_arguments(description: str | None) -> argparse.Namespace:
    """``config`` and ``overrides`` of the command line, in any order; ``--help`` lists every key and ends here."""
    parser = argparse.ArgumentParser(description=description, formatter_class=TerminalHelp)
    parser.add_argument("--config", required=True, help="a file of configs/, or the config.json of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the configuration")
    # Launchers pass it: deepspeed with an underscore, torch.distributed.launch with a hyphen.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    if {"-h", "--help"} & set(sys.argv):
        parser.epilog = help_text()
    return parser.parse_intermixed_args()
