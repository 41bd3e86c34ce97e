"""Data that are read with the scan: small and compact ones, and what no reference can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from h5py import h5d, h5s

from h5zarr.datatypes import depends_on_padding
from h5zarr.errors import UntranslatableError
from h5zarr.filters import plan_masks
from h5zarr.model import ChunkIndex, Layout, Shape, UInt64Column
from h5zarr.read_storage import OpenDataset
from h5zarr.read_values import NameOf, read_stored_elements, read_values

_LARGEST_PADDING_CHECK_BYTES = 4 * 2**20


@dataclass(kw_only=True, slots=True)
class InlineBudget:
    """How much of the file is read with the scan."""

    threshold: int
    """Datasets whose stored chunks take at most this much in all are read (bytes)."""
    remaining: int
    """What may still be read (bytes)."""

    def take(self, byte_length: int, found: str) -> None:
        """Take bytes from what remains.

        Raises
        ------
        UntranslatableError
            There is not so much left.
        """
        if byte_length > self.remaining:
            raise UntranslatableError(
                f"{found}, more of them than may go inline",
                "raise --inline-limit, or leave out other such datasets with --exclude",
            )
        self.remaining -= byte_length


def heap_values(dataset: OpenDataset, shape: Shape, budget: InlineBudget, name_of: NameOf) -> Any:
    """Read the values of a dataset whose stored bytes are addresses in a heap.

    Raises
    ------
    UntranslatableError
        They are more than may be read.
    """
    found = "values on a heap (variable-length or references)"
    budget.take(dataset.byte_length, found)
    values = read_values(dataset.identifier, shape, dataset.known, name_of)
    budget.take(max(value_byte_length(values) - dataset.byte_length, 0), found)
    return values


def value_byte_length(values: Any) -> int:
    """Return about how many bytes the values take inline, those on the heap included."""
    if values.dtype.names is not None:
        return sum(value_byte_length(values[name]) for name in values.dtype.names)
    if values.dtype != object:
        return int(values.nbytes)
    return sum(
        value_byte_length(value) if hasattr(value, "dtype") else len(value) for value in values.reshape(-1)
    )


def all_elements(dataset: OpenDataset, shape: Shape, budget: InlineBudget) -> bytes:
    """Read all elements of a dataset, in the packed dtype.

    Raises
    ------
    UntranslatableError
        They are more than may be read.
    """
    known = dataset.known
    if known.packed_dtype is None:
        raise TypeError(f"h5py has no NumPy type for HDF5's {known.datatype.datatype_class}")
    found = "a virtual dataset, whose data are in other datasets"
    budget.take(math.prod(shape) * known.packed_dtype.itemsize, found)
    return _packed_values(dataset, shape).tobytes()


def _packed_values(dataset: OpenDataset, shape: Shape) -> np.ndarray[Any, Any]:
    """Read all elements of a dataset as its packed dtype."""
    known = dataset.known
    assert known.dtype is not None
    assert known.packed_dtype is not None
    values = np.zeros(shape, known.dtype if known.by_h5py else known.packed_dtype)
    if values.size:
        memory_type = known.memory_type if known.by_h5py else known.packed_type
        dataset.identifier.read(h5s.ALL, h5s.ALL, values, mtype=memory_type)
    return values.astype(known.packed_dtype.base)


def stored_bytes(dataset: OpenDataset, index: ChunkIndex, budget: InlineBudget) -> dict[int, bytes]:
    """Read the stored chunks of a dataset that is compact or small, or whose masks nothing tells.

    Returns
    -------
    dict
        Stored bytes by grid position.
    """
    if not len(index):
        return {}
    total = dataset.byte_length if dataset.chunk_shape is None else int(index.byte_length.sum())
    if dataset.layout is Layout.COMPACT or 0 < total <= min(budget.threshold, budget.remaining):
        budget.remaining -= total
        wanted = index.grid_position
    elif dataset.filters:
        wanted = _affordable(index, _untold(dataset, index), budget)
    else:
        return {}
    if dataset.chunk_shape is None:
        elements = read_stored_elements(dataset.identifier, dataset.known, total) if len(wanted) else b""
        return dict.fromkeys(wanted.tolist(), elements)
    grid, chunk_shape = index.grid_shape, dataset.chunk_shape
    return {
        position: _read_chunk(dataset.identifier, grid, chunk_shape, position) for position in wanted.tolist()
    }


def _untold(dataset: OpenDataset, index: ChunkIndex) -> UInt64Column:
    shape = dataset.shape or ()
    chunk_shape = dataset.chunk_shape or shape
    return plan_masks(index, dataset.filters, shape, chunk_shape, dataset.unfiltered_partial_chunks).untold


def _affordable(index: ChunkIndex, untold: UInt64Column, budget: InlineBudget) -> UInt64Column:
    """Return the chunks to read: all, or none where they are over the limit."""
    if not len(untold):
        return untold
    total = int(index.byte_length[np.isin(index.grid_position, untold)].sum())
    if total > budget.remaining:
        return untold[:0]
    budget.remaining -= total
    return untold


def _read_chunk(dataset: h5d.DatasetID, grid: Shape, chunk_shape: Shape, position: int) -> bytes:
    cell = np.unravel_index(position, grid)
    chunk_offset = tuple(int(at) * extent for at, extent in zip(cell, chunk_shape, strict=True))
    stored: bytes = dataset.read_direct_chunk(chunk_offset)[1]
    return stored


def has_clean_padding(dataset: OpenDataset, shape: Shape) -> bool:
    """Look whether stored strings are as h5py reads them, where only the values can tell."""
    known = dataset.known
    if (
        known.packed_type is None
        or not depends_on_padding(known.datatype)
        or dataset.layout is Layout.EXTERNAL
    ):
        return False
    if not 0 < dataset.byte_length <= _LARGEST_PADDING_CHECK_BYTES:
        return dataset.byte_length == 0
    values = _packed_values(dataset, shape)
    stored = read_stored_elements(dataset.identifier, known, dataset.byte_length)
    return values.tobytes() == stored
