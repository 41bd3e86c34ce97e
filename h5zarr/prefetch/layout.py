"""The data layout message: where a dataset's elements, or the index of its chunks, are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import FileFormat, FormatError

CONTIGUOUS = 1
CHUNKED = 2
VIRTUAL = 3

_SINGLE_CHUNK_FILTERED = 0x02


class IndexKind(IntEnum):
    """Chunk indexes (HDF5 File Format Specification, appendix C; the first is older)."""

    BTREE_V1 = 0
    SINGLE = 1
    IMPLICIT = 2
    FIXED_ARRAY = 3
    EXTENSIBLE_ARRAY = 4
    BTREE_V2 = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where data are."""

    kind: int
    """`CONTIGUOUS`, `CHUNKED` or `VIRTUAL`."""
    address: int
    """Address of the elements, the chunk index, or the heap collection of a virtual dataset."""
    byte_length: int | None = None
    """Length of contiguous data, or of a single chunk that is filtered (bytes); None: not told."""
    index: IndexKind | None = None
    """The chunk index."""
    chunk_shape: tuple[int, ...] = field(default=())
    """Shape of a chunk (elements), then the length of an element (bytes)."""

    @property
    def rank(self) -> int:
        """Number of dimensions of the chunks."""
        return len(self.chunk_shape) - 1

    @property
    def chunk_bytes(self) -> int:
        """Length of a chunk before filters (bytes)."""
        return math.prod(self.chunk_shape)


def parse_layout(body: memoryview, file_format: FileFormat) -> Layout | None:
    """Parse a data layout message (IV.A.2.i); None where the elements are in the message.

    Version 5, of HDF5 2.0, differs from 4 in the width of chunk lengths in the index only.
    """
    fields = Fields(body, file_format)
    version = fields.uint(1)
    if version in (1, 2):
        return _parse_old(fields)
    if version not in (3, 4, 5):
        raise FormatError(f"data layout version {version}")
    kind = fields.uint(1)
    if kind == CONTIGUOUS:
        return Layout(kind=kind, address=fields.address(), byte_length=fields.length())
    if kind == VIRTUAL:
        return Layout(kind=kind, address=fields.address())
    if kind != CHUNKED:
        return None
    return _parse_chunked_3(fields) if version == 3 else _parse_chunked_4(fields)


def _parse_old(fields: Fields) -> Layout | None:
    rank, kind = fields.uint(1), fields.uint(1)
    fields.skip(5)
    if kind not in (CONTIGUOUS, CHUNKED):
        return None
    address = fields.address()
    extents = tuple(fields.uint(4) for _ in range(rank))
    if kind == CONTIGUOUS:
        return Layout(kind=kind, address=address)
    return Layout(kind=kind, address=address, index=IndexKind.BTREE_V1, chunk_shape=extents)


def _parse_chunked_3(fields: Fields) -> Layout:
    rank, address = fields.uint(1), fields.address()
    chunk_shape = tuple(fields.uint(4) for _ in range(rank))
    return Layout(kind=CHUNKED, address=address, index=IndexKind.BTREE_V1, chunk_shape=chunk_shape)


def _parse_chunked_4(fields: Fields) -> Layout:
    flags, rank, width = fields.uint(1), fields.uint(1), fields.uint(1)
    chunk_shape = tuple(fields.uint(width) for _ in range(rank))
    index = IndexKind(fields.uint(1))
    byte_length = None
    if index is IndexKind.SINGLE and flags & _SINGLE_CHUNK_FILTERED:
        byte_length = fields.length()
        fields.skip(4)
    fields.skip(_INDEX_PARAMETER_BYTES.get(index, 0))
    return Layout(
        kind=CHUNKED,
        address=fields.address(),
        byte_length=byte_length,
        index=index,
        chunk_shape=chunk_shape,
    )


_INDEX_PARAMETER_BYTES = {
    IndexKind.FIXED_ARRAY: 1,
    IndexKind.EXTENSIBLE_ARRAY: 5,
    IndexKind.BTREE_V2: 6,
}
"""Length of the parameters of an index (bytes), which stand in its own header too."""
