"""Writes the tables and figures of docs/results.md that follow from the records in docs/results/EXPERIMENT.

python docs/make_results.py

Whatever stands between <!-- records EXPERIMENT declared --> and <!-- end --> is replaced by the tables of that experiment's
declared analyses, and after <!-- records EXPERIMENT secondary --> by its other tables. Its figures are
docs/figures/EXPERIMENT_points.png, EXPERIMENT_curves.png and EXPERIMENT_heads.png. Only this repository is needed.
"""

from __future__ import annotations

import re
from pathlib import Path

from sar_dist.experiment import Results, collect, load_experiment, markdown_tables, write_figures

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "results.md"
SPECIFICATIONS = DOCS.parent / "configs" / "experiments"
SECTION = re.compile(r"(<!-- records (\w+) (declared|secondary) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Replace the tables of every section, and draw its figures."""
    text = PAGE.read_text()
    for name in dict.fromkeys(found[2] for found in SECTION.finditer(text)):
        write_figures(results_of(name), DOCS / "figures", f"{name}_")
    PAGE.write_text(with_tables(text))


def with_tables(page: str) -> str:
    """The page with the tables of its sections made anew."""
    return SECTION.sub(lambda found: f"{found[1]}{_section(found[2], found[3])}\n{found[4]}", page)


def results_of(name: str) -> Results:
    """What the records of an experiment say."""
    folder = DOCS / "results" / name  # of records, and with no runs in it
    return collect(load_experiment(SPECIFICATIONS / f"{name}.py"), folder, folder)


def _section(name: str, kind: str) -> str:
    results = results_of(name)
    made, declared = list(markdown_tables(results)), len(results.experiment.analysis)
    chosen = made[:declared] if kind == "declared" else made[declared:]
    return "\n\n".join(f"**{title}.** {note}\n\n{rows}" for title, note, rows in chosen) + "\n"


if __name__ == "__main__":
    main()
