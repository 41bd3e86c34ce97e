"""Stored chunks of many arrays, fetched from the files that they are in."""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.model import ArrayNode, Manifest, SourceIdentity
from h5zarr.protocols import options_of
from h5zarr.references.source_check import check_scanned
from h5zarr.references.stored_bytes import StoredBytes
from h5zarr.source import identify

_BATCH_BYTES = 64 * 2**20
_FILES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reader:
    """Fetches chunks, from files that are still those that were scanned."""

    storage_options: Mapping[str, Any]
    """Options of the fsspec filesystem of remote files."""
    sources: Mapping[str, SourceIdentity]
    """What is known of files, by URL; nothing is compared of others."""
    compared: set[str] = field(default_factory=set)
    """URLs of files that have been looked at."""

    def stored_chunks(self, arrays: Sequence[ArrayNode]) -> list[dict[int, bytes]]:
        """Return the stored bytes of each array's chunks, by grid position.

        Raises
        ------
        SourceError
            A file cannot be read, or is not the one that was scanned.
        """
        sections = [_whole(number, array.manifest) for number, array in enumerate(arrays)]
        return [
            {**array.manifest.inline, **dict(zip(section.position, stored, strict=True))}
            for array, section, stored in zip(arrays, sections, self._fetch(sections), strict=True)
        ]

    def stored_digests(self, arrays: Sequence[ArrayNode]) -> list[bytes]:
        """Return a digest of each array's chunks, few of which are in memory at a time.

        Raises
        ------
        SourceError
            A file cannot be read, or is not the one that was scanned.
        """
        digests = [hashlib.sha256() for _ in arrays]
        for digest, array in zip(digests, arrays, strict=True):
            for position, stored in sorted(array.manifest.inline.items()):
                digest.update(_labelled(position, stored))
        for batch in _batches(arrays):
            for section, contents in zip(batch, self._fetch(batch), strict=True):
                for position, stored in zip(section.position, contents, strict=True):
                    digests[section.array].update(_labelled(position, stored))
        return [digest.digest() for digest in digests]

    def _fetch(self, sections: Sequence[_Section]) -> list[list[bytes]]:
        """Return the stored bytes of each section's chunks, read from several files at a time."""
        wanted: dict[str, list[_Ranges]] = defaultdict(list)
        for number, section in enumerate(sections):
            for url, rows in section.rows_by_url():
                wanted[url].append(_Ranges(section=number, rows=rows, manifest=section.manifest))
        files = StoredBytes(self.storage_options)
        fetched: list[dict[int, bytes]] = [{} for _ in sections]
        with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
            self._compare(wanted.keys() - self.compared, threads)
            contents = threads.map(lambda url: _read_ranges(files, url, wanted[url]), wanted)
            for ranges, of_file in zip(wanted.values(), contents, strict=True):
                for one, stored in zip(ranges, of_file, strict=True):
                    fetched[one.section] |= zip(one.rows.tolist(), stored, strict=True)
        return [
            [stored[row] for row in range(section.rows.start, section.rows.stop)]
            for section, stored in zip(sections, fetched, strict=True)
        ]

    def _compare(self, urls: set[str], threads: ThreadPoolExecutor) -> None:
        """Check that files are still those that were scanned."""
        known = sorted(urls & self.sources.keys())
        for url, now in zip(known, threads.map(self._identify, known), strict=True):
            check_scanned(url, self.sources[url], now)
        self.compared.update(known)

    def _identify(self, url: str) -> SourceIdentity:
        return identify(url, options_of(url, self.storage_options))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Section:
    """Some of the chunks of an array."""

    array: int
    """Which of the arrays."""
    manifest: Manifest
    """Its references."""
    rows: slice
    """The rows of the references."""

    @property
    def position(self) -> list[int]:
        """Position of each chunk in the array's grid (grid cells)."""
        position: list[int] = self.manifest.grid_position[self.rows].tolist()
        return position

    def rows_by_url(self) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
        """Yield the URL of each file, and which rows point into it."""
        rows, which = np.arange(self.rows.start, self.rows.stop), self.manifest.location_index
        for number, url in enumerate(self.manifest.locations):
            own = rows if which is None else rows[which[self.rows] == number]
            if len(own):
                yield url, own


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ranges:
    """What is read of one file for one section."""

    section: int
    """Which of the sections."""
    rows: npt.NDArray[np.int64]
    """Rows of its array's references."""
    manifest: Manifest
    """The references."""


def _whole(number: int, manifest: Manifest) -> _Section:
    return _Section(array=number, manifest=manifest, rows=slice(0, len(manifest.grid_position)))


def _batches(arrays: Sequence[ArrayNode]) -> Iterator[list[_Section]]:
    """Yield the chunks of arrays, in their order, few enough at a time to be in memory together."""
    batch: list[_Section] = []
    left = _BATCH_BYTES
    for number, array in enumerate(arrays):
        reached = np.cumsum(array.manifest.byte_length)
        start = 0
        while start < len(reached):
            before = int(reached[start - 1]) if start else 0
            stop = max(int(np.searchsorted(reached, before + left, side="right")), start + 1)
            batch.append(_Section(array=number, manifest=array.manifest, rows=slice(start, stop)))
            left -= int(reached[stop - 1]) - before
            start = stop
            if left <= 0 or start < len(reached):
                yield batch
                batch, left = [], _BATCH_BYTES
    yield batch


def _labelled(position: int, stored: bytes) -> bytes:
    """Return what tells a chunk: its place, its length and its bytes."""
    return struct.pack("<QQ", position, len(stored)) + stored


def _read_ranges(files: StoredBytes, url: str, ranges: Sequence[_Ranges]) -> list[list[bytes]]:
    """Return the bytes of each row of each section in one file."""
    byte_offset = np.concatenate([one.manifest.byte_offset[one.rows] for one in ranges])
    byte_length = np.concatenate([one.manifest.byte_length[one.rows] for one in ranges])
    order = np.argsort(byte_offset, kind="stable")
    contents = files.read(url, byte_offset[order], byte_length[order])
    by_row = {int(row): bytes(content) for row, content in zip(order, contents, strict=True)}
    rows = iter(range(len(order)))
    return [[by_row[next(rows)] for _ in one.rows] for one in ranges]
