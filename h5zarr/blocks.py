"""Blocks of whole chunks in which an array is compared, and the choice of chunks to sample (pure)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from h5zarr.model import Shape, grid_shape

_BLOCK_BYTES = 8 * 2**20
_BLOCK_CHUNKS = 1024


def positions(ranges: Sequence[range]) -> Iterator[Shape]:
    """Yield the product of ranges in C order; `itertools.product` would hold all their numbers in memory."""
    if not ranges:
        yield ()
        return
    for number in ranges[0]:
        for rest in positions(ranges[1:]):
            yield (number, *rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """How an array is cut into chunks."""

    shape: Shape
    """Shape of the array in elements."""
    chunk_shape: Shape
    """Shape of a chunk in elements."""

    @property
    def cells(self) -> Shape:
        """Number of chunks along each dimension (grid cells)."""
        return grid_shape(self.shape, self.chunk_shape)

    @property
    def chunk_count(self) -> int:
        """Number of chunks, absent ones too."""
        return math.prod(self.cells)

    def coordinates(self) -> Iterator[Shape]:
        """Yield the position of every chunk (grid cells), in C order."""
        return positions([range(cells) for cells in self.cells])

    def touching(self, start: Shape, extent: Shape) -> Iterator[Shape]:
        """Yield the chunks (grid cells) that hold elements of a box, as far as it is in the array."""
        ranges = [
            range(begin // chunk, -(-min(begin + length, limit) // chunk))
            for begin, length, limit, chunk in zip(start, extent, self.shape, self.chunk_shape, strict=True)
        ]
        return positions(ranges)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A box of whole chunks."""

    grid: Grid
    """The array's chunks."""
    first: Shape
    """Position of its first chunk (grid cells)."""
    cells: Shape
    """Number of its chunks along each dimension (grid cells)."""

    @property
    def chunk_count(self) -> int:
        """Number of its chunks."""
        return math.prod(self.cells)

    @property
    def selection(self) -> tuple[slice, ...]:
        """Its elements in the array."""
        return tuple(
            slice(first * chunk, min((first + count) * chunk, extent))
            for first, count, chunk, extent in zip(
                self.first, self.cells, self.grid.chunk_shape, self.grid.shape, strict=True
            )
        )

    @property
    def element_count(self) -> int:
        """Number of its elements inside the array."""
        return math.prod(part.stop - part.start for part in self.selection)

    def chunks(self) -> Iterator[Block]:
        """Yield each of its chunks as a block, in C order."""
        for cells in positions([range(cells) for cells in self.cells]):
            coordinates = tuple(first + cell for first, cell in zip(self.first, cells, strict=True))
            yield single_chunk(self.grid, coordinates)


def single_chunk(grid: Grid, chunk_coords: Shape) -> Block:
    """Return the block that is one chunk (grid cells)."""
    return Block(grid=grid, first=chunk_coords, cells=(1,) * len(chunk_coords))


def blocks(grid: Grid, element_bytes: int) -> Iterator[Block]:
    """Yield blocks that cover an array, in C order: some MiB each, or one chunk where that is larger.

    Parameters
    ----------
    grid
        The array's chunks.
    element_bytes
        Size of an element in memory (bytes).
    """
    chunk_bytes = max(1, math.prod(grid.chunk_shape) * element_bytes)
    steps = _steps(grid.cells, max(1, min(_BLOCK_BYTES // chunk_bytes, _BLOCK_CHUNKS)))
    starts = [range(0, cells, step) for cells, step in zip(grid.cells, steps, strict=True)]
    for first in positions(starts):
        cells = tuple(
            min(step, limit - start) for step, limit, start in zip(steps, grid.cells, first, strict=True)
        )
        yield Block(grid=grid, first=first, cells=cells)


def _steps(cells: Shape, chunk_count: int) -> Shape:
    """Return how many chunks to take along each dimension; last ones first, as neighbours in C order."""
    steps: list[int] = []
    for extent in reversed(cells):
        step = max(1, min(extent, chunk_count))
        steps.append(step)
        chunk_count = max(1, chunk_count // step) if step == extent else 1
    return tuple(reversed(steps))


def sample_chunks(grids: Sequence[Grid], chunk_count: int, seed: int) -> list[list[Block]]:
    """Choose chunks of many arrays: one of as many arrays as possible, the rest evenly over all chunks.

    Parameters
    ----------
    grids
        The arrays' chunks.
    chunk_count
        How many chunks to choose.
    seed
        The same seed chooses the same chunks.

    Returns
    -------
    list
        Chosen chunks of each array, in C order.
    """
    chooser = random.Random(seed)
    ends = list(itertools.accumulate(grid.chunk_count for grid in grids))
    total = ends[-1] if ends else 0
    filled = [number for number, grid in enumerate(grids) if grid.chunk_count]
    chosen = {
        ends[number] - 1 - chooser.randrange(grids[number].chunk_count)
        for number in chooser.sample(filled, min(chunk_count, len(filled)))
    }
    further = iter(chooser.sample(range(total), min(chunk_count, total)))
    while len(chosen) < min(chunk_count, total):
        chosen.add(next(further))
    return _by_array(grids, ends, chosen)


def _by_array(grids: Sequence[Grid], ends: Sequence[int], chosen: set[int]) -> list[list[Block]]:
    chunks: list[list[Block]] = [[] for _ in grids]
    ordered = sorted(chosen)
    for position, number in zip(ordered, np.searchsorted(ends, ordered, side="right").tolist(), strict=True):
        grid = grids[number]
        cell = position - (ends[number] - grid.chunk_count)
        coordinates = np.unravel_index(cell, grid.cells) if grid.cells else ()
        chunks[number].append(single_chunk(grid, tuple(map(int, coordinates))))
    return chunks
