"""A client for web servers that takes no more of an answer into memory than was asked for, whatever the server says.

fsspec reads answers whole: everything that a server sends for a range, and all of a file of a server that knows no ranges.
"""

from __future__ import annotations

import re
from typing import Any

_PIECE_BYTES = 1 << 20
_WITHOUT_RANGE = 1 << 20  # messages of errors; files are read in ranges


async def get_client(**options: Any) -> Any:
    """An ``aiohttp.ClientSession``, as fsspec's ``get_client`` makes one, whose answers are bounded."""
    import aiohttp  # only where shards are on a web server

    class BoundedResponse(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            """The range that was asked for, also from an answer that holds the whole file; one byte of what is too much."""
            if self._body is None:
                start, length = asked_range(self.request_info.headers.get("Range"))
                is_range = self.status == 206 or "Content-Range" in self.headers
                skip, body = 0 if is_range or self.status >= 400 else start, bytearray()
                async for piece in self.content.iter_chunked(_PIECE_BYTES):
                    body += piece[skip:]
                    skip = max(0, skip - len(piece))
                    if len(body) > length:
                        self.close()
                        break
                self._body = bytes(body[: length + 1 if is_range else length])
            return self._body

    return aiohttp.ClientSession(**options, response_class=BoundedResponse)


def asked_range(header: str | None) -> tuple[int, int]:
    """First byte and number of bytes of a ``Range`` header such as "bytes=0-99"."""
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", header or "")
    return (int(match[1]), int(match[2]) - int(match[1]) + 1) if match else (0, _WITHOUT_RANGE)
