"""What a source of samples for new shards is, and the one that most are: files on disk."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sar_dist.data.layout import (
    HOW_TO_FETCH,
    LFS_POINTER,
    MOST_POINTER_BYTES,
    ClassTable,
    Split,
    SplitChoice,
    split_of_folder,
)
from sar_dist.data.shards import Resizing
from sar_dist.errors import UserError
from sar_dist.files import read_regular
from sar_dist.keys import keyed_permutation
from sar_dist.output import warn

T = TypeVar("T")

_MAX_KEY = 80
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
# Neither absolute nor with "//", "." or ".." between slashes: one file has one such path.
_PLAIN_PATH = re.compile(r"(?![/.])(?!.*/[/.])", re.DOTALL)


class Source(ABC):
    """Samples to be written, numbered 0..len-1; ``classes`` are the class names by label, None where there are none.

    ``words`` is the numbering of a source whose labels are words; it is kept beside the shards as ``classes.json``, so
    that another table can be numbered by it. ``resized`` says in which steps images were made smaller.
    """

    split: Split
    classes: tuple[str, ...] | None
    words: ClassTable | None = None
    resized: tuple[Resizing, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        """Key (unique, without dots) and members ``{extension: data}`` of a sample. Raises UserError."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What the samples were made from, for the manifest; JSON values, the same wherever the source lies."""

    @abstractmethod
    def digest(self) -> str:
        """Changes when the list of samples changes: their keys, labels, and the sizes of their members."""

    @abstractmethod
    def size(self) -> int:
        """Bytes of all members, about; to compare with the free space."""

    def files(self) -> Iterator[str]:
        """Paths of the files that the samples are read from as they are; none where the digest knows their content."""
        return iter(())

    @property
    def prefix(self) -> str:
        """Beginning of the names of the shards."""
        return self.split

    def order(self, seed: int) -> np.ndarray:
        """(len,) the numbers of the samples in the order in which they are written; a permutation keyed by ``seed``."""
        return keyed_permutation(len(self), seed, "shards of", self.split)

    def shards(self, samples_per_shard: int) -> list[tuple[str, int]]:
        """Name and number of samples of each shard, in the order of the samples; evenly filled by default."""
        count = -(-len(self) // samples_per_shard)
        bounds = [len(self) * k // count for k in range(count + 1)]
        return [(f"{self.prefix}-{k:06d}.tar", bounds[k + 1] - bounds[k]) for k in range(count)]

    def remarks(self) -> str | None:
        """What there is to say about the samples once they are written."""
        return None

    def forget_counts(self) -> None:
        """Begin anew to count what ``remarks`` says: samples were read for another purpose than to be written."""
        return


class FileSample(NamedTuple):
    """A sample of files: key, path (below the source's root) of each member by extension, label (None: has none)."""

    key: str
    files: Mapping[str, str]
    label: int | None


class FileSource(Source):
    """Samples whose members are files below ``root``, and a ``cls`` member if they have a label.

    Args:
        kind: command that made the source, for the manifest.
        prefix: beginning of the names of the shards; by default the split.
        missing: what to do about a file that is not there.
    """

    def __init__(
        self,
        kind: str,
        root: Path,
        split: Split,
        samples: Sequence[FileSample],
        classes: tuple[str, ...] | None,
        prefix: str | None = None,
        missing: str = "restore it, or remove what names it",
    ) -> None:
        self.split = split
        self.classes = classes
        self._kind = kind
        self._root = root
        self._samples = samples
        self._prefix = prefix or split
        files = [path for sample in samples for path in sample.files.values()]
        sizes = [size_of_file(root / path, missing) for path in files]
        self._sizes = np.array(sizes, dtype=np.int64)
        empty = [path for path, size in zip(files, sizes, strict=True) if size == 0]
        warn_of_empty(root, empty)

    @property
    def prefix(self) -> str:
        return self._prefix

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        sample = self._samples[number]
        members = {extension: read_bytes(self._root / path) for extension, path in sample.files.items()}
        if sample.label is not None:
            members["cls"] = str(sample.label).encode()
        return sample.key, members

    def description(self) -> dict[str, Any]:
        return {"kind": self._kind, "folder": self._root.resolve().name}

    def digest(self) -> str:
        digest = hashlib.sha256("\n".join(map(repr, self._samples)).encode())
        digest.update(self._sizes.tobytes())
        return digest.hexdigest()

    def files(self) -> Iterator[str]:
        return (os.path.join(self._root, path) for sample in self._samples for path in sample.files.values())

    def size(self) -> int:
        return int(self._sizes.sum())

    def images(self) -> list[tuple[Path, int]]:
        """Path and size of each sample's first file, its image."""
        starts = np.cumsum([0, *(len(sample.files) for sample in self._samples[:-1])])
        return [
            (self._root / next(iter(sample.files.values())), int(self._sizes[start]))
            for sample, start in zip(self._samples, starts.tolist(), strict=True)
        ]


def warn_of_empty(root: Path, empty: Sequence[str]) -> None:
    """Say that there are files without content, if there are; such samples are kept, and counted in training."""
    if empty:
        warn(
            f"{root}: {len(empty)} files are empty, such as {empty[0]}, and will be bad samples; repair or remove them, "
            "and make the shards again"
        )


def size_of_file(path: Path, missing: str = "restore it") -> int:
    """Bytes of a source file; ``missing`` is what to do where it is not there. Raises UserError, also for a pointer of Git LFS."""
    try:
        size = path.stat().st_size
        # A pointer has the name of the image that a clone of the repository left out. Larger files are not opened here.
        pointer = len(LFS_POINTER) <= size <= MOST_POINTER_BYTES and read_regular(path).startswith(LFS_POINTER)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {missing}") from None
    if pointer:
        raise UserError(f"{path} {HOW_TO_FETCH}")
    return size


def read_bytes(path: Path) -> bytes:
    """Content of a source file. Raises UserError."""
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; repair or remove it and run the same command again"
        ) from None


def choose_splits(
    found: Mapping[str, T], choice: SplitChoice | None, where: Path, counts: Mapping[str, int] | None = None
) -> dict[Split, T]:
    """The splits to make of those that were found; says which ones are not used, and with ``counts`` how many rows they have.

    Raises UserError.
    """
    if choice is not None:
        if choice.source not in found:
            there = sorted(found)
            remedy = f"; choose one by --split {there[0]}={choice.wanted}" if there else ""
            raise UserError(f"{where} has no {choice.source} split, only {', '.join(there) or 'none'}{remedy}")
        others = {split: count for split, count in sorted((counts or {}).items()) if split != choice.source}
        if others:
            named = ", ".join(f"{count} of {split}" for split, count in others.items())
            warn(f"{where}: left out {sum(others.values())} rows of other splits ({named})")
        return {choice.wanted: found[choice.source]}
    splits: tuple[Split, ...] = ("train", "val")
    made: dict[Split, T] = {split: found[split] for split in splits if split in found}
    unused = sorted(found.keys() - made.keys())
    if not made:
        raise UserError(f"{where} has only a {unused[0]} split; say what to make of it, with --split {unused[0]}=val")
    for name in unused:
        rows = "" if counts is None else f" ({counts[name]} rows)"
        warn(f"{where}: the {name} split{rows} is not used; --split {name}=val makes validation shards of it")
    return made


def own_split(root: Path) -> Split:
    """The split that a source is of which does not say it otherwise: val if its folder is called so, else train.

    Raises UserError for a folder of test images, and for a link of another name to a split, of which the user must say what to make.
    """
    own = split_of_folder(root)
    if own == "test":
        raise UserError(f"{root} is a test split by name; say which split to make of it, with --split test=val")
    leads_to = split_of_folder(root.resolve())
    if own is None and leads_to in ("val", "test"):
        raise UserError(
            f"{root} leads to {root.resolve()}, a {leads_to} split by name, without being called so; say which split to make of "
            "it, with --split val or --split train"
        )
    return "val" if own == "val" else "train"


def unnamed_split(root: Path, choice: SplitChoice | None) -> str:
    """The split of a source whose files name none: the one that is asked for, or its folder's.

    Raises:
        UserError: the split that is asked for has a name that the folder has not; or as ``own_split``.
    """
    if choice is None:
        return own_split(root)
    folder = Path(os.path.abspath(root)).name.lower()
    if choice.source not in (choice.wanted, split_of_folder(root), folder):
        raise UserError(
            f"{root} has no {choice.source} split: nothing in it is called like one; --split {choice.wanted} makes that of all of it"
        )
    return choice.source


def first_repeated(root: Path, paths: Sequence[str]) -> tuple[int, int] | None:
    """Places of the first two of ``paths`` below ``root`` that are one file, however they are spelled; None: all differ."""
    top = f"{os.path.normpath(root)}/"
    places: dict[str, int] = {}
    for place, path in enumerate(paths):
        plain = path if _PLAIN_PATH.match(path) else os.path.normpath(os.path.join(root, path)).removeprefix(top)
        first = places.setdefault(plain, place)
        if first != place:
            return first, place
    return None


def unique_keys(paths: Sequence[str]) -> list[str]:
    """A key for the shards for each of the different ``paths``: the file name without extension where that will do.

    Keys are at most 80 letters, digits, "-" and "_". Where that changes a name, or the name occurs in several folders
    or with several extensions, a digest of the path makes the key unique.
    """
    stems = [path.rpartition("/")[2].rpartition(".")[0] for path in paths]
    names = [_UNSAFE.sub("_", stem)[:_MAX_KEY] for stem in stems]
    occurrences = Counter(names)
    return [
        name if name == stem and occurrences[name] == 1 else _with_digest(name, path)
        for name, stem, path in zip(names, stems, paths, strict=True)
    ]


def _with_digest(name: str, path: str) -> str:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return f"{name[: _MAX_KEY - len(digest) - 1]}-{digest}"
