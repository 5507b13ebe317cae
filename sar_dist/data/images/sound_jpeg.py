"""JPEGs of the common kind that are whole, and whose decoding cannot fail: told from their markers (ITU-T T.81, annex B).

A hardware decoder says that an image is damaged only after the batch is on its way, or not at all; and a decoder that stops
before the end of a file says nothing of what follows. So a data worker walks through the file's markers, which takes a
fraction of the time of decoding. What is sequential with 8 bits and Huffman codes, grey or YCbCr in one scan, with all its
tables, and goes on to its end marker is sound: libjpeg may warn of it, but decodes it, whatever its rows hold. Anything
else is decoded whole, on the CPU, and so is the verdict on it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from operator import mul

import numpy as np

_START, _END = b"\xff\xd8", 0xD9
_BASELINE, _SCAN, _QUANTIZATION, _HUFFMAN, _JFIF, _ADOBE = 0xC0, 0xDA, 0xDB, 0xC4, 0xE0, 0xEE
_FRAMES = {0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xC9: "arithmetic", 0xCA: "arithmetic"}
# In the compressed data: the next marker that is neither a stuffed byte, a fill byte nor a restart.
_NEXT_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
# Horizontal and vertical sampling of the luminance, where both chrominances have 1 x 1: 4:4:4, 4:2:2, 4:4:0, 4:2:0.
_SAMPLINGS = {(1, 1), (2, 1), (1, 2), (2, 2)}
_YCBCR = 1  # Adobe's number of the transform
# Most files of a data set have the same ones, or one of a few.
_KEPT_TABLES = 256
# Of the 2^16 words of 16 bits, how many begin with one code of 1, 2, ... 16 bits.
_SPACE_OF_A_CODE = tuple(1 << (16 - length) for length in range(1, 17))
# A larger image takes more of the device's memory than it saves time.
_MOST_PIXELS = 1 << 24


class NotSound(Exception):
    """The image is decoded whole, on the CPU; the message says in a few words why."""


@dataclass(frozen=True)
class SoundJpeg:
    """A JPEG of this kind.

    Attributes:
        data: the whole file.
        height, width: pixels.
        height_at: where the file states its height, bytes.
        block_height, block_width: pixels that are coded together.
    """

    data: bytes
    height: int
    width: int
    height_at: int
    block_height: int
    block_width: int

    def first_rows(self, rows: int) -> tuple[bytearray, int]:
        """The same JPEG with a smaller height, whose first ``rows`` rows decode to the same pixels, and that height.

        The rows of such a file follow one another. One more block is kept, as a decoder smooths chroma over the edge of a
        block. A decoder warns of the bytes that are left over, and has to be told to go on at a warning.
        """
        height = min(self.height, -(-rows // self.block_height) * self.block_height + self.block_height)
        shorter = bytearray(self.data)
        shorter[self.height_at : self.height_at + 2] = height.to_bytes(2, "big")
        return shorter, height


def sound_jpeg(data: bytes) -> SoundJpeg:
    """What the markers of a sound JPEG say. Raises NotSound for any other file."""
    if not data.startswith(_START):
        raise NotSound("not a JPEG")
    try:
        return _Walk(data).described()
    except IndexError:
        raise NotSound("damaged") from None


class _Walk:
    """Reads the segments of one file up to its scan."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._frame: bytes | None = None
        self._frame_at = 0
        self._quantization: set[int] = set()
        self._huffman: set[int] = set()
        self._jfif = False
        self._adobe: int | None = None

    def described(self) -> SoundJpeg:
        data, position = self._data, 2
        while True:
            if data[position] != 0xFF:
                raise NotSound("damaged")
            marker = data[position + 1]
            if marker == 0xFF:
                position += 1
                continue
            length = data[position + 2] << 8 | data[position + 3]
            segment = data[position + 4 : position + 2 + length]
            if length < 2 or len(segment) != length - 2:
                raise NotSound("damaged")
            if marker == _SCAN:
                self._check_scan(segment)
                position += 2 + length
                break
            self._take(marker, segment, position + 4)
            position += 2 + length
        if _marker_after_scan(data, position) != _END:
            raise NotSound("several scans, or damaged")
        frame = self._frame
        assert frame is not None
        height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
        return SoundJpeg(data, height, width, self._frame_at + 1, 8 * (frame[7] & 15), 8 * (frame[7] >> 4))

    def _take(self, marker: int, segment: bytes, position: int) -> None:
        if marker in _FRAMES:
            raise NotSound(_FRAMES[marker])
        if marker == _BASELINE:
            if self._frame is not None:
                raise NotSound("damaged")
            self._frame, self._frame_at = _checked_frame(segment), position
        elif marker == _QUANTIZATION:
            self._quantization |= _quantization_tables(segment)
        elif marker == _HUFFMAN:
            self._huffman |= _huffman_tables(segment)
        elif marker == _JFIF:
            self._jfif = self._jfif or segment.startswith(b"JFIF\0")
        elif marker == _ADOBE and segment.startswith(b"Adobe"):
            self._adobe = segment[11]
        elif not (0xE0 <= marker <= 0xEF or marker in (0xDD, 0xFE)):  # application, restart interval, comment
            raise NotSound("an unusual segment")

    def _check_scan(self, segment: bytes) -> None:
        """Raises NotSound unless this is the one scan of all components, and all that it needs is there."""
        frame = self._frame
        if frame is None:
            raise NotSound("damaged")
        count = frame[5]
        components = [frame[6 + 3 * number : 9 + 3 * number] for number in range(count)]
        if count == 3 and not (self._jfif or (self._adobe is None and [each[0] for each in components] == [1, 2, 3])):
            raise NotSound("another colour space")
        if self._adobe is not None and count == 3 and self._adobe != _YCBCR:
            raise NotSound("another colour space")
        if segment[0] != count or len(segment) != 4 + 2 * count or segment[-3:] != b"\0\x3f\0":
            raise NotSound("several scans, or damaged")
        for number, component in enumerate(components):
            name, tables = segment[1 + 2 * number], segment[2 + 2 * number]
            needed = {tables >> 4, 0x10 | tables & 15}
            if name != component[0] or component[2] not in self._quantization or not needed <= self._huffman:
                raise NotSound("damaged")


