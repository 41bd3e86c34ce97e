"""Manifests of arrays in the store of an Icechunk session: written in bulk, and listed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from h5zarr.model import JSON, ArrayNode, Manifest, Shape, UInt32Column, UInt64Column
from h5zarr.references import keys
from h5zarr.references.icechunk_urls import url_of

Checksum = str | datetime | None
"""What Icechunk compares when it reads: an entity tag, or the latest time of modification."""

CAN_LIST = hasattr(icechunk.IcechunkStore, "array_chunk_iterator")
"""Whether this version of Icechunk lists references, which the first does not."""

_CAN_SET_TABLES = hasattr(icechunk.IcechunkStore, "set_virtual_refs_arr")
_CELLS_FOR_EACH_REFERENCE = 16
"""A table of a grid with more cells takes longer to fill than references one by one."""
_REFERENCES_AT_ONCE = 65536
_VALUES_AT_ONCE = 1000
_VIRTUAL = 2
"""`icechunk.ChunkType.virtual`, as the iterator over chunks has it."""


# Writing ---------------------------------------------------------------------------------


def set_values(store: icechunk.IcechunkStore, values: Mapping[str, bytes]) -> None:
    """Set values by store key, many at a time."""
    sync(_set_values(store, list(values.items())))


async def _set_values(store: icechunk.IcechunkStore, items: Sequence[tuple[str, bytes]]) -> None:
    buffer = default_buffer_prototype().buffer
    for start in range(0, len(items), _VALUES_AT_ONCE):
        block = items[start : start + _VALUES_AT_ONCE]
        await asyncio.gather(*(store.set(key, buffer.from_bytes(value)) for key, value in block))


def write_chunks(
    store: icechunk.IcechunkStore,
    array: ArrayNode,
    locations: Mapping[str, str],
    checksums: Mapping[str, Checksum],
) -> None:
    """Write the chunks of an array: references as virtual ones, inline bytes as native ones.

    Parameters
    ----------
    store
        Store of a writable session, which has the array's metadata.
    array
        The array.
    locations
        Icechunk's form of each URL that it refers to.
    checksums
        What tells that the file at a URL has changed.

    Raises
    ------
    ValueError
        A chunk has no bytes, which Icechunk does not store.
    """
    manifest = array.manifest
    if not (manifest.byte_length.all() and all(manifest.inline.values())):
        raise ValueError("a chunk of no bytes")
    positions = np.array(list(manifest.inline), np.uint64)
    names = keys.DEFAULT.keys(array.path, manifest.grid_shape, positions)
    set_values(store, dict(zip(names, manifest.inline.values(), strict=True)))
    texts = np.array([locations[url] for url in manifest.locations], object)
    for checksum, rows in _by_checksum(manifest, [checksums[url] for url in manifest.locations]):
        _set_references(store, array.path, _references(manifest, rows, texts, checksum))


def _by_checksum(manifest: Manifest, checksums: Sequence[Checksum]) -> Iterator[tuple[Checksum, Any]]:
    """Yield each checksum and what selects the rows that have it.

    Parameters
    ----------
    manifest
        The references.
    checksums
        That of each location.
    """
    numbers = {checksum: number for number, checksum in enumerate(dict.fromkeys(checksums))}
    if not len(manifest.grid_position):
        return
    if manifest.location_index is None or len(numbers) == 1:
        yield checksums[0], slice(None)
        return
    number_of_row = np.array([numbers[checksum] for checksum in checksums])[manifest.location_index]
    order = np.argsort(number_of_row, kind="stable")
    ends = np.cumsum(np.bincount(number_of_row, minlength=len(numbers)))
    for checksum, rows in zip(numbers, np.split(order, ends[:-1]), strict=True):
        if len(rows):
            yield checksum, rows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _References:
    """References of one array that have the same checksum."""

    cells: npt.NDArray[np.int64]
    """(rank, n) Position of each chunk in the grid (grid cells)."""
    location: npt.NDArray[np.object_]
    """(n,) Icechunk's location of each."""
    byte_offset: UInt64Column
    """(n,) Where it begins in its file (bytes)."""
    byte_length: UInt64Column
    """(n,) Its stored length (bytes)."""
    checksum: Checksum
    """What tells that a file has changed."""


def _references(
    manifest: Manifest, rows: Any, texts: npt.NDArray[np.object_], checksum: Checksum
) -> _References:
    positions = manifest.grid_position[rows].astype(np.int64)
    which = 0 if manifest.location_index is None else manifest.location_index[rows]
    rank = len(manifest.grid_shape)
    cells = np.unravel_index(positions, manifest.grid_shape) if rank else ()
    return _References(
        cells=np.array(cells, np.int64).reshape(rank, len(positions)),
        location=np.broadcast_to(texts[which], positions.shape),
        byte_offset=manifest.byte_offset[rows],
        byte_length=manifest.byte_length[rows],
        checksum=checksum,
    )


