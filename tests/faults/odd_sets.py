"""A small grammar of odd data sets: trees and tars as people have them, drawn from a seed.

Each set says what is in it, in terms of plain files; what our readers make of it is compared with that elsewhere.
"""

from __future__ import annotations

import csv
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

# Lossless, so that pixels can be compared; under every extension that goes with the format.
_LOSSLESS = {"PNG": ("png", "PNG", "apng"), "BMP": ("bmp",), "TIFF": ("tif", "TIFF"), "PPM": ("ppm", "pnm")}
_CLASS_NAMES: tuple[Callable[[int], str], ...] = (
    str,
    lambda n: f"c{n}",
    lambda n: f"n{n:08d}",
    lambda n: f"Klasse {n}.é",
)
_SPLIT_FOLDERS = {"train": ("train", "Train", "TRAINING"), "val": ("val", "Val", "validation", "VALID")}
_LEFT_OVERS = (
    *("@eaDir/x.jpg/thumb.jpg", "__MACOSX/._x.png", ".ipynb_checkpoints/x.png", ".hidden/y.jpg", "._z.png"),
    *("#recycle/x.png", "@Recycle/y.jpg"),
)
_OTHER_FILES = ("notes.txt", "Thumbs.db", "x.heic", "labels.csv")
_BESIDE_CLASSES = ("loose.png", "train_images.tar", "labels.zip")

Truth = dict[str, list[tuple[str, int]]]


def image(number: int, kind: str) -> bytes:
    """A 3 x 2 image all of whose pixels tell its number."""
    pixels = np.full((2, 3, 3), (number % 256, number // 256, 77), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def odd_tree(root: Path, seed: int) -> Truth:
    """Write an ImageFolder tree; gives (class folder, number of the image) of each split's images."""
    draw = random.Random(f"tree {seed}")
    name = draw.choice(_CLASS_NAMES)
    classes = [name(n) for n in draw.sample(range(120), draw.randint(2, 12))]
    truth: Truth = {}
    number = 0
    for split, words in _SPLIT_FOLDERS.items():
        folder = root / draw.choice(words)
        found = truth.setdefault(split, [])
        present = classes if split == "train" else draw.sample(classes, draw.randint(1, len(classes)))
        for label in classes:
            (folder / label).mkdir(parents=True, exist_ok=True)
        for label in present:
            below = draw.choice(("", "", "images/", "a/b/c/"))
            for _ in range(draw.randint(1, 3)):
                kind = draw.choice([*_LOSSLESS])
                path = (
                    folder / label / f"{below}{draw.choice(('a.v2', 'b', 'ü'))}{number}.{draw.choice(_LOSSLESS[kind])}"
                )
                put(path, image(number, kind))
                found.append((label, number))
                number += 1
        for path in draw.sample([*_LEFT_OVERS, *_OTHER_FILES], draw.randint(0, 5)):
            put(folder / draw.choice(["", f"{present[0]}/"]) / path, image(999, "PNG"))
        for empty in draw.sample(["nothing", "zz", "0x"], draw.randint(0, 2)):
            (folder / empty).mkdir()
        for path in draw.sample(_BESIDE_CLASSES, draw.randint(0, 2)):
            put(folder / path, image(999, "PNG"))
        if draw.random() < 0.2:
            (folder / present[0] / "circle").symlink_to("..")
    return truth


def odd_table(root: Path, seed: int) -> tuple[Path, Truth]:
    """Write a CSV table of images as programs and people write it, and the images; gives (label, number) by split."""
    draw = random.Random(f"table {seed}")
    names = draw.sample([str, lambda n: f"c{n}", lambda n: f"Klasse, {n}é", lambda n: f"a  b\u200b{n}"], 1)[0]
    splits = draw.choice((("train",), ("train", "val"), ("Training", "validation")))
    extra = draw.sample(["", "width", "note", "path2"], draw.randint(0, 3))
    header = ["path", "label", *(["subset"] if len(splits) > 1 else []), *extra]
    draw.shuffle(header)
    rows, truth = [], {"val" if split.startswith("val") else "train": [] for split in splits}
    for number in range(draw.randint(len(splits), 12)):
        split, label = splits[number % len(splits)], number % 4
        folder = draw.choice(("", "./", "sub dir/", f"{root}/"))
        put(root / folder / f"{number}.png", image(number, "PNG"))
        values = {"path": f"{folder}{number}.png", "label": names(label), "subset": split, "note": 'say "x; y"\n, z'}
        rows.append([values.get(name, str(number)) for name in header])
        truth["val" if split.startswith("val") else "train"].append((names(label), number))
    text = io.StringIO(newline="")
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    separator, line_end = draw.choice(",;\t|"), draw.choice(("\n", "\r\n", "\r"))
    csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows([header, *rows])
    table = root / draw.choice(("t.csv", "t.tsv", "t.txt"))
    put(table, (draw.choice(("", "\ufeff")) + text.getvalue()).encode())
    return table, truth


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def odd_tars(root: Path, seed: int) -> None:
    """Write tars of one or two splits, in a format and with members as they occur."""
    draw = random.Random(f"tar {seed}")
    prefix = draw.choice(("", "medieval-", "my_set.", "trainees_", "v2 "))
    names = [f"{prefix}{split}{draw.choice(('-000', '_0', ''))}.tar" for split in ("train", "val")]
    names += draw.choice(([], [f"{prefix}test-0.tar"], ["train-val.tar"], ["extra.tar"], ["._x.tar"]))
    for place, name in enumerate(names):
        put(root / name, _tar(draw, 100 * place))


def _tar(draw: random.Random, first: int) -> bytes:
    folder = draw.choice(("", "", "./", "data.v2/", f"{'d' * 90}/{'é' * 60}/"))
    label = draw.choice(
        (str, str, lambda n: f" {n}\n", lambda n: f"{n:03d}", lambda n: f"{n}.0", lambda n: f"-{n}", hex)
    )
    members: list[tuple[str, bytes]] = []
    for number in range(first, first + draw.randint(1, 6)):
        kind = draw.choice([*_LOSSLESS])
        pair = [(f"{folder}k{number}.{draw.choice(_LOSSLESS[kind])}", image(number, kind))]
        pair.append((f"{folder}k{number}.cls", label(number % 5).encode()))
        members += draw.sample(pair, 2)
        if draw.random() < 0.2:
            members.append((f"{folder}k{number}.txt", b"a caption"))
    if draw.random() < 0.15:
        members.insert(draw.randrange(len(members)), draw.choice((("README", b"x"), ("._k1.png", b"x"))))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=draw.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
