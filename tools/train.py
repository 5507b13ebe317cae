"""Train a Vision Transformer with the spatial-entropy regularizer.

    deepspeed tools/train.py --config configs/vit_l_in1k.py [key=value ...]

Also under torchrun or srun, or as plain `python` for one process. The same command again resumes the run. Exit status:
0 when training is done or was stopped by a signal or run.max_hours with everything saved, 2 for bad input.
"""

from __future__ import annotations

from pathlib import Path

from sar_dist.errors import UserError
from sar_dist.program import run_tool
from sar_dist.signals import ignore_signals, install_handlers

install_handlers()  # before the slow imports below, so that no signal is lost


def main() -> None:
    from sar_dist.config import follow_moved_run, load_config, locate_all_data, parse_run_arguments
    from sar_dist.meeting import meet

    arguments = parse_run_arguments(__doc__)
    try:
        meet()
        config = load_config(arguments.config, arguments.overrides)
        config = locate_all_data(follow_moved_run(Path(arguments.config), config, arguments.overrides))

        from sar_dist import distributed  # PyTorch takes seconds: only when what was typed makes sense
        from sar_dist.training import build_trainer

        build_trainer(config).train()
    except UserError:
        ignore_signals()  # a launcher ends the others when one process ends with an error: no reason to requeue
        raise
    ignore_signals()
    distributed.shutdown()


if __name__ == "__main__":
    run_tool(main)
