"""A set of shards as a source of a set with the same shards: names, keys, order and numbers of samples stay as they are.

So a sample has the same global id in both, and a run on either takes the same samples in the same batches with the same
random numbers: what differs is what was done to the images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.data.making.sources.tars import StoredSource, add_label_argument, manifests_of_splits
from sar_dist.data.shards import LABEL_EXTENSION, NO_LABEL


class CopiedShards(StoredSource):
    """Every sample of checked shards, the bad ones too, with its key and all its members.

    Raises UserError where the shards are damaged.
    """

    def __len__(self) -> int:
        return self._manifest.total

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        key, members = self._members(number)
        label = int(self._records["label"][number])
        return key, members if label == NO_LABEL else members | {LABEL_EXTENSION: str(label).encode()}

    def order(self, seed: int) -> np.ndarray:
        return np.arange(len(self))

    def shards(self, samples_per_shard: int) -> list[tuple[str, int]]:
        return [(shard.name, shard.samples) for shard in self._manifest.shards]

    def description(self) -> dict[str, Any]:
        return {**super().description(), "kind": "shards"}

    def digest(self) -> str:
        checksums = hashlib.sha256(np.ascontiguousarray(self._records["members"]).tobytes()).hexdigest()
        content = [self._manifest.fingerprint, checksums, self._label]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sources(given: argparse.Namespace) -> list[CopiedShards]:
    made = manifests_of_splits(given.source, given.label, given.split)
    return [CopiedShards(manifest, split, given.label) for split, manifest in made.items()]


COMMAND: SourceCommand = SourceCommand(
    name="shards",
    usage="shards SRC OUT",
    summary="the same shards, sample by sample; with --max-short-side 256 their images resized",
    add_arguments=add_label_argument,
    sources=_sources,
    arranges_samples=False,
)
