"""Uncompressed chunks as several shorter ones, so that chunks of all files get one length (pure).

Contiguous data are one chunk as long as the file: 31 days, then 28. Without compression, a part of a
chunk that is contiguous in it is a chunk itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from h5zarr.combining.grids import Joint
from h5zarr.combining.tiles import Piece
from h5zarr.model import ArrayNode, Manifest, Shape, UInt64Column
from h5zarr.rectilinear import AxisGrid, axis_grids, chunk_grid

_SMALLEST_CHUNK_BYTES = 1024
_UNCOMPRESSED = ["bytes"]


def split_chunks(joint: Joint) -> Joint | None:
    """Return the same arrays in chunks of the greatest length that fits all; None where there is none.

    Parameters
    ----------
    joint
        Arrays that are joined along one axis. Chunks must be uncompressed, contiguous along that axis,
        and not become tiny.
    """
    filled = joint.filled
    if len(joint.axes) != 1 or not all(_is_divisible(piece.array, joint.axes[0]) for piece in filled):
        return None
    axis = joint.axes[0]
    last = max(piece.blocks for piece in filled)
    length = math.gcd(*(_divisor(piece, axis, is_last=piece.blocks == last) for piece in filled))
    if any(length * _row_bytes(piece.array, axis) < _SMALLEST_CHUNK_BYTES for piece in filled):
        return None
    # What has no elements stays behind in its own chunks, which do not matter.
    split = {id(piece): replace(piece, array=_split(piece.array, axis, length)) for piece in filled}
    return replace(joint, pieces=tuple(split.get(id(piece), piece) for piece in joint.pieces))


def _chunk_lengths(array: ArrayNode) -> list[int | None]:
    return [axis.chunk_length for axis in axis_grids(array.metadata)]


def _is_divisible(array: ArrayNode, axis: int) -> bool:
    """Return whether a part of any chunk along an axis is contiguous in it."""
    if [codec["name"] for codec in array.metadata["codecs"]] != _UNCOMPRESSED:
        return False
    lengths = _chunk_lengths(array)
    if None in lengths or any(length != 1 for length in lengths[:axis]):
        return False
    stored = _stored_lengths(array.manifest)
    return len(stored) == 1 and stored.pop() % (lengths[axis] or 1) == 0


def _stored_lengths(manifest: Manifest) -> set[int]:
    """Return the lengths of all stored chunks (bytes)."""
    return {*np.unique(manifest.byte_length).tolist(), *map(len, manifest.inline.values())}


def _row_bytes(array: ArrayNode, axis: int) -> int:
    """Return the bytes that a chunk takes for one element along an axis."""
    length = _chunk_lengths(array)[axis]
    assert length is not None
    return int(_stored_lengths(array.manifest).pop() // length)


def _divisor(piece: Piece, axis: int, *, is_last: bool) -> int:
    """Return the length that chunks of a file can be split into, and all divisors of it."""
    own = axis_grids(piece.array.metadata)[axis]
    assert own.chunk_length is not None
    if own.cell_count == 1:
        return own.extent
    return own.chunk_length if is_last else math.gcd(own.chunk_length, own.extent)


def _split(array: ArrayNode, axis: int, length: int) -> ArrayNode:
    axes = list(axis_grids(array.metadata))
    own = axes[axis]
    assert own.chunk_length is not None
    axes[axis] = AxisGrid(extent=own.extent, chunk_length=length)
    per_chunk = -(-min(own.chunk_length, own.extent) // length)
    manifest = _split_manifest(
        array, axis, axes[axis].cell_count, per_chunk, length * _row_bytes(array, axis)
    )
    return replace(array, metadata={**array.metadata, "chunk_grid": chunk_grid(axes)}, manifest=manifest)


def _split_manifest(array: ArrayNode, axis: int, cells: int, per_chunk: int, byte_length: int) -> Manifest:
    """Return references to the parts of all chunks.

    Parameters
    ----------
    array
        The array.
    axis
        Along which its chunks are split.
    cells
        Number of chunks along it afterwards (grid cells).
    per_chunk
        Parts of each chunk.
    byte_length
        Length of a part (bytes).
    """
    old = array.manifest
    position, part = _part_positions(old.grid_position, old.grid_shape, axis, cells, per_chunk)
    rows, parts = np.nonzero(part)
    inline_keys = np.fromiter(old.inline, np.uint64, len(old.inline))
    inline_position, inline_part = _part_positions(inline_keys, old.grid_shape, axis, cells, per_chunk)
    stored = list(old.inline.values())
    return Manifest(
        grid_shape=(*old.grid_shape[:axis], cells, *old.grid_shape[axis + 1 :]),
        locations=old.locations,
        location_index=None if old.location_index is None else old.location_index[rows],
        grid_position=position[rows, parts],
        byte_offset=old.byte_offset[rows] + parts.astype(np.uint64) * np.uint64(byte_length),
        byte_length=np.full(len(rows), byte_length, np.uint64),
        inline={
            int(inline_position[row, number]): stored[row][number * byte_length :][:byte_length]
            for row, number in zip(*np.nonzero(inline_part), strict=True)
        },
    )


def _part_positions(
    position: UInt64Column, old_grid: Shape, axis: int, cells: int, per_chunk: int
) -> tuple[UInt64Column, npt.NDArray[np.bool_]]:
    """Return (n, per_chunk) grid positions of all parts, and which of them are in the grid."""
    behind = np.uint64(math.prod(old_grid[axis + 1 :]))
    row, inside = np.divmod(position[:, None], behind)
    before, cell = np.divmod(row, np.uint64(old_grid[axis]))
    parts = np.add(cell * np.uint64(per_chunk), np.arange(per_chunk, dtype=np.uint64))
    moved = (before * np.uint64(cells) + parts) * behind + inside
    return moved, parts < np.uint64(cells)
