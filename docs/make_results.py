"""Writes the tables and figures of the pages in docs that follow from the records in docs/results/EXPERIMENT.

python docs/make_results.py

Whatever stands between <!-- records EXPERIMENT declared --> and <!-- end --> is replaced by the tables of that experiment's
declared analyses; after `secondary` by its other tables; after `secondary of ARM ARM` by those of these arms, and with
`by seed N` by the means of that seed alone. Its figures are docs/figures/EXPERIMENT_points.png, EXPERIMENT_curves.png and
EXPERIMENT_heads.png, those of them that the page shows. Tables and figures have the arms that run without being asked for, unless arms are named.
Only this repository is needed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path

from sar_dist.experiment import Results, collect, load_experiment, markdown_tables, write_figures

DOCS = Path(__file__).resolve().parent
SPECIFICATIONS = DOCS.parent / "configs" / "experiments"
SECTION = re.compile(
    r"(<!-- records (\w+) (declared|secondary)(?: of ([^>]+?))?(?: by seed (\d+))? -->\n).*?(<!-- end -->)", re.DOTALL
)


def main() -> None:
    """Replace the tables of every section, and draw the figures."""
    for page in pages():
        text = page.read_text()
        page.write_text(with_tables(text))
        for name in {found[2] for found in SECTION.finditer(text)}:
            shown = set(re.findall(rf"\(figures/{name}_(points|curves|heads)\.png\)", text))
            write_figures(restricted(results_of(name)), DOCS / "figures", f"{name}_", shown)


def pages() -> list[Path]:
    """Those that have sections."""
    return [page for page in sorted(DOCS.glob("*.md")) if SECTION.search(page.read_text())]


def with_tables(page: str) -> str:
    """The page with the tables of its sections made anew."""
    return SECTION.sub(lambda found: f"{found[1]}{_section(*found.groups()[1:5])}\n{found[6]}", page)


def results_of(name: str) -> Results:
    """What the records of an experiment say."""
    folder = DOCS / "results" / name  # of records, and with no runs in it
    return collect(load_experiment(SPECIFICATIONS / f"{name}.py"), folder, folder)


def restricted(results: Results, arms: Collection[str] = (), seed: int | None = None) -> Results:
    """The results of these arms (none named: of those that are not optional), and of one seed or all."""
    chosen = arms or [arm.name for arm in results.experiment.arms if not arm.optional]
    values = {
        metric: {
            name: {each: value for each, value in by_arm[name].items() if seed in (None, each)}
            for name in chosen
            if name in by_arm
        }
        for metric, by_arm in results.values.items()
    }
    return dataclasses.replace(
        results,
        arms=tuple(arm for arm in results.arms if arm.name in chosen),
        runs={name: runs for name, runs in results.runs.items() if name in chosen},
        values={metric: found for metric, found in values.items() if found},
    )


def _section(name: str, kind: str, arms: str | None, seed: str | None) -> str:
    results = restricted(results_of(name), (arms or "").split(), None if seed is None else int(seed))
    made, declared = list(markdown_tables(results)), len(results.experiment.analysis)
    chosen = made[:declared] if kind == "declared" else made[declared:]
    if seed is not None:
        chosen = chosen[:1]  # one pair has no interval
    return "\n\n".join(f"**{title}.** {note}\n\n{rows}" for title, note, rows in chosen) + "\n"


if __name__ == "__main__":
    main()
