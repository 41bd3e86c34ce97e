"""Comparison of datasets with the arrays that stand for them: values, references and fill values.

Blocks of whole chunks are read through both at the same time, in threads: h5py lets go of the
interpreter lock while libhdf5 inflates, and so does every codec that matters, so that no second
process is needed. A block is some MiB, or one chunk where a chunk is larger.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import h5py
import numpy as np
import zarr

from h5zarr.blocks import Block, Grid, blocks, positions, sample_chunks, single_chunk
from h5zarr.compare import NamesOf, Values, equal, flat_dtype, show, unequal
from h5zarr.errors import H5zarrError
from h5zarr.model import Shape
from h5zarr.placement import ChunkAxes, Placement
from h5zarr.report import Findings, Kind, Mismatch

Progress = Callable[[int, int], None]
"""Called with the bytes that were compared so far, and those to compare."""

_BLOCKS_AHEAD = 16
_BYTES_AHEAD = 32 * 2**20
_SPARSE_CHUNKS = 2**16
"""Of larger arrays with mostly absent chunks, one absent chunk is compared instead of all."""
READ_ERRORS = (
    ArithmeticError,
    EOFError,
    H5zarrError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What h5py, zarr, fsspec and the codecs raise where something cannot be read."""


class Times(Protocol):
    """Brings times that are told otherwise on both sides to the same numbers."""

    def expected(self, values: Values) -> Values:
        """Return times of the dataset."""

    def found(self, values: Values) -> Values:
        """Return times of the array."""


def one_line(error: BaseException) -> str:
    """Return an exception's type and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pair:
    """A dataset and the array that stands for it."""

    path: str
    """Absolute HDF5 path that the array has."""
    dataset: h5py.Dataset
    """The dataset."""
    array: zarr.Array[Any]
    """The array, of the same shape and data type."""
    place: Placement
    """Where the dataset's elements are in the array: all of it, but for files that were joined."""
    grid: Grid
    """The chunks of that place."""
    chunk_axes: ChunkAxes
    """The chunks of the array."""
    names_of: NamesOf
    """Names of the objects that references point to."""
    fetch: Callable[[Block], None] | None = None
    """Fetches what h5py reads of a block, all at once; None where the file is not remote."""
    times: Times | None = None
    """How times are told on both sides, where they are told otherwise."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values that are compared."""
        base: np.dtype[Any] = flat_dtype(self.dataset.dtype).base
        return base if self.times is None else np.dtype("i8")

    @property
    def element_bytes(self) -> int:
        """Size of an element in memory (bytes)."""
        return max(1, int(flat_dtype(self.dataset.dtype).base.itemsize))

    def expected(self, block: Block) -> Values:
        """Return the block's values as h5py reads them."""
        if self.fetch is not None:
            self.fetch(block)
        selection = self.place.in_dataset(block.selection)
        rank = len(self.dataset.shape)
        leading, trailing = selection[:rank], selection[rank:]
        values = _read(self.dataset, leading)
        values = values[(*[slice(None)] * rank, *trailing)] if trailing else values
        values = np.expand_dims(values, self.place.added) if self.place.added else values
        return values if self.times is None else self.times.expected(values)

    def found(self, block: Block) -> Values:
        """Return the block's values as Zarr readers get them."""
        selection: Any = (*self.place.in_array(block.selection), ...)
        values: Any = self.array[selection]
        if isinstance(values, str | bytes):
            return np.array(values, object)
        return np.asarray(values) if self.times is None else self.times.found(np.asarray(values))

    def touching(self, start: Shape, extent: Shape) -> Iterator[Shape]:
        """Yield the array's chunks (grid cells) that hold elements of a box of the dataset."""
        return self.chunk_axes.touching(*self.place.of_dataset(start, extent))

    def chunk_coords(self, block: Block) -> Shape:
        """Return the array's first chunk (grid cells) that holds elements of a block."""
        selection = self.place.in_array(block.selection)
        first = self.chunk_axes.touching(tuple(part.start for part in selection), (1,) * len(selection))
        return next(first, block.first)


def _read(dataset: h5py.Dataset, selection: tuple[slice, ...]) -> Values:
    dtype = dataset.dtype
    if dtype.kind == "V" and dtype.names is None and dtype.subdtype is None:
        return _read_opaque(dataset.id, selection, dtype)
    return np.asarray(dataset[(*selection, ...)])


