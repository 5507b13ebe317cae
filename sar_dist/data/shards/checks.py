"""Opening shards: which ones there are, and that they are whole before anything costs GPU time."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from sar_dist.data.layout import (
    CLASSES_NAME,
    Split,
    check_parts,
    classes_file_of,
    folder_called,
    is_closed_archive,
    is_left_over,
    path_parts,
    read_label_words,
    refuse_doubled_parts,
    split_of_folder,
    split_of_word,
    splits_by_name,
)
from sar_dist.data.shards.copied import copied_shards, refuse_copied_shards
from sar_dist.data.shards.label_source import LABEL_EXTENSION, parse_label_source
from sar_dist.data.shards.lists_beside import unread_lists
from sar_dist.data.shards.manifest import (
    HOW_TO_MAKE,
    MANIFEST_NAME,
    TIMM_INFO_NAME,
    UNCOUNTED,
    WRITING_STATE_NAME,
    Manifest,
    NoShards,
    ShardEntry,
    check_entries,
    parse_manifest,
    parse_timm_info,
)
from sar_dist.data.shards.odd_members import held_instead, odd_members
from sar_dist.data.shards.remote import (
    MAX_MANIFEST_BYTES,
    check_remote_sizes,
    find_remote_manifest,
    is_url,
    read_remote_classes,
    with_versions,
)
from sar_dist.data.shards.shard_index import ShardIndex, build_index, find_index
from sar_dist.data.shards.tar_index import NO_IMAGE, NO_LABEL, IndexedShard, read_members
from sar_dist.data.shards.tar_members import DamagedShard
from sar_dist.errors import UserError
from sar_dist.output import warn


def load_manifest(path: str | os.PathLike, split: Split, label: str = LABEL_EXTENSION) -> Manifest:
    """Read the manifest of ``split`` at ``path``.

    ``path`` is a folder with our ``manifest.json``; one with timm's ``_info.json`` (the public ImageNet shards, read as
    they are); one of bare ``.tar`` files, which are indexed to count them (if the names tell train from validation
    shards, those of ``split``); or the parent of such folders called ``train`` and ``val``. It may be a URL, see
    ``sar_dist.data.shards.remote``, of anything but bare tars. ``label`` is where labels are found, see ``LabelSource``. Raises UserError.
    """
    if is_url(path):
        remote = find_remote_manifest(os.fspath(path), split)
        words = read_remote_classes(remote, os.fspath(path)) if remote.classes is None else None
        if words is not None:
            remote = replace(remote, classes=words.names)
        labels = parse_label_source(label, {} if words is None else words.labels)
        return with_versions(check_entries(replace(remote, labels=labels)))
    manifest = find_manifest(Path(path), split, label)
    if manifest.uncounted:
        _say_left_out(Path(manifest.root), split, tests=split_of_word(split) != "test")
    return counted(manifest)


def counted(manifest: Manifest) -> Manifest:
    """``manifest`` with the samples of bare tars counted: they are indexed for it. Raises UserError."""
    if manifest.uncounted:
        index = build_index(manifest)
        refuse_copied_shards(index.shards, manifest.root)
        manifest = replace(manifest, shards=tuple(ShardEntry(s.name, s.samples, s.bytes) for s in index.shards))
    return check_entries(manifest)


def find_manifest(root: Path, split: Split, label: str = LABEL_EXTENSION) -> Manifest:
    """As ``load_manifest``, without counting: bare tars have UNCOUNTED samples.

    A ``classes.json`` beside shards of others, above their folders train and val, or in train alone, says what class words mean.
    """
    manifest = _find_manifest(root, split)
    file = classes_file_of(Path(manifest.root), root) if manifest.classes is None else None
    if file is None or not _has_file(file.parent, file.name):
        return replace(manifest, labels=parse_label_source(label, {}))
    table = read_label_words(file)
    return replace(manifest, classes=table.names, labels=parse_label_source(label, table.labels))


def _find_manifest(root: Path, split: Split) -> Manifest:
    if not root.is_dir():
        do = "give the folder that it lies in" if root.is_file() else f"{HOW_TO_MAKE} or set data.{split}"
        raise UserError(f"no {split} shards: {root} is not a folder; {do}")
    if _has_file(root, MANIFEST_NAME):
        content = _read_json(root / MANIFEST_NAME)
        if split == "train" and isinstance(content, dict) and content.get("split") == "val":
            warn(f"{root}: these shards were made as a validation split, and are taken for training images")
        manifest = parse_manifest(content, str(root), split)
        _say_unlisted(root, MANIFEST_NAME, {shard.name for shard in manifest.shards})
        return manifest
    if (root / WRITING_STATE_NAME).is_dir():
        raise UserError(
            f"the shards in {root} are not finished; run the tools/make_shards.py command again to complete them"
        )
    if _has_file(root, TIMM_INFO_NAME):
        content = _read_json(root / TIMM_INFO_NAME)
        manifest = parse_timm_info(content, str(root), split)
        _say_unlisted(root, TIMM_INFO_NAME, _all_listed(content["splits"]))
        return manifest
    folder = folder_called(root, split)
    if folder is not None:
        beside = sorted(path.name for path in root.glob("*.tar") if not is_left_over(path.name))
        # Beside val alone they are the training shards.
        if beside and folder_called(root, "train") is not None:
            warn(f"{root}: left out {len(beside)} .tar files beside the folder {folder.name}, such as {beside[0]}")
        return _find_manifest(folder, split)
    names = _bare_tars(root, split)
    return Manifest(str(root), split, None, tuple(ShardEntry(name, UNCOUNTED) for name in names))


def _has_file(root: Path, name: str) -> bool:
    """Whether the folder has a file that says what its shards are. Raises UserError for a link to nothing or a folder called so."""
    path = root / name
    if os.path.lexists(path) and not path.is_file():
        what = "is a link to nothing" if path.is_symlink() and not path.exists() else "is no file"
        raise UserError(f"{path} {what}; restore or remove it")
    return path.is_file()


def _all_listed(splits: Mapping[str, Any]) -> set[str]:
    """The files that timm's description names in any split; those splits that nobody asked for need not be sound."""
    lists = [info.get("filenames") for info in splits.values() if isinstance(info, dict)]
    return {name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)}


