"""The destinations that ``log.to`` may name, and those of a user's own file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from sar_dist.errors import UserError
from sar_dist.extensions import import_object
from sar_dist.observe.destination import Destination, LoggedRun
from sar_dist.observe.tensorboard_destination import TensorBoard
from sar_dist.observe.wandb_destination import WeightsAndBiases

DESTINATIONS: dict[str, type[Destination]] = {kind.name: kind for kind in (TensorBoard, WeightsAndBiases)}


def destination_class(name: str) -> type[Destination]:
    """The class of a destination by its name, or by import path, ``my_module:MyDestination``.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    if ":" in name:
        found: Any = import_object(name, "log.to")
        if not (isinstance(found, type) and issubclass(found, Destination)):
            raise UserError(f"log.to={name}: that is no class derived from sar_dist.observe.Destination")
        return found
    if name not in DESTINATIONS:
        nearest = difflib.get_close_matches(name, DESTINATIONS, n=1, cutoff=0.4) or sorted(DESTINATIONS)
        raise UserError(
            f"log.to: there is no {name!r}; did you mean {' or '.join(nearest)}? One of your own is my_module:MyDestination"
        )
    return DESTINATIONS[name]


def check_destinations(names: Iterable[str]) -> None:
    """Find the names that do not exist, and the libraries that are missing here. Raises UserError."""
    for name in names:
        destination_class(name).check()


def open_destinations(names: Iterable[str], run: LoggedRun) -> tuple[Destination, ...]:
    """One destination for each different name, not started yet."""
    return tuple(destination_class(name)(run) for name in dict.fromkeys(names))