def _read_opaque(dataset: h5py.h5d.DatasetID, selection: tuple[slice, ...], dtype: np.dtype[Any]) -> Values:
    """Read with the type of the file: libhdf5 converts no opaque type into h5py's, which has no tag."""
    values = np.empty(tuple(part.stop - part.start for part in selection), dtype)
    in_file, in_memory = dataset.get_space(), h5py.h5s.create_simple(values.shape)
    if selection:
        in_file.select_hyperslab(tuple(part.start for part in selection), values.shape)
    dataset.read(in_memory, in_file, values, mtype=dataset.get_type())
    return values


# References -------------------------------------------------------------------------------


def missing_references(pair: Pair, references: Mapping[str, Any]) -> Iterator[Mismatch]:
    """Yield the stored chunks that have no reference.

    Such a chunk reads as fill values without a word. The comparison of values finds it where it
    holds anything else, but a sample may not look there.
    """
    missing: dict[Shape, None] = {}
    absent = partial(_absent_cells, pair, references)
    try:
        _visit_stored(pair.dataset, lambda *box: missing.update(dict.fromkeys(absent(*box))))
    except READ_ERRORS as error:
        yield Mismatch(
            path=pair.path,
            kind=Kind.UNREADABLE_SOURCE,
            expected="a chunk index that h5py can read",
            found=one_line(error),
        )
    for coordinates in missing:
        yield Mismatch(
            path=pair.path,
            kind=Kind.MISSING_REFERENCE,
            expected="a stored chunk",
            found="no reference",
            chunk_coords=coordinates,
        )


def _absent_cells(pair: Pair, references: Mapping[str, Any], start: Shape, extent: Shape) -> Iterator[Shape]:
    """Yield the chunks without a reference (grid cells) among those that hold elements of a box."""
    prefix, encode = pair.array.path, pair.array.metadata.encode_chunk_key
    for coordinates in pair.touching(start, extent):
        if f"{prefix}/{encode(coordinates)}" not in references:
            yield coordinates


def _visit_stored(dataset: h5py.Dataset, visit: Callable[[Shape, Shape], None]) -> None:
    """Call ``visit`` with the chunk_offset (elements) and the extent of every stored chunk.

    Of virtual datasets, which store nothing, nothing is told.
    """
    if dataset.is_virtual or 0 in (dataset.shape or (0,) if dataset.shape != () else ()):
        return
    if dataset.chunks is None:
        if dataset.id.get_storage_size():
            visit((0,) * dataset.ndim, dataset.shape)
    elif _reports_true_coordinates(dataset):

        def visit_chunk(chunk: Any) -> None:  # h5py stops at the first value that is not None
            visit(chunk.chunk_offset, dataset.chunks)

        dataset.id.chunk_iter(visit_chunk)
    else:
        _visit_by_trial(dataset, visit)


def _reports_true_coordinates(dataset: h5py.Dataset) -> bool:
    """Return whether libhdf5 2.0 cannot be wrong about chunk coordinates.

    It is for extensible arrays, which index datasets with one unlimited dimension, where that is not
    the first. h5py does not tell the kind of index, so that all such datasets are suspected.
    """
    unlimited = [number for number, extent in enumerate(dataset.maxshape) if extent is None]
    return len(unlimited) != 1 or unlimited[0] == 0