def _say_unlisted(root: Path, file: str, listed: set[str]) -> None:
    others = sorted(path.name for path in root.glob("*.tar") if path.name not in listed and not is_left_over(path.name))
    if others:
        warn(f"{root}: left out {len(others)} .tar files that {file} does not name, such as {others[0]}")


def _bare_tars(root: Path, split: Split) -> list[str]:
    """Names of the tars of ``split`` in a folder without a manifest: all of them if no name names a split."""
    files = sorted(path.name for path in root.iterdir() if not is_left_over(path.name) and path.is_file())
    found = [name for name in files if name.lower().endswith(".tar")]
    broken = sorted(path.name for path in root.glob("*.tar") if path.is_symlink() and not path.exists())
    if broken:
        raise UserError(f"{root / broken[0]} is a link to nothing ({len(broken)} such links); restore or remove it")
    compressed = _closed_archives(root)
    if compressed and not found:
        raise UserError(
            f"{compressed[0]} and whatever else is in {root} is compressed, or not downloaded to its end; shards are read in "
            "place and must be plain tars: unpack them to .tar files (gunzip, unxz or unzstd), or fetch them again"
        )
    by_split = splits_by_name(found, str(root), split)
    names = by_split.get(split, []) if by_split else found
    refuse_doubled_parts(names, str(root))
    _refuse_other_split(root, names, split)
    if not names:
        below = _tars_below(root)
        what = f"{len(found)} .tar files, none of them named for it" if found else "no manifest and no .tar files"
        elsewhere = (
            f", but {len(below)} in the folders in it, such as {below[0]}; give their folder, or move them into one,"
            if below
            else ";"
        )
        raise NoShards(f"no {split} shards in {root}: {what}{elsewhere} {HOW_TO_MAKE} or set data.{split}")
    return names


def _say_left_out(root: Path, split: str, *, tests: bool) -> None:
    """What lies beside the bare tars of ``split`` in ``root`` and is not read; ``tests``: test shards too."""
    tars = sorted(path for path in root.glob("*.tar") if not is_left_over(path.name))
    names = [path.name for path in tars if path.is_file()]
    for what, left_out in (
        ("archives that are compressed or not downloaded to their end", _closed_archives(root)),
        ("folders called like tars", [path.name for path in tars if path.is_dir()]),
        ("pipes or devices called like tars", [p.name for p in tars if not p.is_file() and not p.is_dir()]),
        (".tar files in the folders in it", _tars_below(root)),
        ("test shards", splits_by_name(names, str(root), split).get("test") if tests else None),
    ):
        if left_out:
            warn(f"{root}: left out {len(left_out)} {what}, such as {left_out[0]}")


