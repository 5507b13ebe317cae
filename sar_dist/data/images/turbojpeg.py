"""A part of a JPEG decoded alone, by TurboJPEG 3 (https://libjpeg-turbo.org), the library inside every other decoder here.

Those give no access to its decoding of regions, so its documented C interface is called: blocks beside the region are
neither transformed back nor coloured, which is most of what decoding takes after reading the codes. It is there where the
system has libturbojpeg 3, and in the wheel of the package ``turbojpeg``, whose Python module is not used. Nothing but JPEGs
of the common kind (``sound_jpeg.py``) is shown to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sar_dist.data.images.sound_jpeg import SoundJpeg

# Of turbojpeg.h.
_TJINIT_DECOMPRESS = 1
_TJPF_RGB = 0
_TJERR_WARNING = 0
_TJPARAM_JPEGWIDTH, _TJPARAM_JPEGHEIGHT = 5, 6


class _Region(ctypes.Structure):
    """``tjregion``."""

    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int), ("w", ctypes.c_int), ("h", ctypes.c_int))


class _Decompressor:
    """TurboJPEG's handle, for one image at a time; None: there is no memory for it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._destroy = library.tj3Destroy
        self.handle: int | None = library.tj3Init(_TJINIT_DECOMPRESS)

    def __del__(self) -> None:
        if self.handle is not None:
            self._destroy(self.handle)


_of_this_thread = threading.local()


def is_there() -> bool:
    """Whether this machine has TurboJPEG 3."""
    return _library() is not None


def decode_region(jpeg: SoundJpeg, box: tuple[int, int, int, int]) -> NDArray[np.uint8] | None:
    """The pixels inside a box, which are those of the whole image.

    One more block is decoded on each side of the box, as chroma is smoothed over the edge of a block.

    Args:
        jpeg: a file that decodes, whatever libjpeg warns of.
        box: (top, left, height, width) inside of it.

    Returns:
        Interleaved RGB (height, width, 3), perhaps a view; None: the library is not there, or gave no such part.
    """
    library = _library()
    if library is None:
        return None
    if not hasattr(_of_this_thread, "decompressor"):
        _of_this_thread.decompressor = _Decompressor(library)
    handle = _of_this_thread.decompressor.handle
    if handle is None:
        return None
    top, left, height, width = box
    data, rows = jpeg.first_rows(top + height)
    first_row = max(0, top - jpeg.block_height)
    # TurboJPEG begins at the edge of a block.
    first_column = max(0, (left // jpeg.block_width - 1) * jpeg.block_width)
    columns = min(jpeg.width, left + width + jpeg.block_width) - first_column
    pixels = np.empty((rows - first_row, columns, 3), np.uint8)
    source = (ctypes.c_char * len(data)).from_buffer(data)

    def succeeds(failed: int) -> bool:
        return not failed or library.tj3GetErrorCode(handle) == _TJERR_WARNING

    # Each only after the one before: with another size or region more would be written than there is room for.
    decoded = (
        succeeds(library.tj3DecompressHeader(handle, source, len(data)))
        and (library.tj3Get(handle, _TJPARAM_JPEGHEIGHT), library.tj3Get(handle, _TJPARAM_JPEGWIDTH))
        == (rows, jpeg.width)
        and not library.tj3SetCroppingRegion(handle, _Region(first_column, first_row, columns, rows - first_row))
        and succeeds(library.tj3Decompress8(handle, source, len(data), pixels.ctypes.data, 0, _TJPF_RGB))
    )
    if not decoded:
        return None
    return pixels[top - first_row :, left - first_column :][:height, :width]


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in _names():
        try:
            library = ctypes.CDLL(name)
            return _declared(library)
        except (OSError, AttributeError):  # there is none, or an older one, which decodes no regions
            continue
    return None


def _names() -> Iterator[str]:
    yield "libturbojpeg.dylib" if sys.platform == "darwin" else "libturbojpeg.so.0"
    with contextlib.suppress(PackageNotFoundError):
        yield from (str(path.locate()) for path in files("turbojpeg") or () if path.name.startswith("libturbojpeg"))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of what is called. Raises AttributeError where a function is missing."""
    handle, size = ctypes.c_void_p, ctypes.c_size_t
    library.tj3Init.argtypes, library.tj3Init.restype = [ctypes.c_int], handle
    library.tj3Destroy.argtypes, library.tj3Destroy.restype = [handle], None
    library.tj3GetErrorCode.argtypes = [handle]
    library.tj3Get.argtypes = [handle, ctypes.c_int]
    library.tj3DecompressHeader.argtypes = [handle, ctypes.c_void_p, size]
    library.tj3SetCroppingRegion.argtypes = [handle, _Region]
    library.tj3Decompress8.argtypes = [handle, ctypes.c_void_p, size, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return library
