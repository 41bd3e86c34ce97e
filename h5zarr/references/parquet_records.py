"""The files of Parquet references: a row for each chunk of an array's grid in C order, absent ones too.

A file, a record in fsspec's words, has ``record_size`` rows; the last one of an array has what is left.
Columns:

- ``path``: URL that the reference points into; null where there is none;
- ``offset``, ``size``: where it begins, and its length (bytes);
- ``raw``: the bytes of an inline chunk; null elsewhere.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from h5zarr.model import Manifest, Shape, UInt32Column, UInt64Column

Rows = npt.NDArray[np.int64]

_BASE64 = b"base64:"
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.dictionary(pa.int32(), pa.string())),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("raw", pa.binary()),
    ]
)


# Writing ---------------------------------------------------------------------------------


def encode(manifest: Manifest, chunk_count: int, record_size: int) -> Iterator[bytes | memoryview]:
    """Yield the files of an array's references, in their order.

    Parameters
    ----------
    manifest
        The references.
    chunk_count
        Chunks that have rows: all of the grid, or 0.
    record_size
        Rows of each file but the last.

    Raises
    ------
    ValueError
        An offset or a length has more than 63 bits.
    """
    starts = range(0, chunk_count, record_size)
    bounds = np.searchsorted(manifest.grid_position, np.array([*starts, chunk_count], np.uint64)).tolist()
    inline = np.array(sorted(manifest.inline), np.uint64)
    inline_bounds = np.searchsorted(inline, np.array([*starts, chunk_count], np.uint64)).tolist()
    for number, start in enumerate(starts):
        rows = slice(bounds[number], bounds[number + 1])
        positions = inline[inline_bounds[number] : inline_bounds[number + 1]].tolist()
        count = min(record_size, chunk_count - start)
        if rows.start == rows.stop and not positions:
            yield _absent(count)
        else:
            raw = {position - start: manifest.inline[position] for position in positions}
            yield _parquet(_table(manifest, rows, raw, start, count))


@functools.lru_cache(maxsize=2)
def _absent(count: int) -> bytes:
    """Return a file of absent chunks."""
    zeros = pa.array(np.zeros(count, np.int64))
    columns = [pa.nulls(count, field.type) if field.nullable else zeros for field in _SCHEMA]
    return bytes(_parquet(pa.Table.from_arrays(columns, schema=_SCHEMA)))


def _parquet(table: pa.Table) -> memoryview:
    stream = io.BytesIO()
    # fastparquet takes integers for floats unless statistics tell that none is null. A schema of
    # Arrow's own would make pandas read URLs as categories, whose nulls fsspec does not recognise.
    pq.write_table(
        table,
        stream,
        row_group_size=len(table),
        compression="zstd",
        use_dictionary=["path"],
        write_statistics=["offset", "size"],
        store_schema=False,
    )
    return stream.getbuffer()


def _table(manifest: Manifest, rows: slice, inline: Mapping[int, bytes], start: int, count: int) -> pa.Table:
    at = (manifest.grid_position[rows] - np.uint64(start)).astype(np.int64)
    byte_offset, byte_length = manifest.byte_offset[rows], manifest.byte_length[rows]
    raw = {row: _raw(stored) for row, stored in inline.items()}
    # fsspec takes no bytes at offset 0 for the whole file; what stands in `raw` comes first.
    raw |= dict.fromkeys(at[byte_length == 0].tolist(), b"")
    columns = [
        _urls(manifest, rows, at, count),
        _spread(byte_offset, at, count),
        _spread(byte_length, at, count),
        pa.array(map(raw.get, range(count)), pa.binary()) if raw else pa.nulls(count, pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _spread(column: UInt64Column, at: Rows, count: int) -> pa.Array:
    """Return a column with rows for absent chunks too."""
    spread = np.zeros(count, np.uint64)
    spread[at] = column
    return pa.array(spread).cast(pa.int64())


def _urls(manifest: Manifest, rows: slice, at: Rows, count: int) -> pa.DictionaryArray:
    """Return the URLs, with those of these rows alone in the dictionary."""
    number, is_null = np.zeros(count, np.int32), np.ones(count, bool)
    is_null[at] = False
    locations = manifest.locations[:1]
    if manifest.location_index is not None:
        used, number[at] = np.unique(manifest.location_index[rows], return_inverse=True)
        locations = tuple(manifest.locations[which] for which in used.tolist())
    return pa.DictionaryArray.from_arrays(pa.array(number, mask=is_null), pa.array(locations, pa.string()))


def _raw(stored: bytes) -> bytes:
    """Return inline bytes so that fsspec, which decodes what looks like base64, gives these."""
    return _BASE64 + base64.b64encode(stored) if stored.startswith(_BASE64) else stored


# Reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """The references of one file; absent chunks have none."""

    urls: tuple[str, ...]
    """URLs that they point into."""
    url_index: UInt32Column
    """(n,) Which of them holds each chunk."""
    grid_position: UInt64Column
    """(n,) Linear position of each chunk in the grid (grid cells)."""
    byte_offset: UInt64Column
    """(n,) Where it begins in its file (bytes)."""
    byte_length: UInt64Column
    """(n,) Its stored length (bytes)."""
    inline: Mapping[int, bytes]
    """The bytes of inline chunks by grid position."""


def decode(content: bytes, start: int, count: int) -> Record:
    """Return the references of a file.

    Parameters
    ----------
    content
        The file.
    start
        Grid position of its first row.
    count
        Rows that the grid has there; what follows them is padding.

    Raises
    ------
    ValueError
        It is no such file.
    """
    table = pq.read_table(pa.BufferReader(content), read_dictionary=["path"])
    if sorted(table.column_names) != sorted(_SCHEMA.names) or len(table) < count:
        raise ValueError(f"{len(table)} rows of {table.column_names}, where {count} chunks should be")
    table = table.slice(0, count).unify_dictionaries().combine_chunks()
    offset, size = (np.asarray(table[name].cast(pa.int64())) for name in ("offset", "size"))
    is_inline = np.asarray(table["raw"].is_valid())
    is_reference = np.asarray(table["path"].is_valid()) & ~is_inline
    if (np.minimum(offset, size) < 0).any() or (is_reference & (size == 0)).any():
        raise ValueError("a reference to a whole file, or to none of its bytes")
    path = table["path"].chunk(0)
    stored = table["raw"].filter(is_inline).to_pylist()
    at = np.flatnonzero(is_reference)
    return Record(
        urls=tuple(path.dictionary.to_pylist()),
        url_index=np.asarray(path.indices.fill_null(0))[at].astype(np.uint32),
        grid_position=at.astype(np.uint64) + np.uint64(start),
        byte_offset=offset[at].astype(np.uint64),
        byte_length=size[at].astype(np.uint64),
        inline=dict(zip((np.flatnonzero(is_inline) + start).tolist(), map(_stored, stored), strict=True)),
    )


def _stored(raw: bytes) -> bytes:
    return base64.b64decode(raw.removeprefix(_BASE64)) if raw.startswith(_BASE64) else raw


def join(grid: Shape, records: Sequence[Record]) -> Manifest:
    """Return the manifest of an array from its records, in their order.

    Parameters
    ----------
    grid
        Number of chunks along each dimension.
    records
        All of them; none where nothing is referenced.
    """
    numbers: dict[str, int] = {}
    which = []
    for record in records:
        known = [numbers.setdefault(url, len(numbers)) for url in record.urls]
        which.append(np.array(known, np.uint32)[record.url_index])
    inline: dict[int, bytes] = {}
    for record in records:
        inline |= record.inline
    return Manifest(
        grid_shape=grid,
        locations=tuple(numbers),
        grid_position=_joined([record.grid_position for record in records]),
        byte_offset=_joined([record.byte_offset for record in records]),
        byte_length=_joined([record.byte_length for record in records]),
        location_index=np.concatenate(which) if len(numbers) > 1 else None,
        inline=inline,
    )


def _joined(columns: list[UInt64Column]) -> UInt64Column:
    return np.concatenate(columns) if columns else np.zeros(0, np.uint64)
