"""HDF5 filter pipelines and filter masks as Zarr codecs (pure).

The order is the same on both sides: of writing. A pipeline is translated filter by filter into
codecs that every Zarr v3 reader with numcodecs has, where these are exact; as a whole into
``h5zarr.hdf5``, which decodes with libhdf5 itself, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.model import JSON, ChunkIndex, Filter, Shape, UInt32Column, UInt64Column

DEFLATE = 1
SHUFFLE = 2
FLETCHER32 = 3
BZIP2 = 307
BLOSC = 32001
ZSTD = 32015

_BLOSC_COMPRESSORS = ("blosclz", "lz4", "lz4hc", None, "zlib", "zstd")
_BLOSC_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
_BLOSC_TYPE_SIZES = range(1, 256)


def standard_codecs(filters: Sequence[Filter], chunk_byte_length: int) -> list[JSON] | None:
    """Return the codecs that undo a pipeline exactly, or None where there are none.

    Parameters
    ----------
    filters
        The filters that were applied to the chunks, in the order of writing.
    chunk_byte_length
        Bytes of a whole chunk before the first filter.
    """
    codecs: list[JSON] = []
    known_byte_length: int | None = chunk_byte_length
    for one in filters:
        translate = _STANDARD.get(one.identifier)
        translated = translate(one, known_byte_length) if translate is not None else None
        if translated is None:
            return None
        codecs.extend(translated)
        if one.identifier != SHUFFLE:
            known_byte_length = None
    return codecs


def _deflate(one: Filter, byte_length: int | None) -> list[JSON]:
    level = min(one.client_data[0], 9) if one.client_data else 1
    return [{"name": "numcodecs.zlib", "configuration": {"level": level}}]


def _shuffle(one: Filter, byte_length: int | None) -> list[JSON] | None:
    """HDF5 leaves the tail of a buffer that is no multiple of the element size; numcodecs refuses it."""
    if not one.client_data or byte_length is None:
        return None
    element = one.client_data[0]
    if element <= 1:
        return []
    if byte_length % element:
        return None
    return [{"name": "numcodecs.shuffle", "configuration": {"elementsize": element}}]


def _fletcher32(one: Filter, byte_length: int | None) -> list[JSON]:
    return [{"name": "numcodecs.fletcher32", "configuration": {}}]


def _bzip2(one: Filter, byte_length: int | None) -> list[JSON]:
    level = one.client_data[0] if one.client_data and 1 <= one.client_data[0] <= 9 else 9
    return [{"name": "numcodecs.bz2", "configuration": {"level": level}}]


def _zstd(one: Filter, byte_length: int | None) -> list[JSON]:
    level = one.client_data[0] if one.client_data and one.client_data[0] <= 22 else 3
    return [{"name": "zstd", "configuration": {"level": level, "checksum": False}}]


def _blosc(one: Filter, byte_length: int | None) -> list[JSON] | None:
    """The compressed buffer says itself how it is to be undone; the configuration repeats it.

    client_data: filter revision, Blosc version, type size, chunk bytes, level, shuffle, compressor.
    """
    data = one.client_data
    if len(data) < 7 or data[6] >= len(_BLOSC_COMPRESSORS) or _BLOSC_COMPRESSORS[data[6]] is None:
        return None
    configuration = {
        "cname": _BLOSC_COMPRESSORS[data[6]],
        "clevel": min(data[4], 9),
        "shuffle": _BLOSC_SHUFFLES[min(data[5], 2)],
        "typesize": data[2] if data[2] in _BLOSC_TYPE_SIZES else 1,
        "blocksize": 0,
    }
    return [{"name": "blosc", "configuration": configuration}]


_STANDARD: dict[int, Callable[[Filter, int | None], list[JSON] | None]] = {
    DEFLATE: _deflate,
    SHUFFLE: _shuffle,
    FLETCHER32: _fletcher32,
    BZIP2: _bzip2,
    BLOSC: _blosc,
    ZSTD: _zstd,
}


# Filter masks ----------------------------------------------------------------------------

_MOST_MASKED_LENGTHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskPlan:
    """How a reader learns which filters each chunk of a dataset went through."""

    filter_mask: int
    """Mask of most chunks; bit i: filter i was skipped."""
    mask_by_byte_length: tuple[tuple[int, int], ...]
    """Pairs of a stored length (bytes), which no chunk with another mask has, and a mask."""
    untold: UInt64Column
    """(n,) Grid positions of chunks whose mask neither tells."""
    untold_mask: UInt32Column
    """(n,) Their masks."""


def plan_masks(
    index: ChunkIndex,
    filters: Sequence[Filter],
    shape: Shape,
    chunk_shape: Shape,
    unfiltered_partial_chunks: bool,
) -> MaskPlan:
    """Find out how the chunks' filter masks can be told.

    Parameters
    ----------
    index
        The stored chunks.
    filters
        The dataset's filter pipeline.
    shape, chunk_shape
        (rank,) in elements.
    unfiltered_partial_chunks
        Whether partial edge chunks skip the pipeline, which their masks do not say.
    """
    everything = (1 << len(filters)) - 1
    if not everything or not len(index):
        return _plan(0, (), index, index.filter_mask, np.zeros(0, np.intp))
    masks = index.filter_mask & np.uint32(everything)
    if unfiltered_partial_chunks:
        masks = np.where(_is_partial(index, shape, chunk_shape), np.uint32(everything), masks)
    if (masks == masks[0]).all():
        return _plan(int(masks[0]), (), index, masks, np.zeros(0, np.intp))
    present, counts = np.unique(masks, return_counts=True)
    return _plan_mixed(int(present[counts.argmax()]), present.tolist(), index, masks)


def _plan_mixed(most: int, present: list[int], index: ChunkIndex, masks: UInt32Column) -> MaskPlan:
    lengths = {mask: np.unique(index.byte_length[masks == mask]) for mask in present}
    by_length: list[tuple[int, int]] = []
    untold: list[npt.NDArray[Any]] = []
    for mask in present:
        if mask == most:
            continue
        others = np.concatenate([lengths[other] for other in present if other != mask])
        told = np.setdiff1d(lengths[mask], others)[:_MOST_MASKED_LENGTHS]
        by_length.extend((int(length), mask) for length in told)
        untold.append(np.flatnonzero((masks == mask) & ~np.isin(index.byte_length, told)))
    return _plan(most, tuple(sorted(by_length)), index, masks, np.concatenate(untold))


def _plan(
    most: int,
    by_length: tuple[tuple[int, int], ...],
    index: ChunkIndex,
    masks: UInt32Column,
    untold: npt.NDArray[np.intp],
) -> MaskPlan:
    return MaskPlan(
        filter_mask=most,
        mask_by_byte_length=by_length,
        untold=index.grid_position[untold],
        untold_mask=masks[untold],
    )


def _is_partial(index: ChunkIndex, shape: Shape, chunk_shape: Shape) -> npt.NDArray[np.bool_]:
    """Return (n,) whether each chunk reaches over the edge of the array."""
    ends = (index.chunk_coords + np.uint64(1)) * np.array(chunk_shape, np.uint64)
    return np.asarray((ends > np.array(shape, np.uint64)).any(axis=1), np.bool_)
