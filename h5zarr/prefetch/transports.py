"""Ways to bring many ranges of one file at a time, through any fsspec filesystem."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from h5zarr.prefetch.answers import Answers
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
    waiting_seconds: float | None = None
    """What of it passed before the answer began (seconds); None where the transport cannot tell."""


class Transport(Protocol):
    """Brings ranges of one file."""

    connections: int
    """Most requests under way at a time."""
    answers: Answers | None
    """What the answers tell of the version of the file; None where only their bytes are to be had."""

    def begin(self, byte_length: int) -> Future[Outcome] | None:
        """Start to fetch the beginning of the file, of which the length is not known yet.

        Parameters
        ----------
        byte_length
            How much to fetch (bytes); all if the file has less.

        Returns
        -------
        Future or None
            None where nothing tells which version of the file the answer is of.
        """

    def fetch(self, spans: Sequence[Span]) -> list[Outcome]:
        """Return what came of each span, in their order; failed requests do not stop others."""


class AsyncTransport:
    """Requests under way together in fsspec's event loop."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self.connections = ASYNC_CONNECTIONS
        self.answers: Answers | None = None
        self._filesystem = filesystem
        self._path = path

    def begin(self, byte_length: int) -> Future[Outcome] | None:
        """Return None: fsspec passes on the bytes only."""
        return None

    def fetch(self, spans: Sequence[Span]) -> list[Outcome]:
        """Return what came of each span, in their order; failed requests do not stop others."""
        outcomes: list[Outcome] = sync(self._filesystem.loop, self._gather, spans)
        return outcomes

    async def _gather(self, spans: Sequence[Span]) -> list[Outcome]:
        turns = asyncio.Semaphore(self.connections)
        tasks = []
        for span in spans:
            await turns.acquire()
            tasks.append(asyncio.create_task(self._read(span)))
            tasks[-1].add_done_callback(lambda _task: turns.release())
            # Takes in what has come: a connection that is free again costs less than one more.
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return [_outcome(outcome) for outcome in outcomes]

    async def _read(self, span: Span) -> Outcome:
        started = time.perf_counter()
        content = await self._filesystem._cat_file(self._path, start=span.byte_offset, end=span.end)
        return Outcome(content=content, seconds=time.perf_counter() - started)


def _outcome(outcome: Outcome | BaseException) -> Outcome:
    return Outcome(content=outcome, seconds=0.0) if isinstance(outcome, BaseException) else outcome


class ThreadTransport:
    """Requests under way together in threads, for filesystems that know no event loop."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self.connections = THREAD_CONNECTIONS
        self.answers: Answers | None = None
        self._filesystem = filesystem
        self._path = path

    def begin(self, byte_length: int) -> Future[Outcome] | None:
        """Return None: fsspec passes on the bytes only."""
        return None

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
    if "s3" in protocols and hasattr(filesystem, "_call_s3"):
        # Nor s3fs.
        from h5zarr.prefetch.s3_transport import S3Transport

        return S3Transport(filesystem, path)
    return AsyncTransport(filesystem, path)
