"""Writing shards: plain WebDataset tars of a source's bytes, the same to the last bit however they are made.

The samples of a source are permuted by the seed once, and shard k is a fixed slice of that order, so the number of
processes does not matter; the time of all members is 0. A shard appears under its name whole or not at all, the manifest
is written last, and an interrupted command that is given again goes on after the shards that are finished. The manifest
repeats what the shards were begun with, so that the same command also recognises a split that it had finished: by the
names, sizes and labels of its samples, and by the bytes of some of them. Times of files do not count, as copies have others.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from sar_dist.data.layout import CLASSES_NAME, class_table_content
from sar_dist.data.making.sources import Source
from sar_dist.data.shards import (
    BLOCK,
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    WRITING_STATE_NAME,
    LabelledSet,
    Manifest,
    ShardEntry,
    images_of_two_labels,
    index_new_shards,
    parse_manifest,
    resizing_content,
    shared_images,
    split_key,
)
from sar_dist.errors import UserError
from sar_dist.files import PART_FILES, CannotWrite, atomic_write, check_space, make_folder, write_durably
from sar_dist.output import say, warn
from sar_dist.processes import available_cores
from sar_dist.progress import track
from sar_dist.worker_pool import forked_pool

SAMPLES_PER_SHARD = 1250
MAX_MEMBER_NAME = 100
_REMEDY = "choose another folder or remove it"
# Of the shards that are there, as many samples are made again and compared; whole sets, if they are no larger.
_COMPARED_SAMPLES = 1000
_COMPARED_SHARDS = 100
# Headers and padding of a sample's members, bytes.
_OVERHEAD = 4 * BLOCK


@dataclass(frozen=True)
class WritingOptions:
    """Seed of the permutation, largest number of samples in a shard, number of processes (None: one a core)."""

    seed: int = 0
    samples_per_shard: int = SAMPLES_PER_SHARD
    processes: int | None = None


def write_shards(source: Source, folder: Path, options: WritingOptions) -> Manifest:
    """Write all samples of ``source`` as shards, index and manifest into ``folder``; what the same call left is taken up.

    Raises UserError if the folder holds anything else, the source is empty or unreadable, or the disk is full; whatever
    is finished by then is taken up when the same call is made again.
    """
    if len(source) == 0:
        raise UserError(f"nothing to write to {folder}: the {source.split} source holds no samples")
    state = folder / WRITING_STATE_NAME
    plan = json.loads(json.dumps(_plan(source, options)))
    if (finished := _made_before(source, folder, plan)) is not None:
        _refuse_other_bytes(source, [(folder / name, part) for name, part in _parts(source, options)])
        shutil.rmtree(state, ignore_errors=True)  # of a process that was killed while it tidied up
        say(f"{folder} was finished by an earlier call")
        return finished
    _claim(folder, state, plan)
    try:
        with FileLock(state / "lock", timeout=0):
            manifest = _write_all(source, folder, state, options, plan)
            shutil.rmtree(state)
            return manifest
    except CannotWrite as error:
        raise UserError(f"{error}, and give the same command again: what is finished is kept") from error
    except Timeout:
        raise UserError(f"another process is writing shards to {folder}") from None


def write_splits(sources: Sequence[Source], out: Path, options: WritingOptions) -> None:
    """Write each source to ``out/SPLIT``, a single one to ``out`` itself, and say what was written. Raises UserError."""
    train: Manifest | None = None
    for source in sources:
        folder = out / source.split if len(sources) > 1 else out
        manifest = write_shards(source, folder, options)
        size = sum(shard.bytes or 0 for shard in manifest.shards) / 1e6
        classes = "" if manifest.classes is None else f" of {manifest.num_classes} classes"
        shards = "1 shard" if len(manifest.shards) == 1 else f"{len(manifest.shards)} shards"
        say(f"{folder}: {manifest.total} samples{classes} in {shards}, {size:.1f} MB")
        if source.split == "train":
            train = manifest
        elif train is not None and (shared := shared_images(manifest, train)).found:
            warn(
                f"{folder}: {shared.found} of the {shared.looked_at} images are in {train.root} too; validation on images that "
                "are trained on says nothing about others"
            )
        if source.classes is not None and len(source.classes) == 1:
            warn(f"{folder} has a single class, {source.classes[0]}: there is nothing to tell apart; was it meant?")


def _plan(source: Source, options: WritingOptions) -> dict[str, Any]:
    return {
        "source": source.description(),
        "digest": source.digest(),
        "classes": _classes_digest(source),
        "split": source.split,
        "seed": options.seed,
        "samples_per_shard": options.samples_per_shard,
    }


def _classes_digest(source: Source) -> str:
    words = None if source.words is None else class_table_content(source.words)
    return hashlib.sha256(json.dumps([source.classes, words], sort_keys=True).encode()).hexdigest()


def _parts(source: Source, options: WritingOptions) -> list[tuple[str, np.ndarray]]:
    """The name of each shard, and the source's samples that it holds, in this order."""
    names, counts = zip(*source.shards(options.samples_per_shard), strict=True)
    return [*zip(names, np.split(source.order(options.seed), np.cumsum(counts)[:-1]), strict=True)]


