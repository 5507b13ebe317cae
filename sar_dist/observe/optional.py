"""Libraries that only some destinations need."""

from __future__ import annotations

import importlib.util

from sar_dist.errors import UserError


def require(destination: str, library: str) -> None:
    """Raise UserError if ``library``, which ``destination`` needs, is not installed; does not import it."""
    if importlib.util.find_spec(library) is None:
        raise UserError(
            f"log.to={destination} needs {library}: pip install 'sar_dist[{destination}]', or leave {destination} out"
        )
