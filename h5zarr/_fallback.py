"""The functions of `h5zarr._native` for installations without a compiler: same columns, slower."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np
from h5py import h5d

from h5zarr.model import Shape, UInt32Column, UInt64Column


def iterate_chunks(
    dataset: h5d.DatasetID, chunk_shape: Shape, grid_shape: Shape, strides: Shape
) -> tuple[tuple[Any, ...], bool, int]:
    """Visit the stored chunks of a dataset with h5py's `chunk_iter`.

    Returns
    -------
    columns
        Grid position, byte offset, byte length (uint64) and filter mask (uint32).
    is_sorted
        Whether the grid positions rise strictly.
    outside_count
        Number of chunks outside the grid.
    """
    visited: list[h5d.StoreInfo] = []
    dataset.chunk_iter(visited.append)
    offsets = np.array([chunk.chunk_offset for chunk in visited], np.uint64).reshape(-1, len(chunk_shape))
    cells = offsets // np.array(chunk_shape, np.uint64)
    inside = (cells < np.array(grid_shape, np.uint64)).all(axis=1)
    position = (cells * np.array(strides, np.uint64)).sum(axis=1, dtype=np.uint64)[inside]
    rest = (
        np.array([chunk.byte_offset for chunk in visited], np.uint64)[inside],
        np.array([chunk.size for chunk in visited], np.uint64)[inside],
        np.array([chunk.filter_mask for chunk in visited], np.uint32)[inside],
    )
    is_sorted = bool((position[1:] > position[:-1]).all())
    return (position, *rest), is_sorted, int((~inside).sum())


def render_references(
    key_prefix: bytes,
    grid_shape: Shape,
    grid_position: UInt64Column,
    byte_offset: UInt64Column,
    byte_length: UInt64Column,
    locations: tuple[bytes, ...],
    location_index: UInt32Column | None = None,
) -> bytes:
    """Return references as JSON members; see `h5zarr._native.render_references`."""
    cells = np.unravel_index(grid_position.astype(np.int64), grid_shape) if grid_shape else ()
    keys = ["".join(f"/{cell}" for cell in row) for row in zip(*cells, strict=True)] if cells else repeat("")
    prefix, texts = key_prefix.decode(), [location.decode() for location in locations]
    which = repeat(0) if location_index is None else location_index.tolist()
    rows = zip(keys, which, byte_offset.tolist(), byte_length.tolist(), strict=False)
    lines = (f'{prefix}{key}":[{texts[at]},{start},{length}],\n' for key, at, start, length in rows)
    return "".join(lines).encode()
