"""What became of samples that could not be used: counted, named once, and too many of them end the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sar_dist.errors import UserError
from sar_dist.output import warn

# A share is judged as if at least this many samples had been seen: one bad image in the first batch is no verdict.
MINIMUM_SEEN = 10_000
_LOGGED_KEYS = 20


class BadSamples:
    """Counts the bad samples that this process met and raises UserError when there are too many.

    Args:
        max_fraction: largest accepted share of bad samples among those seen (at least MINIMUM_SEEN are assumed).
        what: name of the data set in messages.

    ``seen`` and ``bad`` count occurrences, ``keys`` how often each bad sample was met, by "shard/key: reason".
    """

    def __init__(self, max_fraction: float, what: str) -> None:
        self.max_fraction = max_fraction
        self.seen = 0
        self.bad = 0
        self.keys: Counter[str] = Counter()
        self._what = what

    def state_dict(self) -> dict[str, int]:
        """What the limit goes by, as JSON values."""
        return {"seen": self.seen, "bad": self.bad}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Count what a process of an earlier start had counted too."""
        self.seen += state["seen"]
        self.bad += state["bad"]

    def add(self, seen: int, bad: int, keys: Iterable[str]) -> None:
        """Count ``seen`` more samples, ``bad`` of them bad, and the bad ones' keys. Raises UserError above the limit."""
        self.seen += seen
        self.bad += bad
        for key in keys:
            if key not in self.keys and len(self.keys) <= _LOGGED_KEYS:
                more = "; further ones are only counted" if len(self.keys) == _LOGGED_KEYS else ""
                warn(f"bad {self._what} sample {key}{more}")
            self.keys[key] += 1
        if self.bad > self.max_fraction * max(self.seen, MINIMUM_SEEN):
            raise UserError(
                f"{self.bad} of {self.seen} {self._what} samples could not be used, above data.max_bad_fraction="
                f"{self.max_fraction:g}; the last is {next(reversed(self.keys), 'unknown')}; repair the shards or raise the limit"
            )
