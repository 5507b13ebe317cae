"""How long it takes to find images that are there twice: under two labels in one set, and in both of two sets.

    python benchmarks/image_search.py [--samples 1281167] [--validation 50000] [--out FILE.json]

The sets are made up: indexes with sizes and checksums at random, a share of them repeated, and shards that are holes in files but
for the headers that are read. So what is measured is what a start does with the indexes (which are mapped and checked, as they are then), and the
comparison of a few hundred images by their bytes without a disk's or file server's time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tarfile
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sar_dist.data.layout import Split
from sar_dist.data.shards import (
    BLOCK,
    RECORD,
    IndexedShard,
    LabelledSet,
    Manifest,
    ShardEntry,
    images_of_two_labels,
    open_index,
    shared_images,
)
from sar_dist.data.shards.shard_index import index_paths, write_index

SAMPLES_PER_SHARD = 1250
CLASSES = 1000
REPEATED = 500


def made_up(folder: Path, split: Split, records: np.ndarray) -> Manifest:
    """A set with these records: the index, and shards of the right size that take no place on the disk."""
    folder.mkdir()
    parts = [records[start : start + SAMPLES_PER_SHARD].copy() for start in range(0, len(records), SAMPLES_PER_SHARD)]
    shards = []
    for number, part in enumerate(parts):
        ends = np.cumsum(3 * BLOCK + part["image_size"].astype(np.int64))
        part["start"] = np.concatenate([[0], ends[:-1]])
        part["image"] = part["start"] + BLOCK
        name, size = f"{split}-{number:06d}.tar", int(ends[-1])
        with (folder / name).open("wb") as file:
            file.truncate(size)
            for place in part["start"].tolist() if number in (0, len(parts) - 1) else ():  # where images are repeated
                file.seek(place)
                file.write(tarfile.TarInfo(f"{place}.jpg").tobuf())
        shards.append(IndexedShard(name, size, 0, len(part), False, 0, 0, ""))
    manifest = Manifest(str(folder), split, None, tuple(ShardEntry(s.name, s.samples) for s in shards))
    write_index(index_paths(manifest)[0], zip(shards, parts, strict=True))
    return manifest


def random_records(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Records of different images of 20 to 200 kB, with labels."""
    records = np.zeros(samples, RECORD)
    records["image_size"] = generator.integers(20_000, 200_000, samples)
    records["content"] = generator.integers(0, 1 << 32, samples)
    records["label"] = generator.integers(0, CLASSES, samples)
    return records


def seconds_of(rounds: int, action: Callable[[], object]) -> float:
    """Median seconds of ``action``."""
    return statistics.median(timeit.repeat(action, number=1, repeat=rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167, help="training images")
    parser.add_argument("--validation", type=int, default=50_000, help="validation images")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    different = random_records(arguments.samples, generator)
    twice = different.copy()
    twice[-REPEATED:] = twice[:REPEATED]
    twice["label"][-REPEATED:] += 1
    others = random_records(arguments.validation, generator)
    others[-REPEATED:] = different[:REPEATED]
    with tempfile.TemporaryDirectory() as folder:
        train, contradicting, val = (
            made_up(Path(folder, name), split, records)
            for name, split, records in (
                ("train", "train", different),
                ("twice", "train", twice),
                ("val", "val", others),
            )
        )

        def two_labels(manifest: Manifest) -> int:
            found = images_of_two_labels([LabelledSet(manifest, open_index(manifest))])
            return 0 if found is None else found.images

        found = (two_labels(train), two_labels(contradicting), shared_images(val, train).found)
        figures = {
            "index read": seconds_of(arguments.rounds, lambda: open_index(train)),
            "two labels, none": seconds_of(arguments.rounds, lambda: two_labels(train)),
            f"two labels, {REPEATED} images": seconds_of(arguments.rounds, lambda: two_labels(contradicting)),
            f"in both sets, {REPEATED} images": seconds_of(arguments.rounds, lambda: shared_images(val, train)),
        }
    print(
        f"{arguments.samples:,} training images, {arguments.validation:,} of validation; found {found[0]}, {found[1]} and {found[2]}"
    )
    for name, seconds in figures.items():
        print(f"{name:28} {seconds:7.3f} s")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
