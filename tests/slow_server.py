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
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

_REQUEST = re.compile(rb"(GET|HEAD) /(\S*) HTTP/1\.[01]")
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)\r\n", re.IGNORECASE)
_PIECE_BYTES = 256 * 1024


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
    _under_way: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                    await writer.drain()
                await writer.drain()
        finally:
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        matched = _REQUEST.match(head)
        path = self.folder / matched[2].partition(b"?")[0].decode() if matched else self.folder
        self._under_way += 1
        self.most_at_a_time = max(self.most_at_a_time, self._under_way)
        await asyncio.sleep(self.latency)
        self._under_way -= 1
        if matched is None or not path.is_file():
            writer.write(_head(404, 0, b""))
            return True
        asked = _RANGE.search(head)
        return await self._send(path, matched[1] == b"HEAD", asked, writer)

    async def _send(
        self, path: Path, is_head: bool, asked: re.Match[bytes] | None, writer: asyncio.StreamWriter
    ) -> bool:
        total = path.stat().st_size
        tag = b"%x" % path.stat().st_mtime_ns
        if is_head or asked is None:
            writer.write(_head(200, total, tag))
            if not is_head:
                await self._send_body(path, 0, total, writer)
            return True
        first = int(asked[1])
        last = min(int(asked[2]), total - 1) if asked[2] else total - 1
        request = Request(number=len(self.requests), byte_offset=first, byte_length=last - first + 1)
        self.requests.append(request)
        return await self._send_range(path, request, total, tag, writer)

    async def _send_range(
        self, path: Path, request: Request, total: int, tag: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        fault = self.fault(request)
        statuses = {Fault.UNAVAILABLE: 503, Fault.TOO_MANY: 429, Fault.FORBIDDEN: 403}
        if fault in statuses:
            writer.write(_head(statuses[fault], 0, b""))
            return True
        if fault is Fault.NO_RANGES:
            writer.write(_head(200, total, tag))
            await self._send_body(path, 0, total, writer)
            return True
        first, length = request.byte_offset, request.byte_length
        first += 1 if fault is Fault.WRONG_RANGE else 0
        tag += b"0" if fault is Fault.CHANGED else b""
        sent = length // 2 if fault in (Fault.DROP, Fault.SHORT) else length
        told = sent if fault is Fault.SHORT else length
        content_range = b"bytes %d-%d/%d" % (first, first + length - 1, total)
        writer.write(_head(206, told, tag, content_range))
        await self._send_body(path, first, sent, writer)
        return fault is not Fault.DROP

    async def _send_body(self, path: Path, first: int, length: int, writer: asyncio.StreamWriter) -> None:
        self.byte_length += length
        with path.open("rb") as file:
            for at in range(first, first + length, _PIECE_BYTES):
                piece = os.pread(file.fileno(), min(_PIECE_BYTES, first + length - at), at)
                await asyncio.sleep(len(piece) / self.bandwidth)
                writer.write(piece)
                await writer.drain()


def _head(status: int, length: int, tag: bytes, content_range: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 %d Answer" % status, b"Content-Length: %d" % length]
    if tag:
        lines += [b'ETag: "%b"' % tag, b"Accept-Ranges: bytes"]
    if content_range:
        lines.append(b"Content-Range: " + content_range)
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _run(server: SlowServer, ready: threading.Event, stop: asyncio.Event) -> None:
    listener = await asyncio.start_server(server._serve, "127.0.0.1", 0, backlog=1000)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    ready.set()
    await stop.wait()
    listener.close()
    answering = asyncio.all_tasks() - {asyncio.current_task()}
    for task in answering:
        task.cancel()
    await asyncio.gather(*answering, return_exceptions=True)
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
