"""Parsing references as JSON, the chunks' into columns (fsspec's reference specification, version 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ujson

from h5zarr.compiled import json_rows as _json_rows
from h5zarr.errors import ReferencesError
from h5zarr.model import JSON, Shape, UInt32Column, UInt64Column

Int64Column = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceRows:
    """References of a URL, an offset and a length, in the order of the text."""

    text: bytes
    """The text that the keys stand in."""
    key_start: Int64Column
    """(n,) Where in the text each key begins (bytes)."""
    key_end: Int64Column
    """(n,) Where it ends (bytes)."""
    byte_offset: UInt64Column
    """(n,) Where the chunk begins in its file (bytes)."""
    byte_length: UInt64Column
    """(n,) Its stored size (bytes)."""
    location_index: UInt32Column
    """(n,) Which of ``locations`` it is in."""
    locations: tuple[str, ...]
    """URLs, as they stand there."""

    def __len__(self) -> int:
        return len(self.key_start)

    def key(self, row: int) -> str:
        """Return a key."""
        return self.text[self.key_start[row] : self.key_end[row]].decode("ascii")

    def grid_positions(self, start: int, prefix: str, separator: str, grid: Shape) -> UInt64Column:
        """Return the grid positions of the rows from one on, up to one whose key begins otherwise.

        Parameters
        ----------
        start
            The first row.
        prefix
            What the keys of the array's chunks begin with.
        separator
            What stands between their grid cells.
        grid
            (rank,) number of chunks along each dimension.

        Raises
        ------
        ValueError
            A key that begins so does not go on with a cell of the grid.
        """
        positions = np.empty(len(self) - start, np.uint64)
        text, names = self.text, (self.key_start[start:], self.key_end[start:])
        count = _json_rows.grid_positions(text, *names, prefix.encode(), ord(separator), grid, positions)
        return positions[:count]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceDocument:
    """References as JSON, parsed."""

    members: Mapping[str, JSON]
    """What stands beside them: ``version``, ``templates``, ``gen``, ``h5zarr``."""
    references: Mapping[str, JSON]
    """Each by its key: text or bytes, or URL, offset and length; not those in ``rows``."""
    rows: ReferenceRows | None
    """Those that the compiled module has parsed."""


def parse(text: bytes) -> ReferenceDocument:
    """Parse references.

    Raises
    ------
    ReferencesError
        It is not JSON, or has no references.
    """
    try:
        return parse_rows(text) or document_of(ujson.loads(text))
    except ValueError as error:
        raise ReferencesError(f"not JSON: {error}") from error


def parse_rows(text: bytes) -> ReferenceDocument | None:
    """Parse references with the compiled module; return None where it leaves the text to a JSON parser.

    Raises
    ------
    ValueError
        It is not JSON.
    """
    found = None if _json_rows is None else _json_rows.scan_references(text)
    if found is None:
        return None
    members, others, rows = found
    return ReferenceDocument(
        members=ujson.loads(members), references=ujson.loads(others), rows=_rows(text, rows)
    )


def document_of(document: Any) -> ReferenceDocument:
    """Return references that are parsed already.

    Raises
    ------
    ReferencesError
        They are none.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("refs"), Mapping):
        raise ReferencesError("not a version 1 reference file: it has no refs")
    members = {name: member for name, member in document.items() if name != "refs"}
    return ReferenceDocument(members=members, references=document["refs"], rows=None)


def _rows(text: bytes, rows: Any) -> ReferenceRows:
    count = rows.count
    return ReferenceRows(
        text=text,
        key_start=np.frombuffer(rows.key_start, np.int64, count),
        key_end=np.frombuffer(rows.key_end, np.int64, count),
        byte_offset=np.frombuffer(rows.byte_offset, np.uint64, count),
        byte_length=np.frombuffer(rows.byte_length, np.uint64, count),
        location_index=np.frombuffer(rows.location_index, np.uint32, count),
        locations=tuple(map(ujson.loads, rows.locations)),
    )