def _marker_after_scan(data: bytes, position: int) -> int | None:
    """The first marker in compressed data from ``position`` on that is no restart; None: there is none."""
    following = np.frombuffer(data, np.uint8, offset=position)
    # Twice as fast as the expression, which looks at each stuffed byte; but most files have no restarts, which it tells apart.
    stops = (following[:-1] == 0xFF) & (following[1:] != 0)
    found = _NEXT_MARKER.search(data, position + int(stops.argmax())) if stops.any() else None
    return None if found is None else found[1][0]


def _checked_frame(segment: bytes) -> bytes:
    """The frame header. Raises NotSound for the kinds that not every hardware decoder does."""
    bits, height, width, count = segment[0], segment[1] << 8 | segment[2], segment[3] << 8 | segment[4], segment[5]
    if len(segment) != 6 + 3 * count or not height * width:
        raise NotSound("damaged")
    if bits != 8:
        raise NotSound(f"{bits} bits")
    if count not in (1, 3):
        raise NotSound("CMYK" if count == 4 else "unusual colours")
    if height * width > _MOST_PIXELS:
        raise NotSound(f"more than {_MOST_PIXELS >> 20} million pixels")
    sampling = [(segment[7 + 3 * number] >> 4, segment[7 + 3 * number] & 15) for number in range(count)]
    if sampling[0] not in _SAMPLINGS or any(each != (1, 1) for each in sampling[1:]):
        raise NotSound("unusual sampling")
    return segment


@functools.lru_cache(_KEPT_TABLES)
def _quantization_tables(segment: bytes) -> frozenset[int]:
    """Numbers of the 8-bit tables of a DQT segment."""
    if len(segment) % 65 or any(each > 3 for each in segment[::65]):
        raise NotSound("unusual tables, or damaged")
    return frozenset(segment[::65])


@functools.lru_cache(_KEPT_TABLES)
def _huffman_tables(segment: bytes) -> frozenset[int]:
    """Classes and numbers of the tables of a DHT segment, whose codes must fit into their lengths (T.81, annex C)."""
    found, position = set(), 0
    while position < len(segment):
        kind, counts = segment[position], segment[position + 1 : position + 17]
        symbols = segment[position + 17 : position + 17 + sum(counts)]
        space = sum(map(mul, counts, _SPACE_OF_A_CODE))
        # A difference of two 8-bit averages has at most 11 bits.
        wrong_symbol = not kind & 0x10 and max(symbols, default=0) > 11
        if kind not in (0, 1, 2, 3, 16, 17, 18, 19) or space >= 1 << 16 or len(symbols) != sum(counts) or wrong_symbol:
            raise NotSound("damaged")
        found.add(kind)
        position += 17 + sum(counts)
    return frozenset(found)
