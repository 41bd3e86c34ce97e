"""Ranges of objects on S3, each answer of which tells by its entity tag what version the bytes are of."""

from __future__ import annotations

import time
from typing import Any

from fsspec import AbstractFileSystem
from s3fs import core

from h5zarr.prefetch.answers import Answers, total_length
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.redact import describe, redact
from h5zarr.prefetch.transports import AsyncTransport, Outcome, TransientError


class S3Transport(AsyncTransport):
    """Requests of s3fs, whose own range reads pass on nothing but the bytes."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        super().__init__(filesystem, path)
        self._answers = self.answers = Answers(redact(filesystem.unstrip_protocol(path)))

    async def _read(self, span: Span) -> Outcome:
        started = time.perf_counter()
        try:
            content = await self._ask(span)
        # s3fs itself asks again until an answer begins, but not for one that breaks off.
        except core.S3_RETRYABLE_ERRORS as error:
            raise TransientError(describe(error)) from error
        return Outcome(content=content, seconds=time.perf_counter() - started)

    async def _ask(self, span: Span) -> bytes:
        bucket, key, version = self._filesystem.split_path(self._path)
        asked = f"bytes={span.byte_offset}-{span.end - 1}"
        wanted: dict[str, Any] = {"Bucket": bucket, "Key": key, "Range": asked}
        if version is not None:
            wanted["VersionId"] = version
        answer = await self._filesystem._call_s3("get_object", **wanted, **self._filesystem.req_kw)
        try:
            # Servers that know no ranges send all, whose length the caller finds too long.
            total = total_length(answer.get("ContentRange", "")) or answer.get("ContentLength")
            self._answers.note(answer, total)
            content: bytes = await answer["Body"].read()
        finally:
            answer["Body"].close()
        return content
