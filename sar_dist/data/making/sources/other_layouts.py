"""What a folder that is no tree of class folders may be, and the command that reads it: sets of torchvision, lists, tables, arrays.

Only names, and the beginnings of lists and tables, are looked at: never all images.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sar_dist.data.layout import is_archive_name, is_image_name, is_left_over, splits_of_path, words_of
from sar_dist.data.making.sources.image_lists import ListedImage, is_numbered, parse_list_line
from sar_dist.data.making.sources.torchvision_sets import has_splits, torchvision_command
from sar_dist.errors import UserError

_MOST_ENTRIES = 100
_MOST_FOLDERS = 300
_MOST_TABLES = 20
_LONGEST = 200
_READ = 1 << 16
_LOOKED_AT = 20
_LISTS, _TABLES = (".txt", ".lst"), (".csv", ".tsv")
_SEPARATORS = ",\t;|"
_EXTENSIONS = ("jpg", "jpeg", "png", "JPG", "JPEG", "PNG", "ppm", "bmp", "tif", "webp")
# What the columns of classes are called, the likeliest first.
_LABELS = (
    *("label", "class", "classid", "class_id", "classname", "class_name", "target", "category", "species", "breed"),
    *("dx", "diagnosis", "labels"),
)
_ARRAYS = re.compile(
    r"\.(mat|npy|npz|h5|hdf5|pkl|pickle|bin|mdb|lmdb|tfrecord|gz)$|(idx\d-ubyte|_batch|_batch_\d)$", re.IGNORECASE
)


def how_it_is_read(root: Path) -> str | None:
    """What ``root`` holds that another command than ``imagefolder`` reads, and that command; None: nothing that is known."""
    for folder in (root, *([root.parent] if _is_part(root) else [])):
        found = torchvision_command(folder) or _of_lists(folder) or _of_tables(folder)
        if found is not None:
            return found
    return None


def nested_splits(root: Path) -> Path | None:
    """The folder in ``root``, or in one in it, that holds a training split; None: there is none."""
    inner = [root / name for name in _listed(root)]
    inner += [folder / name for folder in inner for name in _listed(folder)]
    return next((folder for folder in inner if folder.is_dir() and has_splits(folder)), None)


def with_other_layout(root: Path, refusal: str) -> str:
    """What to say of a folder that is refused as class folders: what it is instead, else the ``refusal``, and arrays that lie there."""
    other = how_it_is_read(root)
    if other is not None and " --split test=val`" in other:  # of the training images only the folders tell
        return f"{refusal}; {other}"
    if other is not None:
        return f"{other}; as class folders it is refused: {refusal.partition(';')[0]}"
    files = (file for folder in _near(root) for file in _files(folder, None) if not is_archive_name(file.name))
    arrays = next((file for file in files if _ARRAYS.search(file.name)), None)
    if arrays is None:
        return refusal
    if any(is_image_name(file) for _, _, files in os.walk(root) for file in files):
        return (
            refusal
            if arrays.parent != root
            else f"{refusal}; labels in {arrays} are not read: write them as a table for `make_shards.py csv`"
        )
    return (
        f"{root} holds no images but files such as {arrays.relative_to(root)}, which is not read: unpack it if it is packed (gunzip), or save its images "
        "as CLASS/NAME.png, or as Parquet with the `datasets` library; `make_shards.py torchvision` reads CIFAR (cifar-10-batches-py), "
        "MNIST (train-images-idx3-ubyte), SVHN and STL10 by these names"
    )


def _is_part(root: Path) -> bool:
    """Whether a folder is called as those are in which a set has its images: its lists may lie beside it."""
    words = {*words_of(Path(os.path.abspath(root)).name)}
    return bool(words) and words <= {"images", "image", "imgs", "jpg", "data", "train", "training", "test"}


def _of_lists(root: Path) -> str | None:
    if is_numbered(root):
        return (
            f"the lists in {root} give classes and splits of its images: `make_shards.py lists {root} OUT` reads them"
        )
    unsplit = [folder for folder in _near(root) if not has_splits(folder)]  # else its folders say it
    named = [file for folder in unsplit for file in _files(folder, _LISTS) if _is_of_split(file)]
    lists = [file for file in named if _first_listed(file) is not None]
    training = [file for file in lists if splits_of_path(file.name) == {"train"} or "trainval" in file.name.lower()]
    if not training:
        return None
    train = max(training, key=lambda file: "trainval" in file.name.lower())
    others = [
        file for file in lists if file not in training and splits_of_path(file.name) and file.parent == train.parent
    ]
    val = next((file for file in others if _without_split(file) == _without_split(train)), next(iter(others), None))
    command = f"make_shards.py lists {train} OUT" + (f" --val {val}" if val is not None else "")
    return f"{train} lists images and their classes: `{command}` reads it"


def _is_of_split(file: Path) -> bool:
    return bool(splits_of_path(file.name)) or "trainval" in file.name.lower()


def _without_split(file: Path) -> str:
    return re.sub("trainval|training|train|validation|val|testing|test", "", file.name.lower())


def _first_listed(file: Path) -> ListedImage | None:
    """The first image of a list, where it is one whose images are there, and that says their classes; else None."""
    line = next((line for line in _beginning(file).splitlines() if line.strip() and not line.startswith("#")), "")
    try:
        image = parse_list_line(line.strip(), file, 1)
    except UserError:
        return None
    return image if _folder_of([image.name], file.parent) or _folder_of([image.name], file.parent.parent) else None


def _of_tables(root: Path) -> str | None:
    found = dict(
        found
        for folder in _near(root)
        for file in _files(folder, _TABLES)[:_MOST_TABLES]
        if (found := _table_command(file))
    )
    scored = [table for table in found if splits_of_path(table.name) in ({"test"}, {"val"})]
    train = next((table for table in found if "train" in splits_of_path(table.name)), None)
    chosen = train or next(iter(found), None)
    if chosen is None:
        return None
    beside = [table for table in scored if table.parent == chosen.parent] if train is not None else []
    more = (
        f"; {beside[0].name} beside it names others: the same with it, --split test=val; for labels in words OUT/classes.json must lie beside it"
        if beside
        else ""
    )
    return found[chosen] + more


def _table_command(table: Path) -> tuple[Path, str] | None:
    """The table and what to say of it, where one of its columns names images that are there; else None."""
    for separator in _SEPARATORS:
        rows = list(csv.DictReader(_beginning(table).splitlines(), delimiter=separator))[:_LOOKED_AT]
        columns = [name for name in (rows[0] if rows else {}) if name]
        label = next((name for wanted in _LABELS for name in columns if name.lower() == wanted), "NAME")
        others = [name for name in columns if name != label] if len(columns) > 1 else []
        for image in sorted(others, key=lambda name: not is_image_name(rows[0][name] or "")):
            names = [row[image].strip() for row in rows if row[image]]
            folder = _folder_of(names, table.parent)
            if folder is None:
                continue
            options = "" if image == "path" else f" --image-column {_quoted(image)}"
            options += "" if label == "label" else f" --label-column {_quoted(label)}"
            options += "" if folder == table.parent else f" --images {folder}"
            if splits_of_path(table.name) == {"test"}:
                options += " --split test=val"
            what = f"{table} names images" + (
                " and their classes" if label != "NAME" else ", and perhaps their classes in column NAME"
            )
            return table, f"{what}: `make_shards.py csv {table} OUT{options}` reads it"
    return None


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"


def _folder_of(names: list[str], place: Path) -> Path | None:
    """The folder ``place``, or one in it, where all of ``names`` are images; ``place`` where they lie in several of them; else None."""
    folders = [place, *(place / name for name in _listed(place) if (place / name).is_dir() and not is_left_over(name))]
    folders += [folder / name for folder in folders[1:] for name in _listed(folder) if (folder / name).is_dir()]
    if not names or any("\0" in name or len(name) > _LONGEST for name in names):
        return None
    del folders[_MOST_FOLDERS:]
    if not any(_is_there(folder / names[0].lstrip("/")) for folder in folders):  # as of most columns
        return None
    there = [{name for name in names if _is_there(folder / name.lstrip("/"))} for folder in folders]
    if set().union(*there) != {*names}:
        return None
    return next((folder for folder, found in zip(folders, there, strict=True) if found == {*names}), place)


def _is_there(path: Path) -> bool:
    try:
        if is_image_name(path.name):
            return path.is_file()
        return any(os.path.isfile(f"{path}.{extension}") for extension in _EXTENSIONS)
    except (OSError, ValueError):
        return False


def _near(root: Path) -> Iterator[Path]:
    """A folder and the ones in it, where there are few: classes are many, and hold no lists."""
    yield root
    names = _listed(root)
    yield from (root / name for name in names if not is_left_over(name) and (root / name).is_dir())


def _files(folder: Path, extensions: tuple[str, ...] | None) -> list[Path]:
    names = [name for name in _listed(folder) if not is_left_over(name)]
    chosen = [name for name in names if extensions is None or name.lower().endswith(extensions)]
    return [folder / name for name in chosen if (folder / name).is_file()]


def _listed(folder: Path) -> list[str]:
    """The names in a folder that holds few, sorted; else none."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return names if len(names) <= _MOST_ENTRIES else []


def _beginning(file: Path) -> str:
    """The whole lines at the beginning of a text file; empty where it is none."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_READ)
        return (data if len(data) < _READ else data.rpartition(b"\n")[0]).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
