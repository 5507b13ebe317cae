"""A sample set with other labels: those of another numbering of the classes, or whatever its keys say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from sar_dist.transfer.samples import SampleSet

Relabel = Callable[[str, Mapping[str, bytes]], int]


class RelabelledSamples:
    """The samples of a set with the labels that a function of key and members gives.

    Args:
        samples: the set.
        relabel: (key, members) to label; picklable, for data-loader processes. May raise UserError.
        meaning: what the new labels depend on, for the fingerprint.
        classes: class names by new label, where they are known.
    """

    def __init__(
        self, samples: SampleSet, relabel: Relabel, meaning: str, classes: tuple[str, ...] | None = None
    ) -> None:
        self.classes = classes
        self._samples = samples
        self._relabel = relabel
        self.fingerprint = hashlib.sha256(f"{samples.fingerprint} {meaning}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        key, members = self._samples.sample(number)
        return key, {**members, "cls": str(self._relabel(key, members)).encode()}


def any_label(_key: str, _members: Mapping[str, bytes]) -> int:
    """A label for samples that need none, because ``extract`` takes one without a label for unreadable."""
    return 0
