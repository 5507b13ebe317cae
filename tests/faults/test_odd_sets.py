"""Odd data sets: what our readers make of them is what plain tarfile, Pillow and the file system say, or a refusal."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest
from odd_sets import odd_table, odd_tars, odd_tree
from PIL import Image

from sar_dist.data import check_shards, load_manifest
from sar_dist.data.images import decode_image
from sar_dist.data.making.sources import CsvColumns, csv_sources, imagefolder_sources
from sar_dist.data.shards import LocalShards, ShardReader
from sar_dist.data.shards.checks import open_index
from sar_dist.errors import UserError

FEW, MANY = 25, 2000
Labelled = list[tuple[int, int]]


def number_in(data: bytes) -> int:
    """The number that an image tells, by our decoder and by Pillow alike."""
    ours = decode_image(data, 100)[:, 0, 0].tolist()
    assert ours == list(Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)))  # type: ignore[arg-type]
    return int(ours[0] + 256 * ours[1])


def check_tree(root: Path, seed: int) -> None:
    truth = odd_tree(root, seed)
    folders = {folder for folder, _ in truth["train"]}
    numbers = all(folder.isdigit() for folder in folders)
    order = sorted(folders, key=int) if numbers else sorted(folders)
    for source in imagefolder_sources(root, None):
        samples = [source.sample(number)[1] for number in range(len(source))]
        found = [(int(m["cls"]), number_in(next(v for k, v in m.items() if k != "cls"))) for m in samples]
        assert source.classes == tuple(order)
        assert sorted(found) == sorted((order.index(folder), number) for folder, number in truth[source.split])


def check_table(root: Path, seed: int) -> None:
    table, truth = odd_table(root, seed)
    words = sorted({" ".join(word.replace("\u200b", "").split()) for found in truth.values() for word, _ in found})
    sources = csv_sources(table, None, CsvColumns(), None)
    assert [source.split for source in sources] == sorted(truth)
    for source in sources:
        samples = [source.sample(number)[1] for number in range(len(source))]
        found = [(int(members["cls"]), number_in(members["png"])) for members in samples]
        expected = truth[source.split]
        if source.classes is None:
            assert sorted(found) == sorted((int(word), number) for word, number in expected)
        else:
            assert list(source.classes) == words
            clean = [(" ".join(word.replace("\u200b", "").split()), number) for word, number in expected]
            assert sorted(found) == sorted((words.index(word), number) for word, number in clean)


def independent(root: Path, split: str) -> Labelled:
    """(label, number) of the samples of a split by plain tarfile; -1 for a label that is no number."""
    found: dict[str, list[int]] = {}
    for path in root.glob("*.tar"):
        if not re.search(rf"(?<![a-z]){split}(?![a-z])", path.name) or path.name.startswith("."):
            continue
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.rpartition("/")[2].partition(".")
                if not key or not extension:
                    continue  # hidden, or README
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                sample = found.setdefault(f"{path.name} {key}", [-1, -1])
                if extension == "cls":
                    sample[0] = int(data) if data.strip().isdigit() else -1
                elif extension != "txt":
                    sample[1] = number_in(data)
    return sorted((label, number) for label, number in found.values())


def check_tars(root: Path, seed: int) -> bool:
    """Compare; whether the set was read and not refused."""
    odd_tars(root, seed)
    for split in ("train", "val"):
        try:
            manifest = load_manifest(root, split)
            check_shards(manifest)
        except UserError:
            return False
        reader = ShardReader(LocalShards(manifest, open_index(manifest)))
        found = []
        for shard, entry in enumerate(manifest.shards):
            for place in range(entry.samples):
                sample = reader.read(shard, place)
                assert sample.image is not None
                found.append((sample.label, number_in(sample.image)))
        reader.close()
        assert sorted(found) == independent(root, split)
    return True


@pytest.mark.parametrize("seed", range(FEW))
def test_trees(tmp_path: Path, seed: int) -> None:
    check_tree(tmp_path, seed)


@pytest.mark.parametrize("seed", range(FEW))
def test_tables(tmp_path: Path, seed: int) -> None:
    check_table(tmp_path, seed)


def test_tars(tmp_path: Path) -> None:
    read = [check_tars(tmp_path / str(seed), seed) for seed in range(FEW)]
    assert 5 < sum(read) < FEW


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_thousands_of_sets(tmp_path: Path) -> None:
    for seed in range(FEW, MANY):
        check_tree(tmp_path / f"tree {seed}", seed)
        check_tars(tmp_path / f"tar {seed}", seed)
        check_table(tmp_path / f"table {seed}", seed)
