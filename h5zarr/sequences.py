"""Sequences of variable length as bytes: the chunks of Zarr data type ``h5zarr.sequence`` (pure).

A chunk is first the number of items of every element, in C order, as little-endian uint32; then the
items of all elements one after another, as the base dtype has them, without padding. The two elements
``[1.0, 2.0]`` and ``[]`` of base ``<f4`` are the bytes ``02000000 00000000 0000803f 00000040``.

The base may be a subarray dtype: items of HDF5's array datatype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.errors import ReferencesError

_COUNT = np.dtype("<u4")


def empty_sequence(base: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return what h5py gives for an element without items, as an object array of no dimensions.

    Assigned to a selection, such an array puts the sequence itself into every place of it.
    """
    element = np.empty((), object)
    element[()] = np.empty(0, base)
    return element


def encode_sequences(values: npt.NDArray[Any], base: np.dtype[Any]) -> bytes:
    """Return a chunk of sequences as bytes.

    Parameters
    ----------
    values
        Objects, each an array of items.
    base
        Packed dtype of an item, which the items are converted to.
    """
    elements = values.reshape(-1)
    counts = np.fromiter(map(len, elements), _COUNT, len(elements))
    return b"".join([counts.tobytes(), *(element.astype(base.base).tobytes() for element in elements)])


def decode_sequences(
    chunk: npt.NDArray[np.uint8], base: np.dtype[Any], element_count: int
) -> npt.NDArray[np.object_]:
    """Return the sequences of a chunk, an object array of one dimension.

    Parameters
    ----------
    chunk
        What `encode_sequences` gave.
    base
        Dtype of an item.
    element_count
        Number of elements in the chunk.

    Raises
    ------
    ReferencesError
        The chunk is longer or shorter than its counts of items tell.
    """
    counts, items = _split(chunk, base, element_count)
    sequences = np.empty(element_count, object)
    start = 0
    for position, count in enumerate(counts.tolist()):
        sequences[position] = items[start : start + count]
        start += count
    return sequences


def _split(
    chunk: npt.NDArray[np.uint8], base: np.dtype[Any], element_count: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[Any]]:
    """Return the counts, and all items in an array of their own: consumers may write to them."""
    header = element_count * _COUNT.itemsize
    counts = np.frombuffer(chunk[:header].tobytes().ljust(header, b"\0"), _COUNT)
    item_count = int(counts.sum(dtype=np.uint64))
    if len(chunk) != header + item_count * base.itemsize:
        raise ReferencesError(f"a chunk of sequences of {len(chunk)} bytes, not as long as its counts tell")
    return counts, chunk[header:].copy().view(base.base).reshape(item_count, *base.shape)