def _set_references(store: Any, path: str, references: _References) -> None:
    """Set references as a table of the box of the grid that holds them, where few of its cells are empty.

    Icechunk checks containers against encoded locations here, and against decoded ones when it
    reads: its check is left out, since the containers are made of the locations.
    """
    first = references.cells.min(axis=1)
    extent = (references.cells.max(axis=1) + 1 - first).tolist()
    count = math.prod(extent)
    if not _CAN_SET_TABLES or count > _CELLS_FOR_EACH_REFERENCE * len(references.location):
        _set_one_by_one(store, path, references)
        return
    position = _positions(references.cells - first[:, None], extent)
    store.set_virtual_refs_arr(
        path,
        tuple(extent),
        _table(references.location, position, count, "").tolist(),
        _table(references.byte_offset, position, count, 0),
        _table(references.byte_length, position, count, 0),
        validate_containers=False,
        arr_offset=tuple(first.tolist()),
        checksum=references.checksum,
    )


def _table(column: npt.NDArray[Any], position: UInt64Column, count: int, empty: object) -> npt.NDArray[Any]:
    table = np.full(count, empty, column.dtype)
    table[position] = column
    return table


def _set_one_by_one(store: Any, path: str, references: _References) -> None:
    checksum = references.checksum
    etag = checksum if isinstance(checksum, str) else None
    modified = checksum if isinstance(checksum, datetime) else None
    for start in range(0, len(references.location), _REFERENCES_AT_ONCE):
        rows = slice(start, start + _REFERENCES_AT_ONCE)
        columns = (references.location[rows], references.byte_offset[rows], references.byte_length[rows])
        chunks = [
            icechunk.VirtualChunkSpec(cell, location, byte_offset, byte_length, etag, modified)
            for cell, location, byte_offset, byte_length in zip(
                references.cells[:, rows].T.tolist(), *(column.tolist() for column in columns), strict=True
            )
        ]
        store.set_virtual_refs(path, chunks, validate_containers=False)


def _positions(cells: npt.NDArray[np.int64], grid: Sequence[int]) -> UInt64Column:
    """Return the linear positions of (rank, n) grid cells, C order."""
    if not grid:
        return np.zeros(cells.shape[1], np.uint64)
    positions: UInt64Column = np.ravel_multi_index(tuple(cells), tuple(grid)).astype(np.uint64)
    return positions


# Listing ---------------------------------------------------------------------------------


async def read_manifest(store: Any, path: str, metadata: Mapping[str, JSON]) -> Manifest:
    """Return the references of an array; chunks that the repository holds itself become inline ones.

    Parameters
    ----------
    store
        Store of a session; of a version of Icechunk for which `CAN_LIST` is true.
    path
        Path of the array.
    metadata
        Its ``zarr.json``.
    """
    grid = keys.chunk_grid_shape(metadata)
    locations: dict[str, int] = {}
    inline: dict[int, bytes] = {}
    none = np.zeros(0, np.uint64)
    batches = [(none, none, none, np.zeros(0, np.uint32))]
    async for cells, kinds, paths, byte_offset, byte_length, _ in store.array_chunk_iterator(path):
        positions = _positions(cells.T.astype(np.int64), grid)
        rows = np.flatnonzero(kinds == _VIRTUAL)
        inline |= await _native_chunks(store, path, grid, np.delete(positions, rows))
        which = _location_index([paths[row] for row in rows.tolist()], locations)
        batches.append((positions[rows], byte_offset[rows], byte_length[rows], which))
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    position, byte_offset, byte_length, which = (column[order] for column in columns)
    return Manifest(
        grid_shape=grid,
        locations=tuple(map(url_of, locations)),
        grid_position=position,
        byte_offset=byte_offset,
        byte_length=byte_length,
        location_index=which if len(locations) > 1 else None,
        inline=inline,
    )


def _location_index(paths: Sequence[str], locations: dict[str, int]) -> UInt32Column:
    """Return which location each path is, after new ones were added."""
    for path in dict.fromkeys(paths):
        locations.setdefault(path, len(locations))
    return np.fromiter(map(locations.__getitem__, paths), np.uint32, len(paths))


async def _native_chunks(store: Any, path: str, grid: Shape, positions: UInt64Column) -> dict[int, bytes]:
    """Return the bytes of chunks that the repository holds itself, by grid position."""
    chunks: dict[int, bytes] = {}
    prototype = default_buffer_prototype()
    for start in range(0, len(positions), _VALUES_AT_ONCE):
        block = positions[start : start + _VALUES_AT_ONCE]
        names = keys.DEFAULT.keys(path, grid, block)
        buffers = await asyncio.gather(*(store.get(name, prototype) for name in names))
        contents = (buffer.to_bytes() for buffer in buffers)
        chunks |= dict(zip(block.tolist(), contents, strict=True))
    return chunks
