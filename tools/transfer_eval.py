"""Measure a trained model on a transfer task: one command from a checkpoint to a number with its protocol and baselines.

    python tools/transfer_eval.py --task knn --model runs/NAME --data ROOT --out DIR [key=value ...]

Also under torchrun or deepspeed for several processes; the result is the same. The same command again goes on where it
was stopped, or shows the result. `--list` explains the tasks, `--task NAME --help` the settings of one.
"""

from __future__ import annotations

import argparse
import sys

from sar_dist.command_help import TerminalHelp, fitted, given_path, whole_number
from sar_dist.errors import UserError
from sar_dist.model_specs import SPEC_HELP
from sar_dist.program import run_tool
from sar_dist.signals import end_with_launcher


def main() -> None:
    """Parse, run, print."""
    arguments = parse_arguments()
    end_with_launcher()  # before the slow imports below

    from sar_dist import distributed
    from sar_dist.transfer import Request, evaluate, print_result

    overrides = list(arguments.overrides)
    if arguments.limit is not None:
        overrides.append(f"limit={arguments.limit}")
    result = evaluate(Request(arguments.task, arguments.model, arguments.data, arguments.out, overrides))
    if distributed.is_main():
        print_result(result)
    distributed.shutdown()


def parse_arguments() -> argparse.Namespace:
    """The command line; ``--list`` and ``--help`` end here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=TerminalHelp, add_help=False)
    parser.add_argument("--task", metavar="NAME", help="one of --list")
    parser.add_argument("--model", metavar="SPEC", help=f"{SPEC_HELP}; default: the newest finished run in runs/")
    parser.add_argument(
        "--data",
        type=given_path,
        metavar="ROOT",
        help="the data set, as given or below $SAR_DIST_DATA or data/; default: the usual one of the task, there",
    )
    parser.add_argument(
        "--out",
        type=given_path,
        metavar="DIR",
        help="results go to DIR/TASK...; default: runs/NAME/transfer; of a checkpoint, TASK..._step_N there",
    )
    parser.add_argument(
        "--limit", type=whole_number(1, 2**53), metavar="N", help="only N samples of each split; marked partial"
    )
    parser.add_argument("--list", action="store_true", help="explain every task and stop")
    parser.add_argument("--help", "-h", action="store_true", help="this, and the settings of --task")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="a setting of the task")
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS
    )  # the deepspeed launcher passes it
    arguments = parser.parse_intermixed_args()  # settings may stand before and after options
    if arguments.list:
        print(fitted(task_list()))
        sys.exit(0)
    if arguments.help:
        parser.epilog = settings_help(arguments.task) if arguments.task else None
        parser.print_help()
        sys.exit(0)
    if not arguments.task:
        raise UserError("--task NAME is missing; --list explains every task")
    return arguments


def task_list() -> str:
    """Each task with its summary and the data it wants."""
    from sar_dist.transfer import TASKS

    return "\n".join(f"{name}\n    {task.summary}\n    data: {task.data_help}" for name, task in TASKS.items())


def settings_help(name: str) -> str:
    """The settings of a task with type, default and one line each."""
    from sar_dist.config import help_text
    from sar_dist.transfer import find_task

    return f"settings of {name}: {help_text(find_task(name).settings_type)}"


if __name__ == "__main__":
    run_tool(main)
