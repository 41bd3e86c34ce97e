"""Reading the stored bytes of many chunks: near ones together, from local files or over a network."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fsspec.core import split_protocol, url_to_fs

from h5zarr.errors import SourceError
from h5zarr.identity import source_errors
from h5zarr.model import UInt64Column
from h5zarr.prefetch import Span, connection_options, redact
from h5zarr.prefetch.fetch import Fetcher
from h5zarr.protocols import LOCAL

"""Protocols of files on this machine."""

_GAPS = (64 * 1024, 16 * 1024, 4 * 1024, 512, 0)
"""Holes that may be read along with what is needed, largest first (bytes)."""
_ALWAYS_AFFORDABLE_BYTES = 2**20
_LARGEST_REQUEST_BYTES = 4 * 2**20


class StoredBytes:
    """The files that references point into; threads may share it.

    Parameters
    ----------
    source_options
        Options of the fsspec filesystem of remote files.
    """

    def __init__(self, source_options: Mapping[str, Any]) -> None:
        self._options = dict(source_options)
        self._fetchers: dict[str, Fetcher] = {}
        self._lock = threading.Lock()

    def read(self, url: str, byte_offset: UInt64Column, byte_length: UInt64Column) -> list[memoryview]:
        """Return ranges of a file.

        Parameters
        ----------
        url
            Path or URL of the file.
        byte_offset
            (n,) where each range begins (bytes), ascending.
        byte_length
            (n,) how long each is (bytes).

        Raises
        ------
        SourceError
            The file cannot be read, or ends before a range does.
        """
        spans, number = _merged(byte_offset, byte_offset + byte_length)
        contents = [memoryview(content) for content in self._contents(url, spans)]
        begin = byte_offset - np.array([span.byte_offset for span in spans], np.uint64)[number]
        end = begin + byte_length
        return [
            contents[span][first:last]
            for span, first, last in zip(number.tolist(), begin.tolist(), end.tolist(), strict=True)
        ]

    def _contents(self, url: str, spans: Sequence[Span]) -> list[bytes]:
        protocol, path = split_protocol(url)
        if protocol in LOCAL:
            return _read_local(url, path, spans)
        pieces = [_pieces(span) for span in spans]
        contents = iter(self._fetcher(url).fetch([piece for parts in pieces for piece in parts]))
        return [b"".join([next(contents) for _ in parts]) for parts in pieces]

    def _fetcher(self, url: str) -> Fetcher:
        with self._lock:
            if url not in self._fetchers:
                with source_errors(url):
                    self._fetchers[url] = Fetcher(*self._reach(url))
            return self._fetchers[url]

    def _reach(self, url: str) -> tuple[Any, str]:
        options = self._options
        if "::" not in url:
            options = connection_options(split_protocol(url)[0], options)
        filesystem, path = url_to_fs(url, **options)
        return filesystem, path


def _merged(start: UInt64Column, stop: UInt64Column) -> tuple[list[Span], npt.NDArray[np.int64]]:
    """Return the spans to read for ranges sorted by where they start, and in which span each range is."""
    reached = np.maximum.accumulate(stop)
    hole = np.where(start[1:] > reached[:-1], start[1:] - reached[:-1], 0).astype(np.uint64)
    affordable = int((stop - start).sum()) + _ALWAYS_AFFORDABLE_BYTES
    gap = next(gap for gap in _GAPS if gap == 0 or hole[hole <= gap].sum() <= affordable)
    is_first = np.concatenate([[True], hole > gap])
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(start)) - 1
    spans = [
        Span(byte_offset=begin, byte_length=end - begin)
        for begin, end in zip(start[first].tolist(), reached[last].tolist(), strict=True)
    ]
    return spans, np.cumsum(is_first) - 1


def _pieces(span: Span) -> list[Span]:
    """Return a long range in pieces, for several connections to share."""
    return [
        Span(byte_offset=at, byte_length=min(_LARGEST_REQUEST_BYTES, span.end - at))
        for at in range(span.byte_offset, span.end, _LARGEST_REQUEST_BYTES)
    ]


def _read_local(url: str, path: str, spans: Sequence[Span]) -> list[bytes]:
    with source_errors(url), Path(path).open("rb", buffering=0) as file:
        return [_read_span(url, file, span) for span in spans]


def _read_span(url: str, file: FileIO, span: Span) -> bytes:
    pieces: list[bytes] = []
    at = file.seek(span.byte_offset)
    while at < span.end:  # a read of more than 2 GiB brings less
        piece = file.read(span.end - at)
        if not piece:
            raise cut_off(url, at, span.end)
        pieces.append(piece)
        at += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def cut_off(url: str, byte_length: int, needed: int) -> SourceError:
    """Return the error of a file that ends too early.

    Parameters
    ----------
    url
        Path or URL of the file.
    byte_length
        Where it ends (bytes).
    needed
        How far references reach (bytes).
    """
    return SourceError(
        f"{redact(url)}: ends at byte {byte_length}, where references reach to byte {needed}: it is cut off,"
        " or is not the file that they were made of"
    )
