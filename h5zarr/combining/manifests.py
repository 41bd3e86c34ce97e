"""The references of several arrays as those of one: columns moved in its grid (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h5zarr.errors import CombineError
from h5zarr.model import Manifest, Shape, UInt32Column, UInt64Column

_ROWS_PER_BLOCK = 1 << 20
_LARGEST_GRID_CELLS = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlacedManifest:
    """The references of one array, and its place in the one that it becomes a part of."""

    manifest: Manifest
    """The references."""
    first_cell: Shape
    """(rank,) Where its grid begins in the joined one (grid cells)."""


def join_manifests(pieces: Sequence[PlacedManifest], grid: Shape) -> Manifest:
    """Return the references of all pieces as one manifest.

    Parameters
    ----------
    pieces
        The references, none of which lies in the place of another.
    grid
        Shape of the joined grid (grid cells).

    Raises
    ------
    CombineError
        The grid has more cells than 64 bits count.
    """
    if math.prod(grid) > _LARGEST_GRID_CELLS:
        raise CombineError(f"a grid of {'×'.join(map(str, grid))} chunks, which 64 bits cannot count")
    row_count = sum(len(piece.manifest.grid_position) for piece in pieces)
    grid_position, byte_offset, byte_length = (np.empty(row_count, np.uint64) for _ in range(3))
    locations, location_index = _join_locations([piece.manifest for piece in pieces], row_count)
    inline: dict[int, bytes] = {}
    start = 0
    for piece in pieces:
        manifest = piece.manifest
        rows = slice(start, start + len(manifest.grid_position))
        _move(manifest.grid_position, piece, grid, out=grid_position[rows])
        byte_offset[rows] = manifest.byte_offset
        byte_length[rows] = manifest.byte_length
        inline |= _moved_inline(piece, grid)
        start = rows.stop
    joined = Manifest(
        grid_shape=grid,
        locations=locations,
        location_index=location_index,
        grid_position=grid_position,
        byte_offset=byte_offset,
        byte_length=byte_length,
        inline=inline,
    )
    return _in_order(joined)


def _join_locations(
    manifests: Sequence[Manifest], row_count: int
) -> tuple[tuple[str, ...], UInt32Column | None]:
    """Return the URLs of all manifests, each once, and which of them each row points into."""
    numbers: dict[str, int] = {}
    location_index = np.empty(row_count, np.uint32)
    start = 0
    for manifest in manifests:
        stop = start + len(manifest.grid_position)
        if stop > start:
            own = [numbers.setdefault(url, len(numbers)) for url in manifest.locations]
            which = manifest.location_index
            location_index[start:stop] = own[0] if which is None else np.array(own, np.uint32)[which]
        start = stop
    return tuple(numbers), location_index if len(numbers) > 1 else None


def _move(position: UInt64Column, piece: PlacedManifest, grid: Shape, *, out: UInt64Column) -> None:
    """Write positions in a piece's grid as positions in the joined one, some rows at a time."""
    axes = _merged_axes(piece.manifest.grid_shape, piece.first_cell, grid)
    for start in range(0, len(position), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        out[rows] = _moved(position[rows], axes)


_Axis = tuple[int, int, int]
"""Cells of a piece along an axis, its first cell in the joined grid, and the cells of that."""


def _merged_axes(old: Shape, first: Shape, new: Shape) -> list[_Axis]:
    """Return the axes, those along which the grids are the same as one with the axis before them."""
    merged: list[_Axis] = []
    for axis in zip(old, first, new, strict=True):
        cells, start, joined_cells = axis
        if merged and start == 0 and cells == joined_cells:
            merged[-1] = tuple(value * cells for value in merged[-1])  # type: ignore[assignment]
        else:
            merged.append(axis)
    return merged


def _moved(position: UInt64Column, axes: Sequence[_Axis]) -> UInt64Column:
    if not axes:
        return position
    moved = np.zeros(len(position), np.uint64)
    stride = 1
    for cells, start, joined_cells in reversed(axes[1:]):
        position, cell = np.divmod(position, np.uint64(cells))
        moved += (cell + np.uint64(start)) * np.uint64(stride)
        stride *= joined_cells
    return moved + (position + np.uint64(axes[0][1])) * np.uint64(stride)


def _moved_inline(piece: PlacedManifest, grid: Shape) -> dict[int, bytes]:
    inline = piece.manifest.inline
    position = np.fromiter(inline, np.uint64, len(inline))
    _move(position, piece, grid, out=position)
    return dict(zip(position.tolist(), inline.values(), strict=True))


def _in_order(manifest: Manifest) -> Manifest:
    """Return the manifest with its rows sorted by grid position."""
    position = manifest.grid_position
    if bool((position[1:] > position[:-1]).all()):
        return manifest
    order = np.argsort(position, kind="stable")
    which = manifest.location_index
    return Manifest(
        grid_shape=manifest.grid_shape,
        locations=manifest.locations,
        location_index=None if which is None else which[order],
        grid_position=position[order],
        byte_offset=manifest.byte_offset[order],
        byte_length=manifest.byte_length[order],
        inline=manifest.inline,
    )
