"""Ranges over HTTP, with everything checked that a server can get wrong (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import aiohttp
from fsspec import AbstractFileSystem

from h5zarr.errors import SourceChangedError, SourceError, SourceNotFoundError
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.redact import describe, redact
from h5zarr.prefetch.transports import AsyncTransport, ThrottledError, TransientError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_THROTTLED = (429, 503)


class HTTPTransport(AsyncTransport):
    """Requests of fsspec's HTTP filesystem, whose own range reads look at no header of the answer."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        super().__init__(filesystem, path)
        self._name = redact(path)
        self._etag: str | None = None

    async def _read(self, span: Span) -> bytes:
        options = dict(self._filesystem.kwargs)
        options["headers"] = {
            **options.get("headers", {}),
            "Range": f"bytes={span.byte_offset}-{span.end - 1}",
            "Accept-Encoding": "identity",
        }
        session = await self._filesystem.set_session()
        url = self._filesystem.encode_url(self._path)
        try:
            async with session.get(url, **options) as response:
                self._check_status(response.status, span)
                self._check_headers(response.status, response.headers, span)
                content: bytes = await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise TransientError(describe(error)) from error
        return content

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

    def _check_headers(self, status: int, headers: Mapping[str, str], span: Span) -> None:
        self._check_etag(headers.get("ETag"))
        if headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError(f"{self._name}: the server compresses ranges, though asked not to")
        if status == 200:
            if span.byte_offset or headers.get("Content-Length") != str(span.byte_length):
                raise no_range_support(self._name)
        else:
            self._check_content_range(headers.get("Content-Range", ""), span)

    def _check_content_range(self, content_range: str, span: Span) -> None:
        matched = _CONTENT_RANGE.fullmatch(content_range.strip())
        if matched is None or (int(matched[1]), int(matched[2])) != (span.byte_offset, span.end - 1):
            raise SourceError(
                f"{self._name}: asked for bytes {span.byte_offset}-{span.end - 1}, the server answers with"
                f" Content-Range {content_range or 'missing'}; download the file instead"
            )

    def _check_etag(self, etag: str | None) -> None:
        if self._etag is not None and etag is not None and etag != self._etag:
            raise SourceChangedError(f"{self._name}: changed while it was read; try again")
        self._etag = self._etag or etag


def no_range_support(name: str) -> SourceError:
    """Return the error of a server that sends whole files only."""
    return SourceError(f"{name}: the server does not support range requests; download the file instead")
