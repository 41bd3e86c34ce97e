"""Copies of an array's chunks: which are read together, and what objects become of them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from h5zarr.errors import H5zarrError, SourceError
from h5zarr.model import ArrayNode, Shape, UInt64Column
from h5zarr.prefetch.redact import describe
from h5zarr.rectilinear import axis_grids
from h5zarr.references import keys
from h5zarr.references.shards import Sharding
from h5zarr.references.stored_bytes import StoredBytes

if TYPE_CHECKING:
    from h5zarr.references.transcode import Transcoder

Int64Column = npt.NDArray[np.int64]
Piece = bytes | memoryview

_DECODING_ERRORS = (
    ArithmeticError,
    EOFError,
    H5zarrError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What codecs raise of damaged chunks."""
_BATCH_BYTES = 16 * 2**20
_BATCH_CHUNKS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """A value of a Zarr store: a chunk or a shard."""

    key: str
    """Its store key."""
    pieces: Sequence[Piece]
    """Its bytes, one piece after the other."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chunks:
    """Chunks of an array, those of one object side by side."""

    number: UInt64Column
    """(n,) Which object each goes into: linear position in the grid of chunks or of shards."""
    entry: UInt64Column
    """(n,) Where it stands in a shard's index; 0 without shards."""
    position: UInt64Column
    """(n,) Its linear position in the grid of chunks, C order (grid cells)."""
    location: Int64Column
    """(n,) Which of the manifest's locations holds it; -1 for inline ones."""
    byte_offset: UInt64Column
    """(n,) Where it begins there (bytes)."""
    byte_length: UInt64Column
    """(n,) How long it is (bytes)."""

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> Chunks:
        return Chunks(
            number=self.number[rows],
            entry=self.entry[rows],
            position=self.position[rows],
            location=self.location[rows],
            byte_offset=self.byte_offset[rows],
            byte_length=self.byte_length[rows],
        )

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayCopy:
    """How the chunks of an array are copied."""

    array: ArrayNode
    """The array."""
    sharding: Sharding | None
    """How they are packed; None: each is an object."""
    transcoder: Transcoder | None
    """What changes their codecs; None: they stay as they are."""

    @property
    def byte_length(self) -> int:
        """Length of all chunks as they are stored now (bytes)."""
        manifest = self.array.manifest
        return int(manifest.byte_length.sum()) + sum(map(len, manifest.inline.values()))

    def batches(self) -> Iterator[Chunks]:
        """Yield the chunks of whole objects, some at a time, in the order of their files where it can be."""
        chunks = self._chunks()
        shard = chunks.number if self.sharding is not None else np.zeros_like(chunks.number)
        chunks = chunks[np.lexsort((chunks.byte_offset, chunks.location, shard))]
        first = np.flatnonzero(_changes(chunks.number))
        begin = np.cumsum(chunks.byte_length) - chunks.byte_length
        is_first = _changes(begin[first] // np.uint64(_BATCH_BYTES)) | _changes(first // _BATCH_CHUNKS)
        limits = [*first[is_first].tolist(), len(chunks)]
        for start, stop in itertools.pairwise(limits):
            yield chunks[start:stop]

    def _chunks(self) -> Chunks:
        manifest = self.array.manifest
        inline = np.array(list(manifest.inline), np.uint64)
        lengths = np.array([len(content) for content in manifest.inline.values()], np.uint64)
        which = np.zeros(len(manifest.grid_position), np.int64)
        if manifest.location_index is not None:
            which[:] = manifest.location_index
        position = np.concatenate([manifest.grid_position, inline])
        number, entry = position, np.zeros_like(position)
        if self.sharding is not None:
            number, entry = self.sharding.place(position)
        return Chunks(
            number=number,
            entry=entry,
            position=position,
            location=np.concatenate([which, np.full(len(inline), -1)]),
            byte_offset=np.concatenate([manifest.byte_offset, np.zeros_like(inline)]),
            byte_length=np.concatenate([manifest.byte_length, lengths]),
        )

    def objects(self, chunks: Chunks, stored: StoredBytes) -> Iterator[StoredObject]:
        """Yield the objects of a batch.

        Parameters
        ----------
        chunks
            What `batches` yielded.
        stored
            Reads the files.

        Raises
        ------
        SourceError
            A file cannot be read, or a chunk cannot be decoded.
        """
        is_first = self._begins_piece(chunks)
        pieces: list[Piece] = self._read(chunks, np.flatnonzero(is_first), stored)
        byte_length = chunks.byte_length
        if self.transcoder is not None:
            pieces = self._transcoded(self.transcoder, pieces, chunks.position)
            byte_length = np.array([len(piece) for piece in pieces], np.uint64)
        first = np.flatnonzero(_changes(chunks.number))
        names = self._names(chunks.number[first])
        limits = np.append(first, len(chunks)).tolist()
        pieces_before = np.append(np.cumsum(is_first) - is_first, len(pieces)).tolist()
        for name, (start, stop) in zip(names, itertools.pairwise(limits), strict=True):
            own = pieces[pieces_before[start] : pieces_before[stop]]
            if self.sharding is not None:
                own.append(self.sharding.index(chunks.entry[start:stop], byte_length[start:stop]))
            yield StoredObject(key=name, pieces=own)

    def _transcoded(
        self, transcoder: Transcoder, pieces: Sequence[Piece], positions: UInt64Column
    ) -> list[Piece]:
        try:
            return [*transcoder(pieces, self._shapes(positions))]
        except _DECODING_ERRORS as error:
            raise SourceError(
                f"{self.array.path}: its chunks cannot be decoded: {describe(error)}; leave it out with"
                " --exclude, or leave out --portable"
            ) from error

    def _names(self, numbers: UInt64Column) -> list[str]:
        grid = self.array.manifest.grid_shape
        if self.sharding is not None:
            grid = self.sharding.shard_grid_shape
        return keys.DEFAULT.keys(self.array.path, grid, numbers)

    def _begins_piece(self, chunks: Chunks) -> npt.NDArray[np.bool_]:
        """Return which chunks do not follow the one before in its file, or must be apart from it."""
        if self.transcoder is not None:
            return np.ones(len(chunks), bool)
        end = chunks.byte_offset + chunks.byte_length
        follows = np.concatenate([[False], chunks.byte_offset[1:] == end[:-1]])
        apart = _changes(chunks.number) | _changes(chunks.location) | (chunks.location < 0)
        is_first: npt.NDArray[np.bool_] = apart | ~follows
        return is_first

    def _read(self, chunks: Chunks, first: npt.NDArray[np.intp], stored: StoredBytes) -> list[Piece]:
        """Return pieces, each of the bytes of chunks that follow one another in a file."""
        manifest = self.array.manifest
        pieces: list[Piece] = [b""] * len(first)
        location, byte_offset = chunks.location[first], chunks.byte_offset[first]
        byte_length = np.add.reduceat(chunks.byte_length, first)
        for number in np.unique(location).tolist():
            rows = np.flatnonzero(location == number)
            if number < 0:
                positions = chunks.position[first[rows]].tolist()
                contents: list[Piece] = [manifest.inline[position] for position in positions]
            else:
                rows = rows[np.argsort(byte_offset[rows], kind="stable")]
                contents = [*stored.read(manifest.locations[number], byte_offset[rows], byte_length[rows])]
            for row, content in zip(rows.tolist(), contents, strict=True):
                pieces[row] = content
        return pieces

    def _shapes(self, positions: UInt64Column) -> list[Shape]:
        """Return the shape of each chunk (elements)."""
        lengths = [axis.lengths() for axis in axis_grids(self.array.metadata)]
        if not lengths:
            return [()] * len(positions)
        cells = np.unravel_index(positions.astype(np.int64), self.array.manifest.grid_shape)
        return [
            tuple(axis[cell] for axis, cell in zip(lengths, row, strict=True))
            for row in zip(*(axis.tolist() for axis in cells), strict=True)
        ]


def _changes(column: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Return where a column differs from the row before; the first row does."""
    is_first = np.ones(len(column), bool)
    is_first[1:] = column[1:] != column[:-1]
    return is_first
