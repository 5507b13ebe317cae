"""Train and evaluate a grid of configurations and seeds, and say what differs.

    python tools/experiment.py configs/experiments/small_cifar.py --out results/small_cifar --jobs 2

Ends in DIR/results.md (tables), DIR/experiment.html (tables and curves on one page) and pictures. Finished runs and
evaluations are skipped, interrupted ones go on. --arm and --seed choose some of the runs, for example to reproduce one
of them; the tables are of everything that is in DIR. See docs/results.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sar_dist.program import run_tool

STAGES = ("train", "evaluate", "report")


def main() -> None:
    """Parse the command line and run the experiment's stages."""
    given = parse_arguments()

    from sar_dist.experiment import RunOptions, check_evaluation_data, evaluate, load_experiment, train  # slow

    experiment = load_experiment(given.spec)
    experiment.select(given.arm, given.seed)
    options = RunOptions(given.out, given.jobs, given.launcher)
    stages = given.stage or STAGES
    if "evaluate" in stages:
        check_evaluation_data(experiment)  # before hours of training
    if "train" in stages:
        train(experiment, given.arm, given.seed, options, say)
    if "evaluate" in stages:
        evaluate(experiment, given.arm, given.seed, options, say)
    if "report" in stages:
        from sar_dist.experiment import collect, print_tables, write_report

        results = collect(experiment, given.out)
        page = write_report(results, given.out)
        print_tables(results)
        say(str(page))


def say(line: str) -> None:
    """Print a line now, also into a file."""
    print(line, flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="a file of configs/experiments/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the experiment")
    parser.add_argument("--arm", action="append", default=[], help="only this arm; may be repeated")
    parser.add_argument("--seed", action="append", default=[], type=int, help="only this seed; may be repeated")
    parser.add_argument(
        "--stage", action="append", choices=STAGES, help="only this stage; may be repeated (default: all of them)"
    )
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument("--launcher", default="", help='starts each training, such as "deepspeed --num_gpus 8"')
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    run_tool(main)
