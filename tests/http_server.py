"""A loopback HTTP server for files of one folder, with ranges as object stores serve them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class RangeServer(ThreadingHTTPServer):
    """Serves a folder and notes each request."""

    daemon_threads = True

    def __init__(self, folder: Path, *, ranges: bool = True, refuse: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = ranges
        self.refuse = refuse
        """Status with which everything is refused."""
        self.forbidden: frozenset[str] = frozenset()
        """Paths that are refused with 403."""
        self.untold: frozenset[str] = frozenset()
        """Headers that answers are without."""
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and range of each request."""

    @property
    def url(self) -> str:
        """URL of the folder."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""

    def _answer(self, *, with_body: bool) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, asked))
        path = self.server.folder / self.path.lstrip("/")
        refuse = 403 if self.path in self.server.forbidden else self.server.refuse
        if refuse is not None or not path.is_file():
            self._send(refuse or 404, {}, b"", with_body=with_body)
            return
        body = path.read_bytes()
        headers = {
            "ETag": f'"{path.stat().st_mtime_ns:x}"',
            "Last-Modified": formatdate(path.stat().st_mtime),
        }
        if self.server.ranges:
            headers["Accept-Ranges"] = "bytes"
        if asked is None or not self.server.ranges:
            self._send(200, headers, body, with_body=with_body)
            return
        first, last = _limits(asked, len(body))
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        self._send(206, headers, body[first : last + 1], with_body=with_body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            if name not in self.server.untold:
                self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _limits(asked: str, byte_length: int) -> tuple[int, int]:
    """Return the first and the last byte of a range like ``bytes=0-99`` or ``bytes=-8``."""
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return byte_length - int(last), byte_length - 1
    return int(first), min(int(last), byte_length - 1) if last else byte_length - 1


@contextlib.contextmanager
def serve(folder: Path, **options: Any) -> Iterator[RangeServer]:
    """Serve a folder while the context lasts."""
    with RangeServer(folder, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
