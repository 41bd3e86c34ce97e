"""Ways to bring many ranges of one file at a time, through any fsspec filesystem."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from h5zarr.prefetch.ranges import Span

ASYNC_CONNECTIONS = 250
THREAD_CONNECTIONS = 32


class TransientError(Exception):
    """A request failed in a way that another attempt may mend."""


class ThrottledError(TransientError):
    """The server asks for fewer requests at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one request."""

    content: bytes | BaseException
    """The bytes, or why there are none."""
    seconds: float
    """How long it took, without waiting for its turn (seconds)."""


class Transport(Protocol):
    """Brings ranges of one file."""

    connections: int
    """Most requests under way at a time."""

    def fetch(self, spans: Sequence[Span]) -> list[Outcome]:
        """Return what came of each span, in their order; failed requests do not stop others."""


class AsyncTransport:
    """Requests under way together in fsspec's event loop."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self.connections = ASYNC_CONNECTIONS
        self._filesystem = filesystem
        self._path = path

    def fetch(self, spans: Sequence[Span]) -> list[Outcome]:
        """Return what came of each span, in their order; failed requests do not stop others."""
        outcomes: list[Outcome] = sync(self._filesystem.loop, self._gather, spans)
        return outcomes

    async def _gather(self, spans: Sequence[Span]) -> list[Outcome]:
        turns = asyncio.Semaphore(self.connections)
        seconds = [0.0] * len(spans)

        async def take_turn(number: int) -> bytes:
            async with turns:
                started = time.perf_counter()
                content = await self._read(spans[number])
                seconds[number] = time.perf_counter() - started
                return content

        contents = await asyncio.gather(*map(take_turn, range(len(spans))), return_exceptions=True)
        return [
            Outcome(content=content, seconds=duration)
            for content, duration in zip(contents, seconds, strict=True)
        ]

    async def _read(self, span: Span) -> bytes:
        content: bytes = await self._filesystem._cat_file(self._path, start=span.byte_offset, end=span.end)
        return content


class ThreadTransport:
    """Requests under way together in threads, for filesystems that know no event loop."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self.connections = THREAD_CONNECTIONS
        self._filesystem = filesystem
        self._path = path

    def fetch(self, spans: Sequence[Span]) -> list[Outcome]:
        """Return what came of each span, in their order; failed requests do not stop others."""
        if len(spans) == 1:
            return [self._read(spans[0])]
        with ThreadPoolExecutor(max_workers=min(self.connections, len(spans))) as pool:
            return list(pool.map(self._read, spans))

    def _read(self, span: Span) -> Outcome:
        started = time.perf_counter()
        content: Any
        try:
            content = self._filesystem.cat_file(self._path, start=span.byte_offset, end=span.end)
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            content = error
        return Outcome(content=content, seconds=time.perf_counter() - started)


def transport_for(filesystem: AbstractFileSystem, path: str) -> Transport:
    """Return the best way to the file at a path of a filesystem."""
    protocols = (filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol
    if not getattr(filesystem, "async_impl", False) or filesystem.asynchronous:
        return ThreadTransport(filesystem, path)
    if "http" in protocols and hasattr(filesystem, "set_session"):
        # aiohttp need not be installed for other filesystems.
        from h5zarr.prefetch.http_transport import HTTPTransport

        return HTTPTransport(filesystem, path)
    return AsyncTransport(filesystem, path)
