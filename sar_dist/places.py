"""Where data are looked for: as given, below $SAR_DIST_DATA, below ``data/``."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "SAR_DIST_DATA"
DATA_FOLDER = "data"


def data_candidates(path: str | Path) -> list[Path]:
    """The places where a data set called ``path`` may be, in the order in which they are looked at."""
    below = [Path(os.environ.get(DATA_VARIABLE) or DATA_FOLDER), Path(DATA_FOLDER)]
    return list(dict.fromkeys(root / path for root in ([] if Path(path).is_absolute() else below)))


def find_data(path: str | Path) -> Path | None:
    """The first place that exists: ``path`` as given, then the ``data_candidates``; None if there is none."""
    return next((place for place in [Path(path), *data_candidates(path)] if place.exists()), None)


def looked_for(path: str | Path) -> str:
    """Where ``find_data`` looks, for a message."""
    return " or ".join(dict.fromkeys(str(place) for place in [Path(path), *data_candidates(path)]))
