"""Checksums of samples: crc32 of what is read, so that a byte that changed in a shard, or in its index, is never delivered.

crc32 (zlib's, IEEE 802.3) finds every change of one or two bits and every burst of up to 32 bits, and misses one in 4 10^9 of
all others. It is not against forgery: sha256 in the manifest is.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable

import numpy as np

# 36 bytes a sample: byte offset of the sample's first header, offset and size of the image's data, class label, the crc32 of
# the image's data alone, by which other sets know it, and the crc32 of the image (``image_checksum``) and of all members (headers, data and padding, in the order of the file).
RECORD = np.dtype(
    [
        ("start", "<i8"),
        ("image", "<i8"),
        ("image_size", "<u4"),
        ("label", "<i4"),
        ("content", "<u4"),
        ("checksum", "<u4"),
        ("members", "<u4"),
    ]
)
_PLACE_BYTES = RECORD.fields["checksum"][1]  # type: ignore[index]
_CHUNK = 1 << 20


def image_checksum(record: np.void, data_checksum: int) -> int:
    """The checksum of a record from the crc32 of its image's last header and data (0: it has no image).

    It covers the fields before it, place, label and content, too: an index that is altered while it is in use is noticed.
    """
    return data_checksum ^ zlib.crc32(record.tobytes()[:_PLACE_BYTES])


def is_unaltered(record: np.void, data: bytes) -> bool:
    """Whether a record and the image read by it, header block and data (empty: it has no image), are those that were indexed."""
    return image_checksum(record, zlib.crc32(data)) == record["checksum"]


def checksum_of_range(read_at: Callable[[int, int], bytes], start: int, end: int, checksum: int = 0) -> int:
    """crc32 of bytes [start, end) of a file, continuing ``checksum``."""
    for offset in range(start, end, _CHUNK):
        checksum = zlib.crc32(read_at(offset, min(_CHUNK, end - offset)), checksum)
    return checksum


def checksums_of_image(read_at: Callable[[int, int], bytes], header: int, start: int, end: int) -> tuple[int, int]:
    """crc32 of an image with its header, bytes [header, end) of a file, and of its data alone, [start, end)."""
    whole, data = zlib.crc32(read_at(header, start - header)), 0
    for offset in range(start, end, _CHUNK):
        part = read_at(offset, min(_CHUNK, end - offset))
        whole, data = zlib.crc32(part, whole), zlib.crc32(part, data)
    return whole, data


def digest_of(records: np.ndarray) -> str:
    """Hexadecimal digest of the checksums of all samples (samples,) of a shard: of its content, wherever labels come from."""
    return hashlib.blake2b(np.ascontiguousarray(records["members"]).tobytes(), digest_size=16).hexdigest()
