"""Where a file's dataset stands in an array that several files were joined to (pure)."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from h5zarr.blocks import positions
from h5zarr.model import JSON, Part, Shape
from h5zarr.rectilinear import AxisGrid, axis_grids


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A box of an array that holds the elements of one dataset."""

    start: Shape
    """(rank,) Where the box begins in the array (elements)."""
    shape: Shape
    """(rank,) Its extent (elements)."""
    added: tuple[int, ...] = ()
    """Axes of the array that the dataset does not have; the box is one element long there."""
    joined: bool = False
    """Whether files were joined along an axis of the array, so that each file has a box of its own."""

    def in_array(self, selection: Sequence[slice]) -> tuple[slice, ...]:
        """Return the elements of the array that a selection of the box stands for."""
        return tuple(
            slice(start + part.start, start + part.stop)
            for start, part in zip(self.start, selection, strict=True)
        )

    def in_dataset(self, selection: Sequence[slice]) -> tuple[slice, ...]:
        """Return the elements of the dataset that a selection of the box stands for."""
        return tuple(part for axis, part in enumerate(selection) if axis not in self.added)

    def of_dataset(self, begin: Shape, extent: Shape) -> tuple[Shape, Shape]:
        """Return where a box of the dataset begins in the array, and its extent (elements)."""
        begins, extents = iter(begin), iter(extent)
        axes = range(len(self.start))
        return (
            tuple(self.start[axis] + (0 if axis in self.added else next(begins, 0)) for axis in axes),
            tuple(1 if axis in self.added else next(extents, self.shape[axis]) for axis in axes),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkAxes:
    """The chunks of an array, axis by axis, regular or not."""

    axes: tuple[AxisGrid, ...]
    """(rank,) The chunks along each axis."""

    @classmethod
    def of(cls, metadata: Mapping[str, JSON], shape: Shape, chunk_shape: Shape | None) -> ChunkAxes:
        """Return the chunks of an array.

        Parameters
        ----------
        metadata
            Its ``zarr.json``; of Zarr v2, anything without a chunk grid.
        shape
            Its shape (elements).
        chunk_shape
            The shape of its chunks (elements); None where they differ.
        """
        if chunk_shape is None:
            return cls(axes=axis_grids(metadata))
        axes = [
            AxisGrid(extent=extent, chunk_length=max(1, length))
            for extent, length in zip(shape, chunk_shape, strict=True)
        ]
        return cls(axes=tuple(axes))

    def touching(self, start: Shape, extent: Shape) -> Iterator[Shape]:
        """Yield the chunks (grid cells) that hold elements of a box, as far as it is in the array."""
        ranges = [
            _cells(axis, begin, min(begin + length, axis.extent))
            for axis, begin, length in zip(self.axes, start, extent, strict=True)
        ]
        return positions(ranges)


def _cells(axis: AxisGrid, start: int, stop: int) -> range:
    if axis.chunk_length is not None:
        return range(start // axis.chunk_length, -(-stop // axis.chunk_length))
    ends = list(itertools.accumulate(axis.chunk_lengths))
    return (
        range(bisect.bisect_right(ends, start), bisect.bisect_left(ends, stop) + 1)
        if start < stop
        else range(0)
    )


def place(path: str, dimensions: Sequence[str | None], shape: Shape, part: Part, own: Shape) -> Placement:
    """Return where a dataset of one part stands in a combined array.

    Parameters
    ----------
    path
        Path of the array in the hierarchy.
    dimensions
        (rank of the array,) names of its dimensions.
    shape
        Its shape (elements).
    part
        The file.
    own
        Shape of the dataset there (elements); of lower rank than the array's where the files were joined
        along a new dimension.
    """
    keys = [next(_joined(path, name, part), None) for name in dimensions]
    # The new dimension is the first that files were joined along.
    added = [axis for axis, key in enumerate(keys) if key is not None][: max(0, len(shape) - len(own))]
    for axis, extent in zip([axis for axis in range(len(shape)) if axis not in added], own, strict=False):
        # Dimensions of a group and of one above may have one name: the length tells which is meant.
        fitting = (key for key in _joined(path, dimensions[axis], part) if part.extent[key] == extent)
        keys[axis] = next(fitting, keys[axis])
    return Placement(
        start=tuple(0 if key is None else part.start[key] for key in keys),
        shape=tuple(
            extent if key is None else part.extent[key] for key, extent in zip(keys, shape, strict=True)
        ),
        added=tuple(added),
        joined=any(key is not None for key in keys),
    )


def covers(path: str, dimensions: Sequence[str | None], shape: Shape, parts: Sequence[Part]) -> bool:
    """Return whether the boxes of all parts together are a joined array, each of its elements in one box.

    Parameters
    ----------
    path, dimensions, shape
        As of `place`.
    parts
        All files.
    """
    known = {key: None for part in parts for key in part.start}
    keys: list[list[str | None]] = [
        [key for key in _names_above(path, name) if key in known] for name in dimensions
    ]
    if not any(keys):
        return True
    # A dimension may be one of several groups; which it is, `place` tells file by file.
    choices = itertools.product(*(axis or [None] for axis in keys))
    return any(_tile(choice, shape, parts) for choice in choices)


def _tile(keys: Sequence[str | None], shape: Shape, parts: Sequence[Part]) -> bool:
    """Return whether parts lie on a grid without gaps, one in each of its cells."""
    joined = [(key, extent) for key, extent in zip(keys, shape, strict=True) if key is not None]
    if any(key not in part.start for part in parts for key, _ in joined):
        return False
    boxes = {tuple((part.start[key], part.extent[key]) for key, _ in joined) for part in parts}
    filled = {box for box in boxes if all(length for _, length in box)}
    axes = [sorted({box[axis] for box in filled}) for axis in range(len(joined))]
    whole = all(_is_line(axis, extent) for axis, (_, extent) in zip(axes, joined, strict=True))
    return whole and len(filled) == math.prod(map(len, axes))


def _is_line(pieces: Sequence[tuple[int, int]], extent: int) -> bool:
    """Return whether pieces (start and length) follow one another from 0 to an extent."""
    starts = [0, *(start + length for start, length in pieces)]
    return starts == [*(start for start, _ in pieces), extent]


def _joined(path: str, name: str | None, part: Part) -> Iterator[str]:
    """Yield what a part may call a dimension, the nearest group's first; nothing: it is not joined."""
    return (key for key in _names_above(path, name) if key in part.start)


def _names_above(path: str, name: str | None) -> Iterator[str]:
    """Yield the path of a dimension in each group above an array, the nearest first."""
    group = path.strip("/")
    while name is not None and group:
        group = group.rpartition("/")[0]
        yield f"{group}/{name}".lstrip("/")
