"""Trees of class folders, the layout of torchvision's ImageFolder; ``sar_dist.data.layout`` says what is recognised."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.data.layout import (
    CLASSES_NAME,
    ClassDepth,
    ClassTable,
    ClassTree,
    Split,
    SplitChoice,
    chosen_split,
    class_folders,
    doubtful_words,
    folder_called,
    is_image_name,
    is_left_over,
    member_extension,
    order_remark,
    read_class_table,
    refuse_other_classes_files,
    remarks_on_lists,
    same_but_for_extension,
    split_folders,
    split_of_folder,
    split_of_word,
)
from sar_dist.data.making.sources.base import FileSample, FileSource, choose_splits, own_split, unique_keys
from sar_dist.data.making.sources.command import SourceCommand, positive
from sar_dist.data.making.sources.other_layouts import how_it_is_read, with_other_layout
from sar_dist.data.making.sources.subsets import (
    Subset,
    add_validation_argument,
    given_validation,
    thinned_out,
    with_validation,
)
from sar_dist.errors import UserError
from sar_dist.output import warn

_TABLES = ("metadata.csv", "metadata.jsonl")


class _Trees(NamedTuple):
    """The tree of class folders of each split, the one whose folders are the classes, and the file that names them."""

    splits: dict[Split, Path]
    numbering: Path
    classes_file: Path


def imagefolder_sources(
    root: Path,
    split: Split | SplitChoice | None,
    subset: Subset | None = None,
    validation: Subset | None = None,
    class_depth: ClassDepth | None = None,
) -> list[FileSource]:
    """The splits of an ImageFolder tree: those in ``root/train`` and ``root/val``, or ``root`` itself as ``split``.

    The classes are those of the training split, whatever split is made, named by ``classes.json`` where it exists.
    Without ``split``, a tree called val or validation is that, any other is train; the folder ``train`` beside a tree
    called val numbers its classes. ``subset`` thins out the training split and leaves a validation split whole;
    ``validation`` takes one out of a training split that has none beside it, before ``subset``. With ``class_depth`` the
    classes are the folders so many levels below the tree ("any": those that hold images). What is left out is counted on standard error. Raises UserError.
    """
    choice = chosen_split(split)
    try:
        trees = _find_trees(root, choice)
        if choice is None and len(trees.splits) > 1:
            _refuse_flat(trees.splits, class_depth)
        numbered = class_folders(trees.numbering, class_depth)
    except UserError as error:
        raise UserError(with_other_layout(root, str(error))) from None
    other = how_it_is_read(root) if class_depth is None and len(numbered.classes) == 1 else None
    if other is not None:
        name = numbered.classes[0].name
        raise UserError(f"{other}; its folders are one class alone, {name} (--class-depth 1 takes it for that)")
    made = _made(root, trees, numbered, subset, validation, class_depth)
    if class_depth is None and choice is None and len(made) == 1:
        other = how_it_is_read(root)
        if other is not None:
            _say(root, f"{other}; here the folders alone say what the images are")
    return made


def _made(
    root: Path,
    trees: _Trees,
    numbered: ClassTree,
    subset: Subset | None,
    validation: Subset | None,
    class_depth: ClassDepth | None,
) -> list[FileSource]:
    names = [folder.name for folder in numbered.classes]
    table = read_class_table(names, trees.classes_file)
    places = (root, trees.numbering, *trees.splits.values())
    refuse_other_classes_files(table, trees.classes_file, places)
    _say_of_tables(root, trees)
    lists = remarks_on_lists(table, trees.classes_file, places)
    remark = order_remark(names) if list(table.labels.values()) == list(range(len(names))) else None
    for each in (*numbered.remarks, remark, doubtful_words(names), *lists):
        if each is not None:
            _say(trees.numbering, each)
    if "train" not in trees.splits and trees.numbering in trees.splits.values() and not trees.classes_file.exists():
        _say(
            trees.numbering,
            f"there is no training split beside it, so its own {len(names)} folders number the classes; training images must "
            "be of the same classes",
        )
    found = {name: _labelled(folder, table, trees.numbering, class_depth) for name, folder in trees.splits.items()}
    if validation is not None:
        found = with_validation(found, validation, root)
    if subset is not None and "train" in found:
        found["train"] = thinned_out(found["train"], subset, trees.splits["train"])
    folders = trees.splits if validation is None else dict.fromkeys(found, trees.splits["train"])
    return [_source(folders[name], name, images, table) for name, images in found.items()]


def _find_trees(root: Path, choice: SplitChoice | None) -> _Trees:
    found = split_folders(root)
    others = [name for name in _folders(root) if split_of_word(name) is None]
    trees = {split: folder for split, folder in found.items() if _folders(folder)}
    if found and not trees and not others:
        class_folders(next(iter(found.values())))  # says what is there instead
    named = None if choice is None or choice.source in found else folder_called(root, choice.source)
    if trees and named is None:
        others = [name for name in others if _has_image(root / name)]
        if others and choice is None and not {"train", "val"} <= found.keys():
            split, folder = next(
                ((name, trees[name]) for name in ("train", "val") if name in trees), next(iter(trees.items()))
            )
            raise UserError(
                f"{root} holds {folder.name}, the name of a split, and other folders with images, such as {others[0]}; give a "
                "folder that holds nothing but splits, or nothing but classes, or take one split alone, by --split "
                f"{'test=val' if split == 'test' else split} ({folder})"
            )
        if others:
            _say(root, f"left out {len(others)} folders that are no splits, such as {others[0]}")
        splits = choose_splits(found, choice, root)
        chosen = next(iter(splits.values()))
        numbering = found.get("train") or _training_tree(chosen) or chosen
        if numbering not in (found.get("train"), chosen):
            _say(chosen, f"the classes are numbered as in {numbering}")
        return _Trees(splits, numbering, _classes_file(root, numbering))
    if choice is not None and named is not None:
        numbering = found.get("train", named)
        return _Trees({choice.wanted: named}, numbering, _classes_file(root, numbering))
    own = split_of_folder(root)
    if choice is not None and choice.source not in (choice.wanted, own):
        raise UserError(f"{root} has no {choice.source} split")
    wanted: Split = choice.wanted if choice is not None else own_split(root)
    train = _training_tree(root)
    if train is not None:
        _say(root, f"the classes are numbered as in {train}")
        return _Trees({wanted: root}, train, _classes_file(root, train.parent, train))
    return _Trees({wanted: root}, root, root / CLASSES_NAME)


def _training_tree(root: Path) -> Path | None:
    """The class folders of the training split beside a split: ``train``, or ``train/train`` for ``val/val``; None: there are none."""
    folder = Path(os.path.abspath(root))
    while split_of_folder(folder) not in (None, "train"):
        folder = folder.parent
        train = split_folders(folder).get("train")
        while train is not None and len(_folders(train)) == 1:
            inner = split_folders(train).get("train")
            if inner is None or not _folders(inner):
                break
            train = inner
        if train is not None and _folders(train):
            return train
    return None


def _refuse_flat(splits: Mapping[Split, Path], depth: ClassDepth | None) -> None:
    """Raise UserError where one of ``splits`` has no class folders and another one has, which can be made alone."""
    sorted_splits = [split for split, folder in splits.items() if _folders(folder)]
    for folder in splits.values():
        if sorted_splits and not _folders(folder):
            try:
                class_folders(folder, depth)
            except UserError as error:
                raise UserError(f"{error}; --split {sorted_splits[0]} makes that split alone") from None


def _classes_file(*folders: Path) -> Path:
    """The ``classes.json`` in the first of ``folders`` that has one."""
    files = [folder / CLASSES_NAME for folder in folders]
    return next((file for file in files if os.path.lexists(file)), files[0])


def _say_of_tables(root: Path, trees: _Trees) -> None:
    """Say that there is a table of the images, as the `datasets` library reads beside them, and that folders are read instead."""
    for folder in dict.fromkeys([root, *trees.splits.values()]):
        for name in _TABLES:
            if os.path.lexists(folder / name):
                _say(
                    folder,
                    f"{name} is not used, as folders say what the classes are; `make_shards.py csv {folder / name} OUT "
                    "--image-column file_name` takes them from it",
                )


def _labelled(root: Path, table: ClassTable, numbering: Path, depth: ClassDepth | None) -> list[tuple[str, int]]:
    """Path below ``root`` and label of every image; says what was left out."""
    tree = class_folders(root, depth)
    for folder in tree.classes:
        if folder.name not in table.labels:
            raise UserError(
                f"class folder {root / folder.name} is not among the {len(table.labels)} training classes in {numbering}; "
                "each image must be in a folder called like its class: rename or move it (`make_shards.py csv` takes a table "
                "of images and labels instead)"
            )
    for line in tree.left_out():
        _say(root, line)
    same = [path for folder in tree.classes for path in same_but_for_extension(folder.images)]
    if same:
        _say(
            root,
            f"{len(same)} images differ from another in the extension alone, such as {same[0]}; move away what is none",
        )
    return [(path, table.labels[folder.name]) for folder in tree.classes for path in folder.images]


def _source(root: Path, split: Split, found: Sequence[tuple[str, int]], table: ClassTable) -> FileSource:
    keys = unique_keys([path for path, _ in found])
    samples = [
        FileSample(key, {member_extension(path): path}, label) for key, (path, label) in zip(keys, found, strict=True)
    ]
    return FileSource("imagefolder", root, split, samples, table.names)


def _folders(root: Path) -> list[str]:
    """Names of the folders in ``root`` that are no leftovers, sorted."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if not is_left_over(entry.name) and entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None


def _has_image(root: Path) -> bool:
    return any(is_image_name(name) for _, _, files in os.walk(root) for name in files)


def _say(root: Path, what: str) -> None:
    warn(f"{root}: {what}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_validation_argument(parser)
    parser.add_argument(
        "--per-class", type=positive, metavar="N", help="only N training images of each class, drawn by --seed"
    )
    parser.add_argument(
        "--class-depth",
        type=_class_depth,
        metavar="N",
        help="the classes are the folders N levels below SRC (or its splits), whatever is below them; 2: SRC/GROUP/CLASS; "
        "any: every folder that holds images is a class",
    )


def _class_depth(text: str) -> ClassDepth:
    if text.lower() == "any":
        return "any"
    try:
        return positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor any") from None


def _sources(given: argparse.Namespace) -> list[FileSource]:
    subset = Subset(given.per_class, given.seed) if given.per_class else None
    return imagefolder_sources(given.source, given.split, subset, given_validation(given), given.class_depth)


COMMAND: SourceCommand = SourceCommand(
    name="imagefolder",
    usage="imagefolder SRC OUT",
    summary="SRC/CLASS/IMAGE, or SRC/train and SRC/val with such folders",
    add_arguments=_add_arguments,
    sources=_sources,
)
