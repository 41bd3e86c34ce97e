"""Fetching ranges of one file: attempts, limits, what can go wrong, and what was moved."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import Future

from fsspec import AbstractFileSystem

from h5zarr.errors import SourceError, SourceNotFoundError
from h5zarr.model import FetchStatistics, SourceIdentity
from h5zarr.prefetch.ranges import LinkSpeed, Span
from h5zarr.prefetch.redact import describe, redact
from h5zarr.prefetch.transports import (
    Outcome,
    ThrottledError,
    TransientError,
    Transport,
    transport_for,
)

RETRY_SECONDS = 0.1
FIRST_BYTES = 256 * 1024
"""What is fetched of the beginning of a file before anything is known of it (bytes)."""

_ATTEMPTS = 7
_FEWEST_CONNECTIONS = 8
_SHARED_BY_CONNECTIONS = 4
"""How many times one connection's bandwidth several are taken to bring together."""
_UNKNOWN_BANDWIDTH = 25e6
"""What one connection is taken to bring until one has been seen (bytes per second)."""
_SLOWEST_BANDWIDTH = 1e4
_FEWEST_BYTES_TO_MEASURE = 64 * 1024
_SHORTEST_SECONDS_TO_MEASURE = 0.0005
_TRANSIENT = (TransientError, ConnectionError, TimeoutError, EOFError)
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


class Fetcher:
    """Fetches ranges of one file through a filesystem, and counts.

    Parameters
    ----------
    filesystem
        Any fsspec filesystem.
    path
        The file, as the filesystem names it.
    retry_seconds
        What to wait before the second attempt; twice as long before each further one (seconds).
    """

    def __init__(
        self, filesystem: AbstractFileSystem, path: str, *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self.name = redact(filesystem.unstrip_protocol(path))
        self.requests = self.byte_length = self.round_trips = self.retries = 0
        self._transport: Transport = transport_for(filesystem, path)
        self._retry_seconds = retry_seconds
        self._latency = float("inf")
        self._bandwidth = 0.0
        self._begun: Future[Outcome] | None = None

    @property
    def speed(self) -> LinkSpeed:
        """What has been seen of the link."""
        bandwidth = max(self._bandwidth or _UNKNOWN_BANDWIDTH, _SLOWEST_BANDWIDTH)
        return LinkSpeed(
            latency=min(self._latency, 1.0),
            bandwidth=bandwidth * _SHARED_BY_CONNECTIONS,
            connections=self._transport.connections,
        )

    @property
    def entity_tag(self) -> str | None:
        """The entity tag that every answer had; None where one had none, or a weak one."""
        return None if self._transport.answers is None else self._transport.answers.entity_tag

    @property
    def answers_tell(self) -> bool:
        """Whether the answers tell what version of the file they are of, as far as the server does."""
        return self._transport.answers is not None

    @property
    def told(self) -> SourceIdentity | None:
        """What every answer told of the file; None where they tell nothing, or there was none yet."""
        return None if self._transport.answers is None else self._transport.answers.told

    def begin(self) -> None:
        """Start to fetch the beginning of the file, while the caller asks for its length and entity tag."""
        self._begun = self._transport.begin(FIRST_BYTES)

    def beginning(self, byte_length: int, entity_tag: str | None) -> bytes:
        """Return the beginning, if it was begun to be fetched, and came from the very file.

        What went wrong with it is told when it is fetched again.

        Parameters
        ----------
        byte_length
            Length of the file (bytes).
        entity_tag
            Entity tag of the file, without quotes.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return b""
        self.requests += 1
        self.round_trips += 1
        if begun.exception() is not None or entity_tag is None or entity_tag != self.entity_tag:
            return b""
        content = begun.result().content
        if isinstance(content, BaseException) or len(content) != min(FIRST_BYTES, byte_length):
            return b""
        self._note(begun.result(), len(content))
        return content

    def fetch(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of each span, fetched together.

        Raises
        ------
        SourceError
            They cannot be had: the last attempt failed too, or the server's answer is wrong.
        """
        self.round_trips += 1
        contents: dict[Span, bytes] = {}
        pending = list(dict.fromkeys(spans))
        failed = ""
        for attempt in range(_ATTEMPTS):
            failure = self._attempt(pending, contents)
            pending = [span for span in pending if span not in contents]
            if failure is None or not pending:
                return [contents[span] for span in spans]
            failed = describe(failure)
            self._prepare_retry(attempt, len(pending), failure)
        raise SourceError(f"{self.name}: {_ATTEMPTS} attempts failed, the last with {failed}")

    def _attempt(self, spans: Sequence[Span], contents: dict[Span, bytes]) -> BaseException | None:
        """Put what comes into ``contents``; return one of the failures that are worth another attempt."""
        outcomes = self._transport.fetch(spans)
        self.requests += len(spans)
        failure: BaseException | None = None
        for span, outcome in zip(spans, outcomes, strict=True):
            content = outcome.content
            if isinstance(content, BaseException):
                failure = self._judge(content)
            elif len(content) != span.byte_length:
                failure = self._judge_length(content, span)
            else:
                contents[span] = content
                self._note(outcome, span.byte_length)
        return failure

    def _note(self, outcome: Outcome, byte_length: int) -> None:
        """Count what came, and learn from it how fast the link is."""
        self.byte_length += byte_length
        waited = outcome.waiting_seconds
        transfer = outcome.seconds - (self._latency if waited is None else waited)
        self._latency = min(self._latency, outcome.seconds if waited is None else waited)
        if byte_length >= _FEWEST_BYTES_TO_MEASURE and transfer > 0:
            seconds = max(transfer, _SHORTEST_SECONDS_TO_MEASURE)
            self._bandwidth = max(self._bandwidth, byte_length / seconds)

    def _judge(self, error: BaseException) -> BaseException:
        """Return the error if another attempt may mend it.

        Raises
        ------
        SourceError
            It may not.
        """
        if isinstance(error, SourceError):
            raise error
        if isinstance(error, FileNotFoundError):
            raise SourceNotFoundError(f"{self.name}: no such file; check the URL") from error
        if isinstance(error, _TRANSIENT) or getattr(error, "status", None) in _TRANSIENT_STATUS:
            return error
        raise SourceError(f"{self.name}: cannot be read: {describe(error)}") from error

    def _judge_length(self, content: bytes, span: Span) -> TransientError:
        self.byte_length += len(content)
        if len(content) > span.byte_length:
            raise SourceError(
                f"{self.name}: the server does not support range requests: {len(content)} bytes came where"
                f" {span.byte_length} were asked for; download the file instead"
            )
        return TransientError(f"a short answer: {len(content)} bytes of {span.byte_length}")

    def _prepare_retry(self, attempt: int, count: int, failure: BaseException) -> None:
        if attempt == _ATTEMPTS - 1:
            return
        self.retries += count
        if isinstance(failure, ThrottledError):
            self._transport.connections = max(self._transport.connections // 2, _FEWEST_CONNECTIONS)
        time.sleep(self._retry_seconds * 2**attempt * random.uniform(0.8, 1.2))

    def statistics(self, misses: int) -> FetchStatistics:
        """Return what was counted so far, with the misses that the caller counted."""
        return FetchStatistics(
            requests=self.requests,
            byte_length=self.byte_length,
            round_trips=self.round_trips,
            misses=misses,
            retries=self.retries,
        )
