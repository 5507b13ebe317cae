"""Train and evaluate a grid of configurations and seeds, and say what differs.

    python tools/experiment.py configs/experiments/small_cifar.py --out results/small_cifar --jobs 2

Ends in DIR/results.md (tables), DIR/experiment.html (tables and curves on one page) and pictures. Finished runs and
evaluations are skipped, interrupted ones go on. --arm and --seed choose some of the runs, for example to reproduce one
of them or to add a seed; the tables are of everything that is in DIR.

--records FOLDER: small files with everything that finished runs measured. Runs that have one count as finished, so that
an experiment goes on where none of its runs lie; those that finish here get one. A run that is in both is compared.

    python tools/experiment.py configs/experiments/confirm_tiny.py --out results/confirm_tiny --records docs/results/confirm_tiny --stage report

See docs/experiments.md.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sar_dist.command_help import TerminalHelp, given_path, positive_number, whole_number
from sar_dist.files import check_folder
from sar_dist.program import run_tool

if TYPE_CHECKING:
    from sar_dist.experiment import Experiment

STAGES = ("train", "evaluate", "report")
_MOST_MINUTES = 1e6  # a timer takes no more than some centuries
_MOST_JOBS = 10_000


def main() -> None:
    """Parse the command line and run the experiment's stages."""
    started = time.monotonic()
    given = parse_arguments()

    from sar_dist.experiment import (  # slow
        RunOptions,
        check_evaluation_data,
        check_programs,
        check_report,
        evaluate,
        load_experiment,
        train,
    )

    if given.nice:
        os.nice(19)  # what is started from here has it too
    deadline = None if given.minutes is None else started + 60 * given.minutes
    experiment = load_experiment(given.spec)
    for term, weight in given.term:
        experiment = experiment.with_term(given.onto, term, weight)
    experiment.select(given.arm, given.seed)
    options = RunOptions(given.out, given.jobs, given.launcher, records=given.records, deadline=deadline)
    stages = given.stage or STAGES
    if "report" in stages:
        if given.records is not None:
            check_folder(given.records, f"--records {given.records}")  # before hours of training
        check_report(given.out)
    if "evaluate" in stages:
        check_evaluation_data(experiment)  # before hours of training
    if "train" in stages or "evaluate" in stages:
        check_programs(experiment, given.arm, evaluations="evaluate" in stages)
    in_time = True
    if "train" in stages:
        in_time = train(experiment, given.arm, given.seed, options, say)
    if "evaluate" in stages and in_time:
        in_time = evaluate(experiment, given.arm, given.seed, options, say)
    if not in_time:
        if given.records is not None:
            keep(experiment, given.out, given.records)
        say(f"{given.minutes:g} minutes are over; everything is saved, the same command goes on from there")
        return
    if "report" in stages:
        report(experiment, given.out, given.records)


def report(experiment: Experiment, out: Path, records: Path | None) -> None:
    """Write the records, the tables and the page of everything that is finished."""
    from sar_dist.experiment import collect, print_tables, write_report

    if records is not None:
        keep(experiment, out, records)
    results = collect(experiment, out, records)
    page = write_report(results, out)
    print_tables(results)
    say(str(page))


def keep(experiment: Experiment, out: Path, records: Path) -> None:
    """Write the records of everything that is finished."""
    from sar_dist.experiment import collect, keep_records

    say(f"{keep_records(collect(experiment, out, records), records)} records of runs in {records}")


def say(line: str) -> None:
    """Print a line now, also into a file."""
    print(line, flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=TerminalHelp)
    parser.add_argument("spec", type=given_path, help="a file of configs/experiments/")
    parser.add_argument("--out", type=given_path, required=True, metavar="DIR", help="folder of the experiment")
    parser.add_argument("--arm", action="append", default=[], help="only this arm; may be repeated")
    parser.add_argument(
        "--seed", action="append", default=[], type=whole_number(0, 2**63 - 1), help="only this seed; may be repeated"
    )
    parser.add_argument(
        "--stage", action="append", choices=STAGES, help="only this stage; may be repeated (default: all of them)"
    )
    parser.add_argument(
        "--jobs", type=whole_number(1, _MOST_JOBS), default=1, metavar="N", help="runs at the same time (default: 1)"
    )
    parser.add_argument("--launcher", default="", help='starts each training, such as "deepspeed --num_gpus 8"')
    parser.add_argument(
        "--records", type=given_path, metavar="FOLDER", help="small files of finished runs, read and written"
    )
    parser.add_argument(
        "--term",
        action="append",
        default=[],
        type=_term,
        metavar="TERM=WEIGHT",
        help="one more arm: --onto with this term of the loss (docs/terms.md); may be repeated. To see it in the tables "
        "of --stage report, name it there too",
    )
    parser.add_argument("--onto", metavar="ARM", help="arm that --term is added to")
    parser.add_argument("--nice", action="store_true", help="take only time of the processor that nothing else wants")
    parser.add_argument(
        "--minutes",
        type=positive_number(_MOST_MINUTES),
        metavar="M",
        help="after this long ask what is running to save and stop, as in a lease that ends; the same command goes on",
    )
    given = parser.parse_args()
    if bool(given.term) != bool(given.onto):
        parser.error("--term TERM=WEIGHT and --onto ARM go together")
    return given


def _term(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not name or not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not TERM=WEIGHT with a positive weight")
    return name, value


if __name__ == "__main__":
    run_tool(main, alone=True)
