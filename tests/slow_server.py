"""A loopback HTTP server with the latency, bandwidth and faults of the world outside.

One event loop serves hundreds of connections at a time, which a thread for each could not. As a
program it serves a folder until its standard input ends:

    python tests/slow_server.py FOLDER --latency 0.03 --bandwidth 100e6
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

_REQUEST = re.compile(rb"(GET|HEAD) /(\S*) HTTP/1\.[01]")
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)\r\n", re.IGNORECASE)
_PIECE_BYTES = 256 * 1024
_AT_ONCE_BYTES = 64 * 1024
"""Answers of up to this length come in one piece; of longer ones the head comes first (bytes)."""


class Fault(Enum):
    """What a server can get wrong."""

    DROP = auto()
    """The connection ends in the middle of the body."""
    SHORT = auto()
    """Half of what was asked for comes, as if it were all."""
    NO_RANGES = auto()
    """The whole file comes, with status 200."""
    WRONG_RANGE = auto()
    """Other bytes come than were asked for."""
    UNAVAILABLE = auto()
    """Status 503."""
    TOO_MANY = auto()
    """Status 429."""
    FORBIDDEN = auto()
    """Status 403."""
    CHANGED = auto()
    """The ETag is another one."""


_STATUSES = {Fault.UNAVAILABLE: 503, Fault.TOO_MANY: 429, Fault.FORBIDDEN: 403}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request for a range, as the server saw it."""

    number: int
    """How many came before it."""
    byte_offset: int
    """Where the range begins (bytes)."""
    byte_length: int
    """Its length (bytes)."""


@dataclass(kw_only=True)
class SlowServer:
    """Serves the files of a folder."""

    folder: Path
    """The folder."""
    latency: float = 0.0
    """What every answer waits (seconds)."""
    bandwidth: float = float("inf")
    """What each connection brings (bytes per second)."""
    fault: Callable[[Request], Fault | None] = lambda _request: None
    """What to get wrong in the answer to a request."""
    url: str = ""
    """URL of the folder."""
    requests: list[Request] = field(default_factory=list)
    """All requests with a body."""
    byte_length: int = 0
    """Bytes of all bodies."""
    most_at_a_time: int = 0
    """Most requests that were under way together."""
    under_way: int = 0
    """Requests that have not been answered yet."""


class _Connection(asyncio.Protocol):
    """One client's connection; answers its requests one after another."""

    def __init__(self, server: SlowServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._sending: asyncio.Task[None] | None = None
        self._writer: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._writer = transport

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if end:
            self._received = rest
            self._server.under_way += 1
            self._server.most_at_a_time = max(self._server.most_at_a_time, self._server.under_way)
            self._loop.call_later(self._server.latency, self._answer, head + end)

    def _answer(self, head: bytes) -> None:
        server = self._server
        server.under_way -= 1
        matched = _REQUEST.match(head)
        path = server.folder / matched[2].partition(b"?")[0].decode() if matched else server.folder
        try:
            status = path.stat()
        except FileNotFoundError:
            status = server.folder.stat()
        if matched is None or not stat.S_ISREG(status.st_mode):
            self._writer.write(_head(404, 0, b""))
            return
        asked, tag = _RANGE.search(head), b"%x" % status.st_mtime_ns
        if matched[1] == b"HEAD":
            self._writer.write(_head(200, status.st_size, tag))
        elif asked is None:
            self._send(path, 0, status.st_size, _head(200, status.st_size, tag))
        else:
            self._send_range(path, asked, status.st_size, tag)

    def _send_range(self, path: Path, asked: re.Match[bytes], total: int, tag: bytes) -> None:
        first = int(asked[1])
        length = (min(int(asked[2]), total - 1) if asked[2] else total - 1) - first + 1
        request = Request(number=len(self._server.requests), byte_offset=first, byte_length=length)
        self._server.requests.append(request)
        fault = self._server.fault(request)
        if fault in _STATUSES:
            self._writer.write(_head(_STATUSES[fault], 0, b""))
            return
        if fault is Fault.NO_RANGES:
            self._send(path, 0, total, _head(200, total, tag))
            return
        first += 1 if fault is Fault.WRONG_RANGE else 0
        tag += b"0" if fault is Fault.CHANGED else b""
        sent = length // 2 if fault in (Fault.DROP, Fault.SHORT) else length
        told = sent if fault is Fault.SHORT else length
        content_range = b"bytes %d-%d/%d" % (first, first + length - 1, total)
        self._send(path, first, sent, _head(206, told, tag, content_range), closes=fault is Fault.DROP)

    def _send(self, path: Path, first: int, length: int, head: bytes, *, closes: bool = False) -> None:
        self._server.byte_length += length
        if length > _AT_ONCE_BYTES or closes:
            self._sending = self._loop.create_task(self._send_body(path, first, length, head, closes))
            return
        with path.open("rb", buffering=0) as file:
            answer = head + os.pread(file.fileno(), length, first)
        self._loop.call_later(length / self._server.bandwidth, self._writer.write, answer)

    async def _send_body(self, path: Path, first: int, length: int, head: bytes, closes: bool) -> None:
        self._writer.write(head)
        with path.open("rb", buffering=0) as file:
            for at in range(first, first + length, _PIECE_BYTES):
                piece = os.pread(file.fileno(), min(_PIECE_BYTES, first + length - at), at)
                await asyncio.sleep(len(piece) / self._server.bandwidth)
                self._writer.write(piece)
                await self._may_write.wait()
        if closes:
            self._writer.close()


def _head(status: int, length: int, tag: bytes, content_range: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 %d Answer" % status, b"Content-Length: %d" % length]
    if tag:
        lines += [b'ETag: "%b"' % tag, b"Accept-Ranges: bytes"]
    if content_range:
        lines.append(b"Content-Range: " + content_range)
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _run(server: SlowServer, ready: threading.Event, stop: asyncio.Event) -> None:
    connections: list[_Connection] = []

    def connect() -> _Connection:
        connections.append(_Connection(server))
        return connections[-1]

    listener = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0, backlog=1000)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    ready.set()
    await stop.wait()
    listener.close()
    for connection in connections:
        connection.abort()
    # Connections are closed in the loop's next round.
    await asyncio.sleep(0)


@contextlib.contextmanager
def slow_server(server: SlowServer) -> Iterator[SlowServer]:
    """Serve while the context lasts, in a thread of its own."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    running = _run(server, ready, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(running,), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--bandwidth", type=float, default=float("inf"))
    options = parser.parse_args()
    server = SlowServer(folder=options.folder, latency=options.latency, bandwidth=options.bandwidth)
    with slow_server(server):
        print(server.url, flush=True)
        for line in sys.stdin:
            if line.startswith("latency"):
                server.latency = float(line.split()[1])
            print(len(server.requests), server.byte_length, server.most_at_a_time, flush=True)
            server.requests.clear()
            server.byte_length = server.most_at_a_time = 0


if __name__ == "__main__":
    _main()
