"""Text that every file, page and terminal takes: of names that are no text in any encoding, and of control characters."""

from __future__ import annotations

import re

_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# A byte of a file's name that is not UTF-8, as Python keeps it.
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF


def legible(text: str) -> str:
    r"""``text`` with what cannot be written or seen as an escape: ``caf\x82`` for a folder of an old zip archive.

    Most texts are returned as they are; what is escaped once stays as it is.
    """
    return _NO_TEXT.sub(lambda found: escaped(found[0]), text)


def escaped(character: str) -> str:
    r"""A character as Python writes it in ASCII: ``\x82``, ``\u732b``."""
    code = ord(character)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode() if code > 0x7F else f"\\x{code:02x}"
