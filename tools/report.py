"""One page about one run, or several side by side: final figures, transfer results, curves, pictures of the attention.

It is one HTML file of less than 5 MB that opens without a network; the curves are beside it as a PNG file too.

python tools/report.py runs/vit_s_in100 runs/vit_s_in100_baseline --out report
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sar_dist.errors import UserError
from sar_dist.program import run_tool


def main() -> None:
    """Read the runs, write ``report.html`` and ``curves.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, such as runs/NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    arguments = parser.parse_args()

    from sar_dist.reports import figure_png, load_runs, report_figure, report_page  # slow: only when there is work

    runs = load_runs(arguments.runs)
    curves = figure_png(report_figure(runs))
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "curves.png").write_bytes(curves)
        (arguments.out / "report.html").write_text(report_page(runs, curves), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {arguments.out}: {error.strerror}") from error
    print(arguments.out / "report.html")


if __name__ == "__main__":
    run_tool(main)
