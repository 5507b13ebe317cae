"""Lists and tables beside shards that look like their labels, and are not read: labels are members of samples.

Such a list may have the order of the files before they were packed, so that it is no source of labels even where its number of lines fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sar_dist.data.layout import is_left_over
from sar_dist.data.shards.tar_index import IndexedShard

_LISTS = (".txt", ".lst", ".csv", ".tsv", ".jsonl")
_HEADED = (".csv", ".tsv")
_MOST_FILES = 100
_MOST_BYTES = 1 << 28
_CHUNK = 1 << 20


def unread_lists(root: Path, shards: Sequence[IndexedShard], where: str) -> str | None:
    """What to say of lists in ``root`` with a line for each sample, of all shards or of the one that is called so; None: there are none.

    ``where`` is where labels are found.
    """
    samples = {Path(shard.name).stem: shard.samples for shard in shards}
    total = sum(samples.values())
    try:
        files = sorted(path for path in root.iterdir() if path.suffix.lower() in _LISTS and not is_left_over(path.name))
    except OSError:
        return None
    lists = [path.name for path in files[:_MOST_FILES] if _fits(path, {total, samples.get(path.stem, total)})]
    if not lists:
        return None
    many = f"{lists[0]} has" if len(lists) == 1 else f"{len(lists)} lists such as {lists[0]} have"
    return (
        f"{many} a line for each sample, and nothing of it is read: labels are in the samples themselves ({where}), and the order of "
        "lines need not be theirs; for labels of a list, unpack the images and give make_shards.py csv a table with their names"
    )


def _fits(path: Path, counts: set[int]) -> bool:
    """Whether a file has one of so many lines, or in a table one more."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return False
        lines, last = 0, b"\n"
        with path.open("rb") as file:
            while part := file.read(_CHUNK):
                lines, last = lines + part.count(b"\n"), part[-1:]
    except OSError:
        return False
    lines += last != b"\n"
    return lines in counts or (path.suffix.lower() in _HEADED and lines - 1 in counts)
