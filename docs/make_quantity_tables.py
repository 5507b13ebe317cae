"""Writes the tables of docs/observability.md that say what a run logs, from the table in the code.

python docs/make_quantity_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

from sar_dist.observe import quantity_rows

PAGE = Path(__file__).with_name("observability.md")


def main() -> None:
    """Replace the table below each heading that names a prefix."""
    text = PAGE.read_text()
    for prefix in ("train", "val"):
        table = "\n".join(quantity_rows(prefix)) + "\n"
        begin = text.index(f"(`{prefix}/`")
        found = re.compile(r"^\| name \| meaning \|\n(\|.*\n)+", re.MULTILINE).search(text, begin)
        assert found is not None, f"{PAGE} has no table after {prefix}/"
        text = text[: found.start()] + table + text[found.end() :]
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
