"""A web server on this machine that fails on demand."""

from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Faults:
    """What the web server does wrong: the next requests of a file whose name contains a key fail in the given ways."""

    planned: dict[str, list[str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)  # status by name of a file, whatever is asked of it
    ranges: bool = True

    def next(self, path: str) -> str | None:
        for part, faults in self.planned.items():
            if part in path and faults:
                return faults.pop(0)
        return None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    folder: Path
    faults: Faults

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what these tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():  # of which a bucket that may not be listed says "forbidden"
            self.send_error(self.server.faults.refused.get(self.path.rpartition("/")[2], 404))
            return
        data = path.read_bytes()
        status, wanted = 200, self.headers.get("Range")
        if wanted and self.server.faults.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, data = 206, data[int(first) : int(last) + 1]
        fault = None
        if body:
            self.server.faults.requests.append(self.path)
            fault = self.server.faults.next(self.path)
        refused = self.server.faults.refused.get(self.path.rpartition("/")[2])
        if refused or fault == "503":
            self.send_error(refused or 503)
            return
        if fault == "more than stated":
            self.send_endlessly(200)
            return
        if fault == "more than asked":
            self.send_endlessly(206)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.send(data, fault)

    def send_endlessly(self, status: int) -> None:
        """Without a length, until the other side hangs up."""
        self.send_response(status)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(b" " * 1_000_000)

    def send(self, data: bytes, fault: str | None) -> None:
        if fault in ("truncate", "reset", "stall"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(5)
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.wfile.write(data)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Faults]]:
    """Serve the files of ``folder``; yields the URL and the faults to plan."""
    server = Server(("127.0.0.1", 0), Handler)
    server.folder, server.faults = folder, Faults()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", server.faults
    server.shutdown()
    server.server_close()
