"""The one exception a user meets: bad input, said in one line that tells what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sar_dist.output import is_main_process, warn

EXIT_BAD_INPUT = 2


class UserError(Exception):
    """Something the user gave is wrong (config, shard, image, checkpoint, environment).

    The message is one line: what is wrong, where, and what to do about it. Command-line tools print it without a
    traceback and exit with status 2.
    """


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a command-line tool: ``UserError`` becomes one line on stderr and exit status 2.

    Under a launcher only the process with RANK 0 prints the line, so that it appears once.
    """
    try:
        status = main() or 0
    except UserError as error:
        if is_main_process():
            warn(f"error: {' '.join(str(error).split())}")
        status = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        warn("interrupted")
        status = 130
    sys.exit(status)
