"""The first ten minutes on a GPU: does everything run there, is it right, and how fast is it?

    python tools/gpu_check.py                                  every part, in ten minutes, on one GPU
    python tools/gpu_check.py --only steps train_step          these parts alone
    python tools/gpu_check.py --device cpu                     what needs no GPU, with tiny sizes

{parts}

A part that fails does not keep the next from running; a program that hangs is ended at its time limit. The figures are
printed, and written to gpu_check.json and gpu_check.md (a section for docs/benchmarks_gpu.md), with the programs' own
output in logs/. Needs the repository and the development packages, no network. Exit status: 0 all parts are well or were
skipped, 1 a part failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_check import PARTS, Report, run_parts, write_reports  # noqa: E402
from benchmarks.gpu_check.report import print_report, print_summary  # noqa: E402
from sar_dist.command_help import TerminalHelp, given_path, positive_number  # noqa: E402
from sar_dist.errors import UserError  # noqa: E402
from sar_dist.program import run_tool  # noqa: E402

MINUTES = 10.0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    lines = [f"    {part.name:<12}{part.title}{' (needs a GPU)' if part.needs_gpu else ''}" for part in PARTS]
    description = (__doc__ or "").format(parts="\n".join(["Parts:", *lines]))
    parser = argparse.ArgumentParser(description=description, formatter_class=TerminalHelp)
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=f"some of {', '.join(names)}")
    parser.add_argument("--out", type=given_path, default=Path("runs/gpu_check"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=positive_number(1e6), default=MINUTES, help="for all parts (default: %(default)g)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.device == "cuda":
        check_gpu()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {arguments.out}: {error.strerror}") from error
    console, command = Console(), " ".join(["python", *sys.argv])
    parts = [part for part in PARTS if arguments.only is None or part.name in arguments.only]

    def ended(reports: list[Report]) -> None:
        print_report(reports[-1], console)
        write_reports(reports, arguments.out, command)

    reports = run_parts(parts, arguments.out, arguments.device, arguments.minutes, ended)
    print_summary(reports, console)
    console.print(
        f"written: {arguments.out}/gpu_check.json, {arguments.out}/gpu_check.md", highlight=False, soft_wrap=True
    )
    return 1 if any(report.status == "failed" for report in reports) else 0


def check_gpu() -> None:
    """Raises UserError unless PyTorch can use a GPU here."""
    from sar_dist.devices import uses_cuda

    if not uses_cuda():
        raise UserError("PyTorch finds no GPU here; --device cpu runs the parts that need none, with tiny sizes")


if __name__ == "__main__":
    run_tool(main, alone=True)
