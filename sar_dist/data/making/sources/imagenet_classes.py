"""What is said about ImageNet-1k's classes beside its images: which class a validation image is of, and what a class is called.

image-net.org says so in its development kit, where a MATLAB file numbers the WordNet synsets; Kaggle in two tables.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sar_dist.errors import UserError, described
from sar_dist.files import read_regular, read_text

DEVKIT, SOLUTION, SYNSETS = "ILSVRC2012_devkit_t12", "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_META, _GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
_SYNSET = re.compile(r"n\d{8}")


def is_synset(name: str) -> bool:
    """Whether ``name`` is a WordNet id as ImageNet calls its classes, such as n01440764."""
    return _SYNSET.fullmatch(name) is not None


@dataclass(frozen=True)
class ImageNetClasses:
    """What was found beside the images.

    Attributes:
        of_validation: synset by name without extension, such as ILSVRC2012_val_00000001; empty where nothing says it.
        words: what a synset is called ("tench, Tinca tinca"); empty where nothing says it.
    """

    of_validation: Mapping[str, str]
    words: Mapping[str, str]


def class_names(synsets: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """A name for each synset: its first word, with the synset where that is not one class's alone; or the synset itself."""
    first = [words.get(synset, synset).partition(",")[0].strip() for synset in synsets]
    count = Counter(first)
    return tuple(
        word if count[word] == 1 else f"{word} ({synset})" for word, synset in zip(first, synsets, strict=True)
    )


def read_classes(folders: Iterable[Path]) -> ImageNetClasses:
    """What the development kit (packed or not) or Kaggle's tables in ``folders`` say; the kit goes first.

    Raises:
        UserError: a file cannot be read, or is not what its name says.
    """
    folders = list(folders)
    kit = next((reader for folder in folders if (reader := _devkit(folder)) is not None), None)
    solution = next((folder / SOLUTION for folder in folders if (folder / SOLUTION).is_file()), None)
    table = next((folder / SYNSETS for folder in folders if (folder / SYNSETS).is_file()), None)
    words = {} if table is None else _words_of_table(table)
    if kit is not None:
        return _of_kit(*kit)
    return ImageNetClasses({} if solution is None else _of_solution(solution), words)


def _devkit(folder: Path) -> tuple[str, Callable[[str], bytes]] | None:
    """Name of the development kit in ``folder``, and what reads a file of it; None: there is none."""
    unpacked, packed = folder / DEVKIT, folder / f"{DEVKIT}.tar.gz"
    if unpacked.is_dir():
        return str(unpacked), lambda name: read_regular(unpacked / name)
    if packed.is_file():
        return str(packed), lambda name: _member(packed, f"{DEVKIT}/{name}")
    return None


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive, "r:gz") as tar:
        file = tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file.read()


def _of_kit(where: str, read: Callable[[str], bytes]) -> ImageNetClasses:
    from scipy.io import loadmat  # slow, for what most sources do not need

    try:
        synsets = loadmat(io.BytesIO(read(_META)), squeeze_me=True)["synsets"]
        # Those above have children, and no images of their own.
        leaves = [entry for entry in synsets if int(entry["num_children"]) == 0]
        numbered = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in leaves}
        words = {str(entry["WNID"]): str(entry["words"]) for entry in leaves}
        labels = [int(line) for line in read(_GROUND_TRUTH).split()]
        named = {_validation_name(place): numbered[label] for place, label in enumerate(labels, 1)}
    except Exception as error:  # gzip, tarfile and scipy raise nearly every type there is on damaged files
        raise UserError(
            f"cannot read {where} ({described(error)}); download the development kit of tasks 1 and 2 again"
        ) from error
    strange = next((name for name in numbered.values() if not is_synset(name)), None)
    if strange is not None:
        raise UserError(f"{where} calls a class {strange!r}, which is no synset such as n01440764")
    return ImageNetClasses(named, words)


def _of_solution(file: Path) -> dict[str, str]:
    named: dict[str, str] = {}
    for line, row in enumerate(csv.DictReader(io.StringIO(read_text(file))), 2):
        image, synset = row.get("ImageId"), (row.get("PredictionString") or "").partition(" ")[0]
        if not image or not is_synset(synset) or image in named:
            raise UserError(
                f"{file}: line {line} does not name one more image and its synset, as "
                "`ILSVRC2012_val_00000001,n01751748 1 2 3 4` does; download it again"
            )
        named[image] = synset
    return named


def _words_of_table(file: Path) -> dict[str, str]:
    words = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        synset, _, word = line.strip().partition(" ")
        if not is_synset(synset) or not word:
            raise UserError(
                f"{file}: line {number} does not name a class, as `n01440764 tench, Tinca tinca` does; download it again"
            )
        words[synset] = word
    return words


def _validation_name(place: int) -> str:
    return f"ILSVRC2012_val_{place:08d}"
