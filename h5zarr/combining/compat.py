"""Arrays that several files have in the same place: whether they are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from h5zarr.combining.reader import Reader
from h5zarr.combining.rules import metadata_difference, same_entry
from h5zarr.combining.tiles import Piece
from h5zarr.combining.values import read_values, same_values
from h5zarr.errors import CombineError
from h5zarr.model import ArrayNode, Manifest

_MOST_ELEMENTS = 2**26
_STORAGE = ("codecs", "chunk_grid", "fill_value")
"""What the same stored chunks have to have in common to be the same values."""
_Pair = tuple[Piece, Piece]


def find_difference(
    copies: Sequence[Sequence[Piece]], reader: Reader, *, with_attributes: bool = True
) -> str | None:
    """Return what differs between arrays that should be the same, None where nothing does.

    Dimensions, data types, attributes and values count, but not how they are stored: references that
    are the same are not read, nor is anything decoded where the stored bytes are.

    Parameters
    ----------
    copies
        Lists of arrays that should be the same.
    reader
        Fetches their chunks.
    with_attributes
        Whether attributes count that do not tell what numbers mean.

    Raises
    ------
    CombineError
        An array is too large to compare.
    SourceError
        A file cannot be read.
    """
    pairs = [(first, other) for first, *others in copies for other in others]
    for first, other in pairs:
        found = metadata_difference(first.array, other.array, with_attributes=with_attributes)
        if found is not None:
            return f"{first.tile.name} and {other.tile.name} differ in {found}"
    pairs = [pair for pair in pairs if not _have_same_references(pair[0].array, pair[1].array)]
    pairs = _with_other_bytes(pairs, reader)
    for first, other in pairs:
        if not _have_same_values(first, other, reader):
            return f"{first.tile.name} and {other.tile.name} differ in values of {first.array.path}"
    return None


def _have_same_references(first: ArrayNode, other: ArrayNode) -> bool:
    return _are_stored_alike(first, other) and _is_same_manifest(first.manifest, other.manifest)


def _are_stored_alike(first: ArrayNode, other: ArrayNode) -> bool:
    """Return whether the same stored bytes are the same values."""
    return all(same_entry(key, first.metadata[key], other.metadata[key]) for key in _STORAGE)


def _is_same_manifest(first: Manifest, other: Manifest) -> bool:
    if first.inline != other.inline or len(first.grid_position) != len(other.grid_position):
        return False
    if not len(first.grid_position):
        return True
    columns = ("grid_position", "byte_offset", "byte_length")
    same = all(np.array_equal(getattr(first, name), getattr(other, name)) for name in columns)
    return same and _urls(first) == _urls(other)


def _urls(manifest: Manifest) -> list[str]:
    """Return the URL of each row; one for all where all are in the same file."""
    which = manifest.location_index
    return list(manifest.locations[:1]) if which is None else [manifest.locations[n] for n in which.tolist()]


def _with_other_bytes(pairs: Sequence[_Pair], reader: Reader) -> list[_Pair]:
    """Return the pairs whose stored bytes tell not that they are the same."""
    alike = [pair for pair in pairs if _are_stored_alike(pair[0].array, pair[1].array)]
    arrays = {id(piece.array): piece.array for pair in alike for piece in pair}
    digests = dict(zip(arrays, reader.stored_digests(list(arrays.values())), strict=True))
    same = {id(other) for first, other in alike if digests[id(first.array)] == digests[id(other.array)]}
    return [pair for pair in pairs if id(pair[1]) not in same]


def _have_same_values(first: Piece, other: Piece, reader: Reader) -> bool:
    if math.prod(first.array.metadata["shape"]) > _MOST_ELEMENTS:
        raise CombineError(
            f"{first.tile.name} and {other.tile.name} store {first.array.path} differently, and it is too "
            "large to compare values; take that of the first file (compat='first', --compat first)"
        )
    return same_values(*read_values([first.array, other.array], reader))
