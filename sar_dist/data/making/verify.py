"""Reading shards from end to end: what ``tools/make_shards.py verify`` reports."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from sar_dist.config import DataSettings
from sar_dist.data.images import UndecodableImage, decode_and_listen
from sar_dist.data.layout import CLASSES_NAME
from sar_dist.data.shards import (
    LABEL_EXTENSION,
    NO_IMAGE,
    NO_LABEL,
    DamagedShard,
    IndexedRecords,
    LabelledSet,
    LabelSource,
    LocalShards,
    Manifest,
    ShardEntry,
    ShardIndex,
    ShardReader,
    copied_shards,
    images_of_two_labels,
    index_and_check,
    manifests_at,
    say_what_is_odd,
)
from sar_dist.errors import UserError
from sar_dist.output import say, warn
from sar_dist.processes import available_cores
from sar_dist.progress import track
from sar_dist.worker_pool import forked_pool

# In a member's name: a line break would make two lines of one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass
class ShardReport:
    """What was found in one shard: damage that makes it useless, bad samples ("key: reason"), images whose decoder warns, its entry, samples by label."""

    name: str
    samples: int = 0
    damage: str | None = None
    bad: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    indexed: IndexedRecords | None = None
    labels: Counter[int] = field(default_factory=Counter)


def verify_shards(manifest: Manifest, *, deep: bool = False, processes: int | None = None) -> Iterator[ShardReport]:
    """Check every shard of ``manifest`` against it, in order, without trusting any stored index.

    Existence, size, tar structure, number of samples and sha256 (as far as the manifest states them), images and labels
    that are missing; ``deep`` also decodes every image.
    """
    check = partial(_verify_shard, manifest, deep)
    workers = min(processes or available_cores(), len(manifest.shards))
    with contextlib.ExitStack() as stack:
        reports = map(check, manifest.shards)
        if workers > 1:
            pool = stack.enter_context(forked_pool(workers))
            reports = pool.map(check, manifest.shards)  # type: ignore[assignment]
        yield from track(reports, len(manifest.shards), f"verifying the {manifest.split} shards")


def _verify_shard(manifest: Manifest, deep: bool, entry: ShardEntry) -> ShardReport:
    report = ShardReport(entry.name)
    try:
        size = Path(manifest.root, entry.name).stat().st_size
        if entry.bytes not in (None, size):
            raise DamagedShard(f"shard {entry.name}: {size} bytes, its manifest says {entry.bytes}")
        indexed = index_and_check(Path(manifest.root, entry.name), entry, manifest.root, manifest.labels)
        report.indexed = indexed
        report.samples = indexed[0].samples
        report.labels.update(indexed[1]["label"].tolist())
        report.bad.extend(_bad_samples(manifest, entry, indexed, deep, report.doubtful))
    except (DamagedShard, OSError) as error:
        report.damage = str(error)
    return report


def _bad_samples(
    manifest: Manifest, entry: ShardEntry, indexed: IndexedRecords, deep: bool, doubtful: list[str]
) -> Iterator[str]:
    """What is wrong with each bad sample; what decoders warn of goes to ``doubtful``."""
    shard, records = indexed
    alone = Manifest(manifest.root, manifest.split, manifest.classes, (entry,))
    shards = LocalShards(alone, ShardIndex((shard,), records, np.array([0, shard.samples])))
    unlabelled = records["label"] == NO_LABEL
    if manifest.num_classes is not None:
        unlabelled |= records["label"] >= manifest.num_classes
    suspect = np.arange(shard.samples) if deep else np.flatnonzero(unlabelled | (records["image"] == NO_IMAGE))
    # Images with label maps, say, have no class, and that is no fault: unless some sample of the set has a label.
    required = bool((records["label"] != NO_LABEL).any())
    with contextlib.closing(ShardReader(shards)) as reader:
        for index in suspect.tolist():
            sample = reader.read(0, index)
            if sample.image is None:
                yield f"{sample.key}: no image"
            if unlabelled[index] and (
                problem := _label_problem(reader, index, sample.label, manifest.labels, required=required)
            ):
                yield f"{sample.key}: {problem}"
            if deep and sample.image is not None:
                problem, warning = _decoding_problem(sample.image)
                if problem is not None:
                    yield f"{sample.key}: {problem}"
                elif warning is not None:
                    doubtful.append(f"{sample.key}: {warning}")


def _label_problem(reader: ShardReader, index: int, label: int, labels: LabelSource, *, required: bool) -> str | None:
    """What is wrong with the label of a sample that has no usable one; None: it has none, and need not have one."""
    if label != NO_LABEL:
        return f"label {label} is beyond the classes of the manifest"
    _, members = reader.members(0, index)
    found = labels.found(members)
    if found is not None:
        return f"label {found} is neither a class number (digits in 0..n-1) nor a word of {CLASSES_NAME}"
    return f"no label in {labels.where}" if required or labels.fields else None


def _decoding_problem(image: bytes) -> tuple[str | None, str | None]:
    """Why an image cannot be decoded; else what its decoder warns of."""
    try:
        return None, decode_and_listen(image, DataSettings().max_pixels)[1]
    except UndecodableImage as problem:
        return str(problem), None


def _report_unlabelled(reports: Sequence[ShardReport], labels: LabelSource) -> None:
    """Count the samples of shards without any label as bad where others have labels; a shard alone cannot tell."""
    if not any(report.labels.keys() - {NO_LABEL} for report in reports):
        return
    for report in reports:
        if report.labels.keys() == {NO_LABEL} and not report.bad:
            report.bad.append(
                f"none of its {report.samples} samples has a label in {labels.where}, unlike those of other shards"
            )


def verify_folder(
    folder: Path, *, deep: bool = False, processes: int | None = None, label: str = LABEL_EXTENSION
) -> None:
    """Verify all splits in ``folder`` and print what was found. Raises UserError if anything is damaged or bad."""
    problems = 0
    for manifest in manifests_at(folder, label):
        reports = list(verify_shards(manifest, deep=deep, processes=processes))
        _report_unlabelled(reports, manifest.labels)
        for report in reports:
            for line in [report.damage] if report.damage else [f"shard {report.name}: {bad}" for bad in report.bad]:
                say(_CONTROL.sub(lambda found: repr(found[0])[1:-1], line))
                problems += 1
        _say_doubtful(reports)
        whole = [report.indexed for report in reports if report.indexed is not None]
        say_what_is_odd(manifest, [shard for shard, _ in whole])
        copies = copied_shards([shard for shard, _ in whole]) if manifest.uncounted else None
        if copies is not None:  # bare tars, which training refuses
            say(copies)
            problems += 1
        _say_two_labels(manifest, whole)
        samples = sum(report.samples for report in reports)
        damaged = sum(report.damage is not None for report in reports)
        bad = sum(len(report.bad) for report in reports)
        say(
            f"{manifest.split}: {len(reports)} shard{'' if len(reports) == 1 else 's'}, {damaged} damaged; {samples} samples, {bad} bad; "
            f"{_histogram(sum((report.labels for report in reports), Counter()), manifest.classes)}"
        )
    if problems:
        raise UserError(
            f"{problems} problems in {folder}, listed above; repair or remove what they were made from and make them again, or restore them"
        )


def _say_doubtful(reports: Sequence[ShardReport]) -> None:
    found = [report for report in reports if report.doubtful]
    if found:
        warn(
            f"{sum(len(report.doubtful) for report in found)} images can be decoded, but libjpeg warns of them, so that parts may "
            f"be damaged; they count as good, as in training; the first in shard {found[0].name}, {found[0].doubtful[0]}"
        )


def _say_two_labels(manifest: Manifest, whole: Sequence[IndexedRecords]) -> None:
    """Say it where images are there under several labels; ``whole`` are the shards that are not damaged."""
    if not whole:
        return
    shards = tuple(shard for shard, _ in whole)
    records = np.concatenate([records for _, records in whole])
    index = ShardIndex(shards, records, np.cumsum([0, *(shard.samples for shard in shards)]))
    entries = tuple(ShardEntry(shard.name, shard.samples) for shard in shards)
    found = images_of_two_labels([LabelledSet(replace(manifest, shards=entries), index)])
    if found is not None:
        warn(f"{manifest.root}: {found}")


def _histogram(labels: Counter[int], classes: tuple[str, ...] | None) -> str:
    """How evenly the samples are spread over the classes that occur: the least and the most of one class."""
    counts = {label: count for label, count in sorted(labels.items()) if label != NO_LABEL}
    if not counts:
        return "no labels"
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[least] == counts[most]:
        return f"{len(counts)} classes of {counts[least]} samples each"
    extremes = f"fewest: {_class_name(least, classes)}, most: {_class_name(most, classes)}"
    return f"{len(counts)} classes of {counts[least]} to {counts[most]} samples ({extremes})"


def _class_name(label: int, classes: tuple[str, ...] | None) -> str:
    return f"label {label}" if classes is None or label >= len(classes) else f"label {label}, {classes[label]}"
