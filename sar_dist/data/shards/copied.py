"""Shards that hold the same samples as another one of their set, under another name: each image would be read twice."""

from __future__ import annotations

from collections.abc import Sequence

from sar_dist.data.shards.tar_index import IndexedShard
from sar_dist.errors import UserError


def copied_shards(shards: Sequence[IndexedShard]) -> str | None:
    """How many shards are copies by the checksums of their samples, and one of them; None: no shard is."""
    first: dict[str, str] = {}
    copies = [(first[s.checksums], s.name) for s in shards if first.setdefault(s.checksums, s.name) != s.name]
    if not copies:
        return None
    many = "1 shard holds" if len(copies) == 1 else f"{len(copies)} shards hold"
    return f"{many} the same samples as another one, such as {' and '.join(copies[0])}"


def refuse_copied_shards(shards: Sequence[IndexedShard], where: str) -> None:
    """Raise UserError where bare tars are copies of others: no list says that they are to be read twice."""
    copies = copied_shards(shards)
    if copies is not None:
        raise UserError(
            f"{where}: {copies}, so that its images would be read twice; move the copies away (what a manifest.json or _info.json lists "
            "is read as it says)"
        )