def _visit_by_trial(dataset: h5py.Dataset, visit: Callable[[Shape, Shape], None]) -> None:
    """Visit stored chunks by reading one after the other, for which libhdf5 finds them rightly."""
    remaining = dataset.id.get_num_chunks()
    starts = [range(0, extent, chunk) for extent, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    for chunk_offset in positions(starts):
        if remaining == 0:  # where none is stored at all, libhdf5 tells nonsense about single chunks
            return
        if _is_stored(dataset, chunk_offset):
            visit(chunk_offset, dataset.chunks)
            remaining -= 1


def _is_stored(dataset: h5py.Dataset, chunk_offset: Shape) -> bool:
    try:
        dataset.id.read_direct_chunk(chunk_offset)
    except RuntimeError:  # libhdf5: "chunk storage is not allocated"
        return False
    return True


def fill_value_difference(pair: Pair, references: Mapping[str, Any]) -> Iterator[Mismatch]:
    """Yield a number that is not the dataset's fill value, where a chunk is absent.

    What is not a number is left to the comparison of values, as is a fill value that the file leaves
    undefined or never writes: h5py then reads zeros.
    """
    dtype = pair.dataset.dtype
    creation = pair.dataset.id.get_create_plist()
    undefined = (
        creation.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED
        or creation.get_fill_time() == h5py.h5d.FILL_TIME_NEVER
    )
    if undefined or dtype.kind not in "biufc" or pair.array.dtype.kind != dtype.kind:
        return
    expected = np.asarray(pair.dataset.fillvalue, dtype)
    found = pair.array.fill_value
    if found is None:  # of Zarr v2, "undefined", for which zarr-python reads zeros
        found = pair.array.dtype.type(0)
    if equal(expected, np.asarray(found, pair.array.dtype), dtype, pair.names_of):
        return
    shape = pair.dataset.shape or ()
    first = next(_absent_cells(pair, references, (0,) * len(shape), shape), None)
    if first is not None:
        texts = show(expected[()], found)
        yield Mismatch(
            path=pair.path, kind=Kind.FILL_VALUE, expected=texts[0], found=texts[1], chunk_coords=first
        )


# Values -----------------------------------------------------------------------------------


_Job = tuple[Pair, Block]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What was compared."""

    chunks: int = 0
    """Chunks that could be read on both sides."""
    byte_length: int = 0
    """Size of their values (bytes)."""
    mismatches: tuple[Mismatch, ...] = ()
    """What was not the same in them."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            chunks=self.chunks + other.chunks,
            byte_length=self.byte_length + other.byte_length,
            mismatches=self.mismatches + other.mismatches,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChosenBlocks:
    """The blocks to compare."""

    blocks: Iterable[_Job]
    """Each with its array."""
    byte_length: int
    """Size of all their values (bytes)."""


def choose_blocks(
    pairs: Sequence[Pair], references: Mapping[str, Any], sample: int | None, seed: int
) -> ChosenBlocks:
    """Return what to compare: everything, or a ``sample`` of that many chunks.

    Where an array is huge and most of its chunks are absent, "everything" is the chunks that have a
    reference, and one that has none: it stands for the others, since `missing_references` has found
    out that the file does not store them either.
    """
    if sample is None:
        chosen_few = {number: _present_chunks(pair, references) for number, pair in enumerate(pairs)}
        return _everything(pairs, {number: few for number, few in chosen_few.items() if few})
    chosen = sample_chunks([pair.grid for pair in pairs], sample, seed)
    jobs = [(pair, block) for pair, chunks in zip(pairs, chosen, strict=True) for block in chunks]
    return ChosenBlocks(blocks=jobs, byte_length=sum(_byte_length(*job) for job in jobs))


def _everything(pairs: Sequence[Pair], sparse: Mapping[int, Sequence[Block]]) -> ChosenBlocks:
    jobs = (
        (pair, block)
        for number, pair in enumerate(pairs)
        for block in sparse.get(number) or blocks(pair.grid, pair.element_bytes)
    )
    total = sum(
        sum(_byte_length(pair, block) for block in sparse[number])
        if number in sparse
        else math.prod(pair.grid.shape) * pair.element_bytes
        for number, pair in enumerate(pairs)
    )
    return ChosenBlocks(blocks=jobs, byte_length=total)


def _present_chunks(pair: Pair, references: Mapping[str, Any]) -> list[Block]:
    """Return the chunks of a sparse array that have a reference, and one that has none; [] for others.

    Virtual datasets are compared as a whole: nothing tells which of their chunks are stored elsewhere. So
    are arrays in shards, whose keys tell nothing of the chunks inside.
    """
    if pair.dataset.is_virtual or pair.array.shards:
        return []
    if pair.grid.chunk_count <= _SPARSE_CHUNKS or pair.place.shape != pair.array.shape:
        return []
    present = sorted(_referenced_cells(pair, references))
    if 2 * len(present) > pair.grid.chunk_count:
        return []
    absent = itertools.islice(
        _absent_cells(pair, references, (0,) * len(pair.grid.shape), pair.grid.shape), 1
    )
    return [single_chunk(pair.grid, coordinates) for coordinates in (*present, *absent)]


def _referenced_cells(pair: Pair, references: Mapping[str, Any]) -> Iterator[Shape]:
    """Yield the position of every chunk that has a reference (grid cells)."""
    prefix, encode = f"{pair.array.path}/", pair.array.metadata.encode_chunk_key
    for key in references:
        if key.startswith(prefix):
            coordinates = tuple(map(int, re.findall(r"\d+", key[len(prefix) :])))
            inside = len(coordinates) == len(pair.grid.cells) and all(
                cell < limit for cell, limit in zip(coordinates, pair.grid.cells, strict=True)
            )
            if inside and encode(coordinates) == key[len(prefix) :]:
                yield coordinates


def _byte_length(pair: Pair, block: Block) -> int:
    return block.element_count * pair.element_bytes


def compare_values(chosen: ChosenBlocks, findings: Findings, progress: Progress | None = None) -> Tally:
    """Read blocks on both sides and compare them; return what was compared, without the mismatches."""
    total, done = Tally(), 0
    for job, tally in _in_parallel(chosen.blocks):
        findings.extend(tally.mismatches)
        total += Tally(chunks=tally.chunks, byte_length=tally.byte_length)
        done += _byte_length(*job)
        if progress is not None:
            progress(done, chosen.byte_length)
    return total


def _in_parallel(jobs: Iterable[_Job]) -> Iterator[tuple[_Job, Tally]]:
    """Yield each block with what came of it, in order.

    One thread reads through h5py, one through zarr, which decodes the chunks of a block in threads of
    its own. More readers would not help: libhdf5 reads one block at a time, and zarr's threads would
    take the processor from it and then wait for it.
    """
    pending: deque[_Pending] = deque()
    with _reader("h5py") as of_hdf5, _reader("zarr") as of_zarr:
        try:
            for pair, block in jobs:
                expected = of_hdf5.submit(pair.expected, block)
                found = of_zarr.submit(pair.found, block)
                pending.append(_Pending(pair=pair, block=block, expected=expected, found=found))
                while _is_enough(pending):
                    yield _settle(pending.popleft())
            while pending:
                yield _settle(pending.popleft())
        finally:
            for waiting in pending:
                waiting.expected.cancel()
                waiting.found.cancel()


def _reader(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"h5zarr-{name}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pending:
    """A block that is being read."""

    pair: Pair
    """The dataset and the array."""
    block: Block
    """Its place."""
    expected: Future[Values]
    """What h5py will have read."""
    found: Future[Values]
    """What Zarr will have read."""


def _is_enough(pending: Sequence[_Pending]) -> bool:
    """Return whether as much is being read as may be in memory; one block may always."""
    held = sum(2 * _byte_length(waiting.pair, waiting.block) for waiting in pending)
    return len(pending) > _BLOCKS_AHEAD or (len(pending) > 1 and held > _BYTES_AHEAD)


def _settle(read: _Pending) -> tuple[_Job, Tally]:
    return (read.pair, read.block), _compare(read.pair, read.block, read.expected.result, read.found.result)


def _compare(
    pair: Pair, block: Block, read_expected: Callable[[], Values], read_found: Callable[[], Values]
) -> Tally:
    try:
        found = read_found()
    except READ_ERRORS as error:
        return _unreadable(pair, block, Kind.UNREADABLE, error)
    try:
        expected = read_expected()
        if expected.shape != found.shape:  # NumPy would compare what it can broadcast
            told = ValueError(f"shape {found.shape} instead of {expected.shape}")
            return _unreadable(pair, block, Kind.UNREADABLE, told)
        same = equal(expected, found, pair.dtype, pair.names_of)
    except READ_ERRORS as error:
        return _unreadable(pair, block, Kind.UNREADABLE_SOURCE, error)
    return Tally(
        chunks=block.chunk_count,
        byte_length=_byte_length(pair, block),
        mismatches=() if same else tuple(_differing_chunks(pair, block, expected, found)),
    )


def _compare_alone(pair: Pair, chunk: Block) -> Tally:
    return _compare(pair, chunk, partial(pair.expected, chunk), partial(pair.found, chunk))


def _unreadable(pair: Pair, block: Block, kind: Kind, error: BaseException) -> Tally:
    """Find the chunks of a block that cannot be read."""
    if block.chunk_count > 1:
        return sum((_compare_alone(pair, chunk) for chunk in block.chunks()), Tally())
    mismatch = Mismatch(
        path=pair.path,
        kind=kind,
        expected="values",
        found=one_line(error),
        chunk_coords=pair.chunk_coords(block),
    )
    return Tally(mismatches=(mismatch,))


def _differing_chunks(pair: Pair, block: Block, expected: Values, found: Values) -> Iterator[Mismatch]:
    """Yield the first difference in every chunk that has one."""
    mask = unequal(expected, found, pair.dtype, pair.names_of)
    begin = tuple(part.start for part in block.selection)
    for chunk in block.chunks():
        inside = tuple(
            slice(part.start - start, part.stop - start)
            for part, start in zip(chunk.selection, begin, strict=True)
        )
        if mask[inside].any():
            local = np.unravel_index(int(mask[inside].argmax()), mask[inside].shape)
            within = tuple(int(cell) + part.start for cell, part in zip(local, inside, strict=True))
            yield _difference(pair, chunk, begin, expected[within], found[within], within)


def _difference(pair: Pair, chunk: Block, begin: Shape, expected: Any, found: Any, within: Shape) -> Mismatch:
    texts = show(expected, found)
    element = zip(pair.place.start, begin, within, strict=True)
    return Mismatch(
        path=pair.path,
        kind=Kind.VALUES,
        expected=texts[0],
        found=texts[1],
        chunk_coords=pair.chunk_coords(chunk),
        element=tuple(map(sum, element)),
    )
