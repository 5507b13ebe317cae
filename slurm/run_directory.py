"""Check a configuration and print where its run is: run_directory.py --config configs/X.py [key=value ...]

For slurm/multinode.sh, before it starts any rank.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sar_dist.config import follow_moved_run, load_config
from sar_dist.program import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    config = follow_moved_run(Path(arguments.config), config, arguments.overrides)
    print(Path(config.run.dir).absolute() / config.run.name)


if __name__ == "__main__":
    run_tool(main)
