"""One page about one run, or several side by side: final figures, transfer results, curves, pictures of the attention.

It is one HTML file of less than 5 MB that opens without a network; the curves are beside it as a PNG file too.

python tools/report.py runs/vit_s_in100 runs/vit_s_in100_baseline

Runs with several seeds are compared seed by seed, with intervals, as experiments are:

python tools/report.py runs/method_seed0 runs/method_seed1 --baseline runs/plain_seed0 runs/plain_seed1 --out report
"""

from __future__ import annotations

import argparse

from sar_dist.command_help import TerminalHelp, given_path
from sar_dist.errors import UserError
from sar_dist.program import run_tool


def main() -> None:
    """Read the runs, write ``report.html`` and ``curves.png``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        # argparse's own has --baseline first, which would take every run for itself
        usage="%(prog)s RUN [RUN ...] [--baseline RUN [RUN ...]] [--out DIR]",
        formatter_class=TerminalHelp,
    )
    parser.add_argument("runs", nargs="+", type=given_path, metavar="RUN", help="run directories, such as runs/NAME")
    parser.add_argument(
        "--baseline",
        nargs="+",
        type=given_path,
        default=[],
        metavar="RUN",
        help="compare with these runs, which differ in their seed alone (default: the runs without regularizer)",
    )
    parser.add_argument(
        "--out",
        type=given_path,
        metavar="DIR",
        help="folder to write into (default: the folder report of the first run)",
    )
    arguments = parser.parse_args()

    from sar_dist.reports import (  # slow: not for --help
        check_place,
        figure_png,
        load_runs,
        png_or_note,
        report_figure,
        report_page,
    )

    out = arguments.out or arguments.runs[0] / "report"
    check_place(out / "report.html", ["curves.png"])
    named = {run.resolve() for run in arguments.runs}
    runs = load_runs([*arguments.runs, *(run for run in arguments.baseline if run.resolve() not in named)])
    curves = png_or_note("curves", lambda: figure_png(report_figure(runs)))
    page = report_page(runs, curves, arguments.baseline)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(page, encoding="utf-8")
        (out / "curves.png").write_bytes(curves)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    print(out / "report.html")


if __name__ == "__main__":
    run_tool(main, alone=True)
