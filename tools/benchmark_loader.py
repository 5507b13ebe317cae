"""Measure the training loader alone on this machine, and say how many cores the model needs.

    python tools/benchmark_loader.py --config configs/vit_l_in1k.py data.train=SHARDS [key=value ...]

It takes the batches of a run's first 20 seconds (or of an epoch, if that is shorter) and leaves nothing behind. Under
torchrun or deepspeed, the processes of a node share its cores as in training; the first one reports.
"""

from __future__ import annotations

from sar_dist.program import run_tool


def main() -> None:
    from sar_dist.config import load_config, locate_all_data, parse_run_arguments

    arguments = parse_run_arguments(__doc__)
    config = locate_all_data(load_config(arguments.config, arguments.overrides))

    from sar_dist import distributed  # PyTorch takes seconds: only when what was typed makes sense
    from sar_dist.training import benchmark_loader

    report = benchmark_loader(config)
    if distributed.read_environment()[0] == 0:
        print(report)


if __name__ == "__main__":
    run_tool(main)
