"""The chunk index of a dataset, in bulk: `H5Dchunk_iter` into columns.

libhdf5 1.14 and 2.0 report wrong coordinates for extensible arrays whose unlimited dimension is
not the first: the array is stored with that dimension moved to the front, and the library unpacks
the position without undoing that (`H5D__earray_idx_iterate_cb`). The true coordinates follow from
the reported ones; `library_reports_swizzled` asks the library itself whether it needs that.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from h5zarr import _fallback, libhdf5
from h5zarr.compiled import native as _native
from h5zarr.model import ChunkIndex, Shape, UInt64Column, grid_shape

_UNBOUNDED = 2**63


def read_chunk_index(
    dataset: h5py.h5d.DatasetID, shape: Shape, maximum_shape: tuple[int | None, ...], chunk_shape: Shape
) -> ChunkIndex:
    """Return where the stored chunks of a chunked dataset are.

    Parameters
    ----------
    dataset
        The open dataset.
    shape, maximum_shape
        (rank,) current and maximum shape in elements, None along unlimited dimensions.
    chunk_shape
        (rank,) shape of a chunk in elements.

    Raises
    ------
    RuntimeError
        libhdf5 cannot walk the index.
    """
    grid = grid_shape(shape, chunk_shape)
    swizzled_axis = _swizzled_axis(dataset, maximum_shape)
    if swizzled_axis:
        return _read_swizzled(dataset, grid, maximum_shape, chunk_shape, swizzled_axis)
    columns, is_sorted, _ = _iterate(dataset, chunk_shape, grid, _strides(grid))
    return _index(grid, columns, is_sorted)


def contiguous_index(shape: Shape, byte_offset: int, byte_length: int) -> ChunkIndex:
    """Return the index of contiguous storage: one chunk of the whole shape."""
    return ChunkIndex(
        grid_shape=(1,) * len(shape),
        grid_position=np.zeros(1, np.uint64),
        byte_offset=np.array([byte_offset], np.uint64),
        byte_length=np.array([byte_length], np.uint64),
        filter_mask=np.zeros(1, np.uint32),
    )


def combined_index(
    grid: Shape, grid_position: UInt64Column, byte_offset: UInt64Column, byte_length: UInt64Column
) -> ChunkIndex:
    """Return the index of chunks that were gathered from several datasets, none of them masked."""
    return ChunkIndex(
        grid_shape=grid,
        grid_position=grid_position,
        byte_offset=byte_offset,
        byte_length=byte_length,
        filter_mask=np.zeros(len(grid_position), np.uint32),
    )


def empty_index(grid: Shape) -> ChunkIndex:
    """Return the index of a dataset of which nothing is stored."""
    empty = np.zeros(0, np.uint64)
    return ChunkIndex(
        grid_shape=grid,
        grid_position=empty,
        byte_offset=empty,
        byte_length=empty,
        filter_mask=np.zeros(0, np.uint32),
    )


def _iterate(
    dataset: h5py.h5d.DatasetID, chunk_shape: Shape, grid: Shape, strides: Shape
) -> tuple[tuple[Any, ...], bool, int]:
    if _native is None:
        return _fallback.iterate_chunks(dataset, chunk_shape, grid, strides)
    with phil:
        status, columns, is_sorted, outside = _native.iterate_chunks(
            libhdf5.chunk_iter_address(), dataset.id, chunk_shape, grid, strides
        )
    if status < 0:
        # h5py's own iteration fails in the same place, and raises with libhdf5's message.
        return _fallback.iterate_chunks(dataset, chunk_shape, grid, strides)
    return tuple(np.asarray(column) for column in columns), is_sorted, outside


def _index(grid: Shape, columns: tuple[Any, ...], is_sorted: bool) -> ChunkIndex:
    if not is_sorted:
        order = np.argsort(columns[0], kind="stable")
        columns = tuple(column[order] for column in columns)
        if (columns[0][1:] == columns[0][:-1]).any():
            raise RuntimeError("the chunk index lists the same chunk twice")
    position, byte_offset, byte_length, filter_mask = columns
    return ChunkIndex(
        grid_shape=grid,
        grid_position=position,
        byte_offset=byte_offset,
        byte_length=byte_length,
        filter_mask=filter_mask,
    )


def _strides(grid: Shape) -> Shape:
    return tuple(math.prod(grid[axis + 1 :]) for axis in range(len(grid)))


def _swizzled_axis(dataset: h5py.h5d.DatasetID, maximum_shape: tuple[int | None, ...]) -> int:
    """Return the unlimited axis where the library reports it wrongly, else 0."""
    unlimited = [axis for axis, extent in enumerate(maximum_shape) if extent is None]
    if len(unlimited) != 1 or unlimited[0] == 0:
        return 0
    if libhdf5.chunk_index_type(dataset) != libhdf5.EXTENSIBLE_ARRAY:
        return 0
    return unlimited[0] if library_reports_swizzled() else 0


@functools.cache
def library_reports_swizzled() -> bool:
    """Return whether this libhdf5 lists chunk coordinates of extensible arrays unswizzled wrongly."""
    with h5py.File("probe", "w", driver="core", backing_store=False, libver="latest") as file:
        probe = file.create_dataset("x", (2, 2), "u1", maxshape=(2, None), chunks=(1, 1))
        probe[...] = 1
        file.flush()
        visited: list[h5py.h5d.StoreInfo] = []
        probe.id.chunk_iter(visited.append)
    return any(chunk.chunk_offset[1] > 1 for chunk in visited)


def _read_swizzled(
    dataset: h5py.h5d.DatasetID,
    grid: Shape,
    maximum_shape: tuple[int | None, ...],
    chunk_shape: Shape,
    unlimited_axis: int,
) -> ChunkIndex:
    """Read an extensible array whose coordinates the library reports wrongly."""
    largest = [
        1 if extent is None else -(-extent // chunk)
        for extent, chunk in zip(maximum_shape, chunk_shape, strict=True)
    ]
    # The library counts elements of the array with the unlimited dimension unbounded in its place.
    strides = tuple(
        math.prod(largest[axis + 1 :]) if axis >= unlimited_axis else 0 for axis in range(len(grid))
    )
    unbounded = (_UNBOUNDED,) * len(grid)
    columns, _, _ = _iterate(dataset, chunk_shape, unbounded, strides)
    true_position, inside = _unswizzle(columns[0], grid, largest, unlimited_axis)
    kept = tuple(column[inside] for column in (true_position, *columns[1:]))
    return _index(grid, kept, is_sorted=False)


def _unswizzle(
    element: UInt64Column, grid: Shape, largest: list[int], unlimited_axis: int
) -> tuple[UInt64Column, Any]:
    """Turn positions in the extensible array into grid positions, and tell which lie in the grid."""
    remaining = element.copy()
    position = np.zeros_like(element)
    inside = np.ones(len(element), bool)
    fixed_axes = [axis for axis in range(len(grid)) if axis != unlimited_axis]
    for axis in [*reversed(fixed_axes), unlimited_axis]:
        last = axis == unlimited_axis
        cell = remaining if last else remaining % np.uint64(largest[axis])
        remaining = remaining // np.uint64(largest[axis])
        inside &= cell < grid[axis]
        position += cell * np.uint64(_strides(grid)[axis])
    return position, inside
