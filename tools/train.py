"""Train a Vision Transformer with the spatial-entropy regularizer.

    deepspeed tools/train.py --config configs/vit_l_in1k.py [key=value ...]

Also under torchrun or srun, or as plain `python` for one process. The same command again resumes the run. Exit status:
0 when training is done or was stopped by a signal or run.max_hours with everything saved, 2 for bad input.
With data.benchmark=true nothing is trained: the data loader is measured, and the cores that the model needs are named.
"""

from __future__ import annotations

import argparse
import sys

from sar_dist.errors import run_tool
from sar_dist.signals import ignore_signals, install_handlers

install_handlers()  # before the slow imports below, so that no signal is lost


def main() -> None:
    arguments = parse_arguments()

    from sar_dist import distributed
    from sar_dist.config import load_config
    from sar_dist.training import build_trainer

    config = load_config(arguments.config, arguments.overrides)
    if config.data.benchmark:
        from sar_dist.training import benchmark_data

        report = benchmark_data(config)
        if distributed.read_environment()[0] == 0:
            print(report)
        return
    build_trainer(config).train()
    ignore_signals()
    distributed.shutdown()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a file of configs/, or the config.json of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the configuration")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    if {"-h", "--help"} & set(sys.argv):
        from sar_dist.config import help_text

        parser.epilog = help_text()
    return parser.parse_args()


if __name__ == "__main__":
    run_tool(main)