def _tars_below(root: Path) -> list[str]:
    """Paths below ``root`` of the tars in the folders there, which are not read with those in ``root``; sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        top = folder == str(root)  # where folders called like splits are read as such
        folders[:] = [name for name in folders if not is_left_over(name) and not (top and split_of_word(name))]
        # A link is looked into, but not below: it may lead to all of the machine's files.
        linked = [Path(folder, name) for name in folders if os.path.islink(Path(folder, name))]
        for place, names in [*([] if top else [(Path(folder), files)]), *((link, _names_in(link)) for link in linked)]:
            found += [place / name for name in names if name.lower().endswith(".tar") and not is_left_over(name)]
    return sorted(str(path.relative_to(root)) for path in found)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not ours to read, so not ours to count
        return []


def _closed_archives(root: Path) -> list[str]:
    return sorted(
        path.name
        for path in root.iterdir()
        if is_closed_archive(path.name) and not is_left_over(path.name) and path.is_file()
    )


def _refuse_other_split(root: Path, names: Sequence[str], split: Split) -> None:
    """Raises NoShards where one of the tars holds a packed folder of another split."""
    for name in names:
        first = _first_path(root / name)
        # Folders above that of the class, which may be called train itself, as in CIFAR-100.
        other = next(filter(None, map(split_of_word, path_parts(first)[:-2])), split)
        if other != split:
            raise NoShards(
                f"no {split} shards in {root}: {name} holds {other} images, such as {first}; {HOW_TO_MAKE} or set data.{split}"
            )


def _first_path(shard: Path) -> str:
    """Name of the first file in a tar; "" where there is none, or where it cannot be read, as its index will say."""
    try:
        with tarfile.open(shard, "r:") as tar:
            return next((member.name for member in tar if member.isfile()), "")
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return ""


def manifests_at(root: Path, label: str = LABEL_EXTENSION, *, test: bool = False) -> list[Manifest]:
    """The manifests of all splits at ``root``, as ``find_manifest`` gives them; with ``test``, also of a test split.

    Raises UserError if there is none.
    """
    if _has_file(root, MANIFEST_NAME):
        content = _read_json(root / MANIFEST_NAME)
        split: Split = "val" if isinstance(content, dict) and content.get("split") == "val" else "train"
        return [find_manifest(root, split, label)]
    found: list[Manifest] = []
    problems: dict[str, NoShards] = {}
    for split in ("train", "val"):
        try:
            found.append(find_manifest(root, split, label))
        except NoShards as error:
            problems[split] = error
    if test:
        with contextlib.suppress(UserError):  # nobody asked for it, so that it need not be sound
            other = find_manifest(root, cast("Split", "test"), label)
            if (other.root, other.shards) not in [(manifest.root, manifest.shards) for manifest in found]:
                found.append(other)
    if not found:  # of a folder without any split, what is wrong is said of train, unless there is val/ alone
        alone = folder_called(root, "train") is None and folder_called(root, "val") is not None
        raise problems["val" if alone else "train"]
    for bare, split in {manifest.root: manifest.split for manifest in found if manifest.uncounted}.items():
        _say_left_out(Path(bare), split, tests=not test)
    if len({(manifest.root, manifest.shards) for manifest in found}) == 1 < len(found):
        # Bare tars whose names tell nothing of a split are the same ones for all: what their folder is called decides.
        own = "val" if split_of_folder(root) == "val" else "train"
        return [manifest for manifest in found if manifest.split == own]
    return found


def _read_json(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise UserError(f"cannot read {path}: {size} bytes are no manifest (at most {MAX_MANIFEST_BYTES})")
        return json.loads(path.read_bytes())
    except RecursionError:
        raise UserError(f"cannot read {path}: nested too deeply for a manifest; {HOW_TO_MAKE}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it, or {HOW_TO_MAKE}") from None


def check_shards(
    manifest: Manifest,
    *,
    num_classes: int | None = None,
    max_bad_fraction: float = 1.0,
    processes: int | None = None,
) -> None:
    """Make sure, before any GPU time, that every shard is there and whole; call it on one rank of each node.

    Sizes and numbers of samples are compared with the manifest always; a shard that is new or has changed is walked
    header by header and its sha256 compared. At most ``max_bad_fraction`` of the samples may be without an image or
    without a label in 0..num_classes-1. Of remote shards, existence and size are looked at here and all the rest when
    they are staged. Raises UserError naming the shard and what is wrong with it.
    """
    if is_url(manifest.root):
        check_remote_sizes(manifest)
        return
    index = build_index(manifest, processes)
    say_what_is_odd(manifest, index.shards)
    labels = index.records["label"]
    unlabelled = (labels == NO_LABEL) if num_classes is None else (labels < 0) | (labels >= num_classes)
    if num_classes is not None:
        _refuse_labels_from_one(manifest, labels, num_classes)
    no_image = index.records["image"] == NO_IMAGE
    bad = np.flatnonzero(unlabelled | no_image)
    if len(bad) > max_bad_fraction * manifest.total and (labels == NO_LABEL).all():
        found = _label_found(manifest, index, int(bad[0]))
        held = "" if found is None else f" (a number, or a word of {CLASSES_NAME}): the first holds {found}"
        raise UserError(
            f"none of the {manifest.total} {manifest.split} samples in {manifest.root} has a label in {manifest.labels.where}{held}; data.label says "
            f"where labels are, such as data.label=json.label, and a {CLASSES_NAME} beside the shards what words mean"
        )
    if len(bad) > max_bad_fraction * manifest.total:
        shard, position = manifest.locate(int(bad[0]))
        wanted = (
            "a label" if num_classes is None else f"a label in 0..{num_classes - 1} (model.num_classes={num_classes})"
        )
        counts = ((int(no_image.sum()), "an image"), (int(unlabelled.sum()), wanted))
        causes = " and ".join(f"{count} without {what}" for count, what in counts if count)
        held = _image_found(manifest, index, int(bad[0])) if no_image[bad[0]] else ""
        found = str(labels[bad[0]]) if labels[bad[0]] != NO_LABEL else _label_found(manifest, index, int(bad[0]))
        raise UserError(
            f"{len(bad)} of the {manifest.total} {manifest.split} samples in {manifest.root} are bad, {causes}; the first is "
            f"sample {position} of shard {manifest.shards[shard].name}, with {'no label' if found is None else f'label {found}'}.{held} "
            f"`make_shards.py verify {manifest.root}` names every one; data.max_bad_fraction says how many are tolerated"
        )


def _label_found(manifest: Manifest, index: ShardIndex, sample: int) -> str | None:
    """What a local sample holds in the place of a label that is none, see ``LabelSource.found``."""
    members = _members_of(manifest, index, sample)
    return None if members is None else manifest.labels.found(members)


def _image_found(manifest: Manifest, index: ShardIndex, sample: int) -> str:
    """What a local sample without an image holds instead, as the end of a message."""
    members = _members_of(manifest, index, sample)
    return "" if members is None else f" It holds {held_instead(members)}."


def _members_of(manifest: Manifest, index: ShardIndex, sample: int) -> Mapping[str, bytes] | None:
    number, place = manifest.locate(sample)
    shard, start = index.shards[number], int(index.of_shard(number)["start"][place])
    try:
        with Path(manifest.root, shard.name).open("rb", buffering=0) as file:
            return read_members(
                lambda offset, count: os.pread(file.fileno(), count, offset),
                shard.bytes,
                shard.name,
                start,
                scattered=shard.scattered,
            ).data
    except (OSError, DamagedShard):  # it was read a moment ago; what is said goes without
        return None


def _refuse_labels_from_one(manifest: Manifest, labels: np.ndarray, num_classes: int) -> None:
    """Raises UserError for labels 1..N of N classes: one class of very many is too few bad samples to be noticed."""
    if (labels == num_classes).any() and not (labels == 0).any() and labels.max() == num_classes:
        raise UserError(
            f"the labels of the {manifest.split} samples in {manifest.root} begin at 1: none is 0, and some are {num_classes}, of "
            f"{num_classes} classes; number the classes from 0, or set model.num_classes={num_classes + 1} to keep class 0 without "
            "images"
        )


def shared_shards(one: Manifest, other: Manifest) -> list[str]:
    """Names in ``one`` of the shards that hold the same samples as one of ``other``; none where either is remote."""
    if is_url(one.root) or is_url(other.root):
        return []
    theirs = {shard.checksums for shard in open_index(other).shards}
    return [shard.name for shard in open_index(one).shards if shard.checksums in theirs]


def labels_in(manifest: Manifest) -> set[int]:
    """The class numbers that samples have; none where the shards are remote."""
    labels = [] if is_url(manifest.root) else np.unique(open_index(manifest).records["label"]).tolist()
    return set(labels) - {NO_LABEL}


def say_what_is_odd(manifest: Manifest, shards: Sequence[IndexedShard]) -> None:
    """One line for each kind of thing that is no damage, but may not be what the author of the shards had in mind."""
    check_parts([shard.name for shard in shards], manifest.root)
    copies = None if manifest.uncounted else copied_shards(shards)  # of bare tars they are refused
    if copies is not None:
        warn(f"{manifest.root}: {copies}; remove the copies")
    remark = unread_lists(Path(manifest.root), shards, manifest.labels.where)
    for line in [*odd_members(shards), *([] if remark is None else [remark])]:
        warn(f"{manifest.root}: {line}")


def open_index(manifest: Manifest) -> ShardIndex:
    """The index that ``check_shards`` stored, without looking at the shards again; built if there is none."""
    return find_index(manifest) or build_index(manifest)
