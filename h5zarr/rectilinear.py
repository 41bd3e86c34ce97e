"""Chunk grids along one axis, regular or rectilinear, and such axes one after the other (pure).

Zarr v3 core, "Regular grids"; Zarr extensions, chunk grid ``rectilinear``, which zarr-python reads
from 3.4 on where ``zarr.config`` has ``array.rectilinear_chunks``::

    {"name": "rectilinear",
     "configuration": {"kind": "inline", "chunk_shapes": [[[31, 2], 28, 31], 180, 360]}}

An axis is the length of all its chunks, or a list of lengths, where ``[31, 2]`` is 31 twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from h5zarr.model import JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisGrid:
    """The chunks along one axis of an array."""

    extent: int
    """Length of the array along the axis (elements)."""
    chunk_length: int | None
    """Length of every chunk (elements); None where they differ."""
    chunk_lengths: tuple[int, ...] = ()
    """Length of each chunk (elements), where they differ; () where they do not."""

    @property
    def cell_count(self) -> int:
        """Number of chunks along the axis (grid cells)."""
        return len(self.chunk_lengths) if self.chunk_length is None else -(-self.extent // self.chunk_length)

    @property
    def is_whole(self) -> bool:
        """Whether the last chunk ends where the array does."""
        if self.chunk_length is None:
            return sum(self.chunk_lengths) == self.extent
        return self.extent % self.chunk_length == 0

    def lengths(self) -> Sequence[int]:
        """Return the length of each chunk (elements)."""
        if self.chunk_length is None:
            return self.chunk_lengths
        return (self.chunk_length,) * self.cell_count

    def to_json(self) -> JSON:
        """Return the axis as it stands in ``chunk_shapes`` of a rectilinear grid."""
        if self.chunk_length is not None:
            return self.chunk_length
        runs = [(length, len(list(run))) for length, run in groupby(self.chunk_lengths)]
        return [length if count == 1 else [length, count] for length, count in runs]


def axis_grids(metadata: Mapping[str, JSON]) -> tuple[AxisGrid, ...]:
    """Return the chunks along each axis of an array, from its metadata document.

    Raises
    ------
    ValueError
        The chunk grid is neither regular nor rectilinear, or does not end with the array.
    """
    grid = metadata["chunk_grid"]
    configuration = grid["configuration"]
    if grid["name"] == "regular":
        axes = configuration["chunk_shape"]
    elif grid["name"] == "rectilinear" and configuration["kind"] == "inline":
        axes = configuration["chunk_shapes"]
    else:
        raise ValueError(f"a chunk grid that is neither regular nor rectilinear: {grid!r}")
    return tuple(_axis(extent, axis) for extent, axis in zip(metadata["shape"], axes, strict=True))


def chunk_grid(axes: Sequence[AxisGrid]) -> JSON:
    """Return ``chunk_grid`` of a metadata document: regular where all axes are."""
    if all(axis.chunk_length is not None for axis in axes):
        return {"name": "regular", "configuration": {"chunk_shape": [axis.chunk_length for axis in axes]}}
    shapes = [axis.to_json() for axis in axes]
    return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": shapes}}


def join_axes(axes: Sequence[AxisGrid]) -> AxisGrid:
    """Return the chunks of arrays one after the other along an axis.

    Every array but the last that has elements must be whole (`AxisGrid.is_whole`).
    """
    filled = [axis for axis in axes if axis.extent] or axes[-1:]
    extent = sum(axis.extent for axis in axes)
    regular = {axis.chunk_length for axis in filled}
    if None not in regular and len(regular) == 1:
        return AxisGrid(extent=extent, chunk_length=regular.pop())
    return _axis(extent, [length for axis in filled for length in axis.lengths()])


def _axis(extent: int, lengths: JSON) -> AxisGrid:
    if isinstance(lengths, int):
        return AxisGrid(extent=extent, chunk_length=lengths)
    expanded = _expanded(lengths)
    reached = sum(expanded)
    if not expanded or not reached - expanded[-1] < extent <= reached:
        raise ValueError(f"chunks that reach to {reached}, where the array has {extent} elements")
    if len(set(expanded)) == 1:
        return AxisGrid(extent=extent, chunk_length=expanded[0])
    return AxisGrid(extent=extent, chunk_length=None, chunk_lengths=tuple(expanded))


def _expanded(lengths: Sequence[int | Sequence[int]]) -> list[int]:
    expanded: list[int] = []
    for entry in lengths:
        length, count = (entry, 1) if isinstance(entry, int) else entry
        expanded += [length] * count
    return expanded
