"""Ranges over HTTP, with everything checked that a server can get wrong (RFC 9110, section 14)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import aiohttp
from fsspec import AbstractFileSystem

from h5zarr.errors import SourceChangedError, SourceError, SourceNotFoundError
from h5zarr.prefetch.answers import CONTENT_RANGE, Answers, total_length
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.redact import describe, redact
from h5zarr.prefetch.transports import AsyncTransport, Outcome, ThrottledError, TransientError

_THROTTLED = (429, 503)


class HTTPTransport(AsyncTransport):
    """Requests of fsspec's HTTP filesystem, whose own range reads look at no header of the answer."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        super().__init__(filesystem, path)
        self._name = redact(path)
        self._answers = self.answers = Answers(self._name)

    def begin(self, byte_length: int) -> Future[Outcome]:
        """Start to fetch the beginning of the file, of which the length is not known yet."""
        beginning = self._ask(Span(byte_offset=0, byte_length=byte_length), may_be_short=True)
        return asyncio.run_coroutine_threadsafe(beginning, self._filesystem.loop)

    async def _read(self, span: Span) -> Outcome:
        return await self._ask(span, may_be_short=False)

    async def _ask(self, span: Span, *, may_be_short: bool) -> Outcome:
        session = await self._filesystem.set_session()
        url = self._filesystem.encode_url(self._path)
        started = time.perf_counter()
        try:
            async with session.get(url, **self._options(span)) as response:
                self._check_status(response.status, span)
                self._check_headers(response.status, response.headers, span, may_be_short)
                waited = time.perf_counter() - started
                content: bytes = await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise TransientError(describe(error)) from error
        return Outcome(content=content, seconds=time.perf_counter() - started, waiting_seconds=waited)

    def _options(self, span: Span) -> dict[str, Any]:
        options = dict(self._filesystem.kwargs)
        asked = {"Range": f"bytes={span.byte_offset}-{span.end - 1}", "Accept-Encoding": "identity"}
        return {**options, "headers": {**options.get("headers", {}), **asked}}

    def _check_status(self, status: int, span: Span) -> None:
        if status in _THROTTLED:
            raise ThrottledError(f"HTTP status {status}")
        if status == 408 or status >= 500:
            raise TransientError(f"HTTP status {status}")
        if status == 404:
            raise SourceNotFoundError(f"{self._name}: no such file; check the URL")
        if status in (401, 403):
            raise SourceError(f"{self._name}: HTTP status {status}; check the credentials")
        if status == 416:
            raise SourceChangedError(f"{self._name}: ends before byte {span.end}; did it change just now?")
        if status not in (200, 206):
            raise SourceError(f"{self._name}: HTTP status {status}")

    def _check_headers(self, status: int, headers: Mapping[str, str], span: Span, may_be_short: bool) -> None:
        if headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError(f"{self._name}: the server compresses ranges, though asked not to")
        if status == 200:
            content_length = headers.get("Content-Length", "")
            self._answers.note(headers, int(content_length) if content_length.isdecimal() else None)
            self._check_whole(content_length, span, may_be_short)
        else:
            content_range = headers.get("Content-Range", "")
            self._answers.note(headers, total_length(content_range))
            self._check_content_range(content_range, span, may_be_short)

    def _check_whole(self, content_length: str, span: Span, may_be_short: bool) -> None:
        """Refuse an answer with the whole file, unless that is what was asked for."""
        fits = content_length.isdecimal() and int(content_length) <= span.byte_length
        if span.byte_offset or not fits or not (may_be_short or int(content_length) == span.byte_length):
            raise no_range_support(self._name)

    def _check_content_range(self, content_range: str, span: Span, may_be_short: bool) -> None:
        matched = CONTENT_RANGE.fullmatch(content_range.strip())
        end = span.end
        if matched is not None and may_be_short and matched[3] != "*":
            end = min(end, int(matched[3]))
        if matched is None or (int(matched[1]), int(matched[2])) != (span.byte_offset, end - 1):
            raise SourceError(
                f"{self._name}: asked for bytes {span.byte_offset}-{span.end - 1}, the server answers with"
                f" Content-Range {content_range or 'missing'}; download the file instead"
            )


def no_range_support(name: str) -> SourceError:
    """Return the error of a server that sends whole files only."""
    return SourceError(f"{name}: the server does not support range requests; download the file instead")
