"""Fetching the chunks of a block of a remote file all at once, before libhdf5 reads one after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from h5zarr.blocks import Block
from h5zarr.chunk_index import read_chunk_index
from h5zarr.model import ChunkIndex, Shape
from h5zarr.placement import Placement
from h5zarr.prefetch import PrefetchedFile, Span


def can_fetch(dataset: h5py.Dataset) -> bool:
    """Return whether the dataset's data lie in its own file, at places that libhdf5 tells."""
    if dataset.shape is None or dataset.is_virtual or dataset.external is not None:
        return False
    if dataset.chunks is not None:
        return True
    return dataset.id.get_offset() is not None and dataset.id.get_storage_size() > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockFetcher:
    """Fetches what libhdf5 will read of a block."""

    remote: PrefetchedFile
    """The file."""
    dataset: h5py.Dataset
    """The dataset; `can_fetch` is true of it."""
    place: Placement
    """Where it is in the array whose blocks are asked for."""

    def __call__(self, block: Block) -> None:
        """Fetch a block.

        Raises
        ------
        SourceError
            It cannot be read.
        """
        selection = self.place.in_dataset(block.selection)[: len(self.dataset.shape)]
        if self.dataset.chunks is None:
            self.remote.prefetch([self._contiguous(selection)])
        else:
            self.remote.prefetch(self._chunks(selection))

    def _contiguous(self, selection: Sequence[slice]) -> Span:
        """Return the span from the first to the last element of a selection."""
        itemsize, shape = self.dataset.id.get_type().get_size(), self.dataset.shape
        first = _position([part.start for part in selection], shape)
        last = _position([part.stop - 1 for part in selection], shape)
        return Span(
            byte_offset=self.dataset.id.get_offset() + first * itemsize,
            byte_length=(last - first + 1) * itemsize,
        )

    def _chunks(self, selection: Sequence[slice]) -> list[Span]:
        cells = [
            np.arange(part.start // length, -(-part.stop // length))
            for part, length in zip(selection, self.dataset.chunks, strict=True)
        ]
        grid = self._index.grid_shape
        wanted = np.ravel_multi_index(np.meshgrid(*cells, indexing="ij"), grid).reshape(-1).astype(np.uint64)
        known = self._index.grid_position
        rows = np.searchsorted(known, wanted)
        rows = rows[known[np.minimum(rows, len(known) - 1)] == wanted] if len(known) else rows[:0]
        offsets, lengths = self._index.byte_offset[rows].tolist(), self._index.byte_length[rows].tolist()
        return [Span(byte_offset=at, byte_length=length) for at, length in zip(offsets, lengths, strict=True)]

    @functools.cached_property
    def _index(self) -> ChunkIndex:
        shape, chunks = self.dataset.shape, self.dataset.chunks
        return read_chunk_index(self.dataset.id, shape, self.dataset.maxshape, chunks)


def _position(element: Sequence[int], shape: Shape) -> int:
    """Return the linear position of an element, C order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return sum(at * stride for at, stride in zip(element, strides, strict=True))
