"""Whether the palettes of label maps agree: a map's labels are its indices, whatever colours they stand for.

Maps that were drawn in colours and quantised one by one have an order of their own each, so that an index means something else
in every file. Entries that no pixel has do not count, nor does a palette of plain grey, which says nothing. One of greys in another
order holds the labels in its greys, as programs that make files smaller leave it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sar_dist.errors import UserError

_START = b"\x89PNG\r\n\x1a\n"
_KIND_OF_COLOURS = 25  # the byte that says it
_CHECKSUM_BYTES = 4
_ENTRIES = 256
# Maps that are decoded where palettes differ, to see which entries are used.
_DECODED = 200


def refuse_different_palettes(maps: Iterable[Path]) -> None:
    """Raise UserError where two of the maps have pixels of one index in different colours."""
    palettes = ((file, _palette(file)) for file in maps)
    coloured = [(file, palette) for file, palette in palettes if palette is not None and not _is_grey(palette)]
    for palette, file in {palette: file for file, palette in reversed(coloured)}.items():
        _refuse_greys_out_of_order(palette, file)
    if len({palette for _, palette in coloured}) < 2:
        return
    colours: dict[int, tuple[tuple[int, ...], Path]] = {}
    for file, _ in coloured[:_DECODED]:
        for index, colour in _used(file).items():
            known, where = colours.setdefault(index, (colour, file))
            if known != colour:
                raise UserError(
                    f"{where} and {file} have different colours for their index {index} ({_hex(known)}, {_hex(colour)}): their palettes "
                    "differ, and indices are taken for labels; write all maps with one palette, or as 8-bit grey whose values are the "
                    "labels (a table of the colours, and Image.convert('RGB') of each map, give them)"
                )


def _palette(file: Path) -> bytes | None:
    """The bytes of a PNG's palette; None: it has none, or cannot be read, which is said where its pixels are."""
    try:
        with file.open("rb") as content:
            data = content.read(_KIND_OF_COLOURS + 1)
            if not data.startswith(_START) or data[_KIND_OF_COLOURS:] != b"\x03":  # by palette
                return None
            content.seek(len(_START))
            while len(header := content.read(8)) == 8 and header[4:] not in (b"PLTE", b"IDAT"):
                content.seek(int.from_bytes(header[:4], "big") + _CHECKSUM_BYTES, os.SEEK_CUR)
            return content.read(min(int.from_bytes(header[:4], "big"), 3 * _ENTRIES)) if header[4:] == b"PLTE" else None
    except OSError:
        return None


def _refuse_greys_out_of_order(palette: bytes, file: Path) -> None:
    """Raise UserError for a map whose palette is of greys alone, and pixels that are brighter have lower indices."""
    entries = _entries(palette)
    used = sorted(_used(file).items()) if all(len({*entry}) == 1 for entry in entries) else []
    for (_, colour), (index, other) in itertools.pairwise(used):
        if other < colour:
            raise UserError(
                f"{file} has the grey {other[0]} for its index {index}, and {colour[0]} for a lower one, as programs leave grey maps of "
                "labels that make files smaller; indices are taken for labels: write the maps as 8-bit grey (Image.convert('L'))"
            )


def _is_grey(palette: bytes) -> bool:
    return all(entry == (index, index, index) for index, entry in enumerate(_entries(palette)))


def _entries(palette: bytes) -> list[tuple[int, ...]]:
    return [tuple(palette[start : start + 3]) for start in range(0, len(palette), 3)]


def _used(file: Path) -> dict[int, tuple[int, ...]]:
    """The indices that a map has, with their colours; none where it cannot be read."""
    try:
        with Image.open(file, formats=("PNG",)) as image:
            indices = np.unique(np.asarray(image))
            palette = np.asarray(image.getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return {}
    return {int(index): tuple(palette[index].tolist()) for index in indices if index < len(palette)}


def _hex(colour: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)