def _refuse_other_bytes(source: Source, shards: Sequence[tuple[Path, np.ndarray]]) -> None:
    """Raise UserError unless finished shards begin with the samples that ``source`` has for them now.

    Samples are spread over the shards at random, so that the first ones of shards stand for all.
    """
    chosen = shards[:: -(-len(shards) // _COMPARED_SHARDS) or 1]
    for path, numbers in chosen:
        compared = numbers[: -(-_COMPARED_SAMPLES // len(chosen))]
        try:
            with path.open("rb") as file:
                other = next(
                    (key for key, data in _stored_samples(source, compared) if file.read(len(data)) != data), None
                )
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; {_REMEDY}") from None
        if other is not None:
            raise UserError(
                f"{path} holds another sample {other} than would be made now: the images or labels of its source have changed, "
                f"or the program that resizes them; {_REMEDY}"
            )


def _stored_samples(source: Source, numbers: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Key and bytes in a shard of the source's samples ``numbers``."""
    for number in numbers.tolist():
        key, members = source.sample(number)
        made = io.BytesIO()
        for extension, data in members.items():
            _write_member(made, key, extension, data)
        yield key, made.getvalue()


def _claim(folder: Path, state: Path, plan: dict[str, Any]) -> None:
    """Make ``folder`` ours, or recognise it as the unfinished result of the same plan."""
    if (state / "plan.json").exists():
        if _stored(state / "plan.json") != plan:
            raise UserError(
                f"{folder} holds unfinished shards of another source, other labels or other options; {_REMEDY}"
            )
        return
    if folder.exists() and any(entry.name != WRITING_STATE_NAME for entry in folder.iterdir()):
        raise UserError(f"{folder} is not empty; {_REMEDY}")
    make_folder(state)
    write_durably(state / "plan.json", json.dumps(plan))


def _made_before(source: Source, folder: Path, plan: dict[str, Any]) -> Manifest | None:
    """What the same call has finished in ``folder``; None if nothing is finished there.

    Raises:
        UserError: the shards there were made otherwise, or are not all there.
    """
    if not (folder / MANIFEST_NAME).exists():
        return None
    content = _stored(folder / MANIFEST_NAME)
    if not isinstance(content, dict) or content.get("plan") != _digest(plan):
        raise UserError(
            f"{folder} holds finished shards already, of another source, other labels or other options, or of an earlier version; "
            f"{_REMEDY}"
        )
    manifest = parse_manifest(content, str(folder), source.split)
    for shard in manifest.shards:
        file = folder / shard.name
        if not file.is_file() or file.stat().st_size != shard.bytes:
            raise UserError(
                f"{folder} holds finished shards already, of which {shard.name} is missing or damaged; {_REMEDY}"
            )
    return manifest


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _stored(file: Path) -> Any:
    """What a JSON file of an earlier call holds; None where that is damaged."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _write_all(source: Source, folder: Path, state: Path, options: WritingOptions, plan: dict[str, Any]) -> Manifest:
    for leftover in folder.rglob(PART_FILES):
        leftover.unlink()
    jobs = [_Job(folder, state, name, numbers) for name, numbers in _parts(source, options)]
    for parent in {path.parent for job in jobs for path in (job.folder / job.name, job.record)}:
        make_folder(parent)
    todo: list[_Job] = []
    done: list[tuple[Path, np.ndarray]] = []
    for job in jobs:
        if _finished(job) is None:
            todo.append(job)
        else:
            done.append((job.folder / job.name, job.numbers))
    _refuse_other_bytes(source, done)
    source.forget_counts()
    samples = sum(len(job.numbers) for job in todo)
    needed = int((source.size() / len(source) + _OVERHEAD) * samples)
    check_space(folder, needed, "the shards take about", "free some space or choose another folder")
    for _ in track(_run(source, todo, options.processes), len(todo), f"writing {source.split} shards"):
        pass
    entries = tuple(map(_require_finished, jobs))
    manifest = Manifest(str(folder), source.split, source.classes, entries, resized=source.resized)
    # Reads back what was written, and compares it with what was meant.
    index = index_new_shards(manifest, options.processes)
    entries = tuple(
        replace(entry, checksums=shard.checksums) for entry, shard in zip(entries, index.shards, strict=True)
    )
    manifest = replace(manifest, shards=entries)
    _write_manifest(manifest, source, options, plan)
    remarks = source.remarks()
    if remarks is not None:
        say(f"{folder}: {remarks}")
    found = images_of_two_labels([LabelledSet(manifest, index)])
    if found is not None:  # of which one at most is right
        warn(f"{manifest.root}: {found}")
    return manifest


@dataclass(frozen=True)
class _Job:
    """One shard to write: the source's samples ``numbers``, in this order."""

    folder: Path
    state: Path
    name: str
    numbers: np.ndarray

    @property
    def record(self) -> Path:
        return self.state / f"{self.name}.json"


def _finished(job: _Job) -> ShardEntry | None:
    """The entry of a shard that an earlier run finished."""
    try:
        entry = ShardEntry(**json.loads(job.record.read_text()))
        whole = (job.folder / job.name).stat().st_size == entry.bytes and entry.samples == len(job.numbers)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return entry if whole else None


def _require_finished(job: _Job) -> ShardEntry:
    entry = _finished(job)
    if entry is None:
        raise UserError(
            f"{job.folder / job.name} has changed while the shards were written; run the same command again"
        )
    return entry


_source: Source | None = None


def _start_process(source: Source) -> None:
    global _source
    _source = source


def _run(source: Source, jobs: list[_Job], processes: int | None) -> Iterator[ShardEntry]:
    """Write the shards of ``jobs``; yields as they are finished, in order."""
    workers = min(processes or available_cores(), len(jobs))
    if workers <= 1:
        yield from (_write_job(source, job) for job in jobs)
        return
    # The source may list millions of files: forked processes have it without a copy.
    with forked_pool(workers, _start_process, source) as pool:
        yield from pool.map(_write_inherited, jobs)


def _write_inherited(job: _Job) -> ShardEntry:
    assert _source is not None, "runs in processes that _start_process prepared"
    return _write_job(_source, job)


def _write_job(source: Source, job: _Job) -> ShardEntry:
    written = write_shard(job.folder / job.name, (source.sample(int(number)) for number in job.numbers))
    entry = replace(written, name=job.name)
    write_durably(job.record, json.dumps(asdict(entry)))
    return entry


class _HashingFile:
    """Counts and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.bytes += len(data)


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> ShardEntry:
    """Write samples ``(key, {extension: data})`` as one tar, atomically. Returns its manifest entry.

    Raises UserError for a key that a reader could not take apart, or when the disk is full.
    """
    count = 0
    with atomic_write(path) as raw:
        file = _HashingFile(raw)
        for count, (key, members) in enumerate(samples, start=1):  # noqa: B007 - the last value is the number of samples
            for extension, data in members.items():
                _write_member(file, key, extension, data)
        # The end marker is two zero blocks; archives are padded to whole records, as by every tar program.
        file.write(bytes(2 * BLOCK))
        file.write(bytes(-file.bytes % tarfile.RECORDSIZE))
    return ShardEntry(path.name, count, file.bytes, file.digest.hexdigest())


def _write_member(file: _HashingFile | BinaryIO, key: str, extension: str, data: bytes) -> None:
    name = f"{key}.{extension}"
    if split_key(name) != (key, extension) or len(name) > MAX_MEMBER_NAME or not name.isascii():
        raise UserError(
            f"{name!r} cannot be a member of a shard: no dots in keys, ASCII, at most {MAX_MEMBER_NAME} letters"
        )
    info = tarfile.TarInfo(name)
    info.size = len(data)
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    file.write(data)
    file.write(bytes(-len(data) % BLOCK))


def _write_manifest(manifest: Manifest, source: Source, options: WritingOptions, plan: dict[str, Any]) -> None:
    content = {
        "format": MANIFEST_FORMAT,
        "split": manifest.split,
        "classes": manifest.classes,
        "total": manifest.total,
        "seed": options.seed,
        "source": source.description(),
        "plan": _digest(plan),
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    if manifest.resized:
        content["resized"] = resizing_content(manifest.resized)
    if source.words is not None:
        write_durably(Path(manifest.root, CLASSES_NAME), json.dumps(class_table_content(source.words), indent=1))
    write_durably(Path(manifest.root, MANIFEST_NAME), json.dumps(content, indent=1))
