"""Virtual datasets whose mappings lie on chunk boundaries, as references into the sources' chunks.

Every source has to have the same datatype, chunks and filters, and every mapping has to begin and
end where a chunk does, or at the edge of the array. Where one does not, the caller reads values.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from h5py import h5p, h5s

from h5zarr.chunk_index import combined_index
from h5zarr.model import ChunkIndex, Dataset, Layout, Shape, UInt32Column, UInt64Column, grid_shape

ReadSource = Callable[[str, str], tuple[str, Dataset] | None]
"""Returns URL and description of a dataset by file name and path; None where it is not there."""

_ESCAPES = re.compile("%([%b])")
"""In names of sources ``%b`` stands for the number of the block, ``%%`` for ``%`` (`H5Pset_virtual`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Box:
    """A block of the virtual dataset, and the block of a source that it shows (elements)."""

    filename: str
    path: str
    virtual_start: Shape
    extent: Shape
    source_start: Shape | None
    """None: the whole source."""
    source_extent: Shape | None
    """None: as far as the source reaches."""
    open_ended: bool
    """Whether the block is as long as the virtual dataset has room, not as the mapping says."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualChunks:
    """The chunks of all sources, as chunks of the virtual dataset."""

    source: Dataset
    """One of the sources; all have its datatype, chunks and filters."""
    chunk_shape: Shape
    """Shape of a chunk in the virtual dataset (elements)."""
    index: ChunkIndex
    """The chunks, by their place in the virtual dataset."""
    urls: tuple[str, ...]
    """The files that hold them."""
    url_index: UInt32Column
    """(n,) Which of ``urls`` holds each chunk."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Placed:
    box: _Box
    url: str
    source: Dataset


def source_names(filename: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield file name and path of the source of each block, for ever where they are numbered."""
    is_numbered = any(found[1] == "b" for name in (filename, path) for found in _ESCAPES.finditer(name))
    for block in itertools.count() if is_numbered else range(1):
        yield _named(filename, block), _named(path, block)


def _named(name: str, block: int) -> str:
    return _ESCAPES.sub(lambda found: "%" if found[1] == "%" else str(block), name)


def virtual_chunks(
    creation: h5p.PropDCID, shape: Shape, fill_value: bytes | None, read_source: ReadSource
) -> VirtualChunks | None:
    """Return a virtual dataset's chunks as those of its sources; None where they do not fit.

    Parameters
    ----------
    creation
        Its creation properties, which hold the mappings.
    shape
        (rank,) current shape in elements.
    fill_value
        One element for what no source gives, as of `Dataset.fill_value`.
    read_source
        Reads the description of a source.
    """
    boxes = _boxes(creation, shape, read_source)
    if boxes is None or _overlap(boxes):
        return None
    placed = [
        _Placed(box=box, url=found[0], source=found[1])
        for box in boxes
        if (found := read_source(box.filename, box.path)) is not None
    ]
    if not placed or not all(_is_like(one.source, placed[0].source, fill_value) for one in placed):
        return None
    chunk_shape = _common_chunk_shape(placed, len(shape))
    if (
        chunk_shape is None
        or 0 in chunk_shape
        or not all(_is_aligned(one, chunk_shape, shape) for one in placed)
    ):
        return None
    return _gather(placed, chunk_shape, shape)


# Mappings --------------------------------------------------------------------------------


def _boxes(creation: h5p.PropDCID, shape: Shape, read_source: ReadSource) -> list[_Box] | None:
    boxes: list[_Box] = []
    for number in range(creation.get_virtual_count()):
        found = _boxes_of(creation, number, shape, read_source)
        if found is None:
            return None
        boxes.extend(found)
    return boxes


def _boxes_of(
    creation: h5p.PropDCID, number: int, shape: Shape, read_source: ReadSource
) -> list[_Box] | None:
    filename = creation.get_virtual_filename(number)
    path = creation.get_virtual_dsetname(number)
    slab = _slab(creation.get_virtual_vspace(number), shape)
    source = creation.get_virtual_srcspace(number)
    if slab is None:
        return None
    names = list(itertools.islice(source_names(filename, path), 2))
    if len(names) > 1:
        if not _is_whole(source):
            return None
        return _numbered_boxes(source_names(filename, path), slab, shape, read_source)
    interval, source_interval = _interval(slab, shape), _source_interval(source)
    if interval is None or source_interval is None:
        return None
    return [
        _Box(
            filename=names[0][0],
            path=names[0][1],
            virtual_start=interval[0],
            extent=interval[1],
            source_start=source_interval[0],
            source_extent=source_interval[1],
            open_ended=any(h5s.UNLIMITED in counts for counts in slab),
        )
    ]


_Slab = tuple[Shape, Shape, Shape, Shape]
"""Start, stride, count and block of a regular hyperslab (elements)."""


def _slab(space: h5s.SpaceID, shape: Shape) -> _Slab | None:
    if space.get_select_type() == h5s.SEL_ALL:
        return ((0,) * len(shape), (1,) * len(shape), (1,) * len(shape), shape)
    if space.get_select_type() != h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    start, stride, count, block = space.get_regular_hyperslab()
    return tuple(start), tuple(stride), tuple(count), tuple(block)


def _interval(slab: _Slab, shape: Shape) -> tuple[Shape, Shape] | None:
    """Return start and extent of a hyperslab without gaps, cut off at the shape."""
    extents: list[int] = []
    for start, stride, count, block, most in zip(*slab, shape, strict=True):
        if count > 1 and stride != block:
            return None
        whole = most if h5s.UNLIMITED in (count, block) else count * block
        extents.append(max(min(whole, most - start), 0))
    return slab[0], tuple(extents)


def _source_interval(space: h5s.SpaceID) -> tuple[Shape | None, Shape | None] | None:
    """Return start and extent of a source's block, as of `_Box`; None where it has gaps."""
    if space.get_select_type() == h5s.SEL_ALL:
        return None, None
    if space.get_select_type() != h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    start, stride, count, block = space.get_regular_hyperslab()
    if any(n > 1 and step != width for n, step, width in zip(count, stride, block, strict=True)):
        return None
    if h5s.UNLIMITED in (*count, *block):
        return tuple(start), None
    return tuple(start), tuple(n * width for n, width in zip(count, block, strict=True))


def _is_whole(space: h5s.SpaceID) -> bool:
    """Return whether a selection takes all that there is."""
    if space.get_select_type() == h5s.SEL_ALL:
        return True
    interval, whole = _source_interval(space), tuple(space.get_simple_extent_dims())
    return interval is not None and interval == ((0,) * len(whole), whole)


def _overlap(boxes: Sequence[_Box]) -> bool:
    """Return whether two boxes have an element in common, where the later mapping counts."""
    starts = np.array([box.virtual_start for box in boxes if 0 not in box.extent], np.int64)
    stops = starts + np.array([box.extent for box in boxes if 0 not in box.extent], np.int64)
    if len(starts) < 2 or starts.ndim < 2:
        return False
    axis = max(range(starts.shape[1]), key=lambda axis: len(np.unique(starts[:, axis])))
    order = np.argsort(starts[:, axis], kind="stable")
    starts, stops = starts[order], stops[order]
    ends = np.searchsorted(starts[:, axis], stops[:, axis])
    return any(
        bool(((starts[row + 1 : end] < stops[row]) & (starts[row] < stops[row + 1 : end])).all(axis=1).any())
        for row, end in enumerate(ends)
    )


def _numbered_boxes(
    names: Iterator[tuple[str, str]], slab: _Slab, shape: Shape, read_source: ReadSource
) -> list[_Box] | None:
    """Return a box for each block of a mapping to numbered sources, up to the first that is missing."""
    start, stride, count, block = slab
    unlimited = [axis for axis, number in enumerate(count) if number == h5s.UNLIMITED]
    if len(unlimited) != 1:
        return None
    axis = unlimited[0]
    boxes: list[_Box] = []
    for number, (filename, path) in enumerate(names):
        at = start[axis] + number * stride[axis]
        # The one that is missing is looked at, too: the dataset grows when it comes.
        if read_source(filename, path) is None or at >= shape[axis]:
            break
        begins = (*start[:axis], at, *start[axis + 1 :])
        extent = tuple(
            min(width, most - first) for width, most, first in zip(block, shape, begins, strict=True)
        )
        boxes.append(
            _Box(
                filename=filename,
                path=path,
                virtual_start=begins,
                extent=extent,
                source_start=None,
                source_extent=None,
                open_ended=True,
            )
        )
    return boxes


# Fit -------------------------------------------------------------------------------------


def _is_like(source: Dataset, first: Dataset, fill_value: bytes | None) -> bool:
    """Return whether a source's chunks can stand beside those of the first source."""
    return (
        source.layout in (Layout.CHUNKED, Layout.CONTIGUOUS)
        and source.layout == first.layout
        and source.shape is not None
        and not source.datatype.on_heap
        and source.stored_type == first.stored_type
        and source.filters == first.filters
        and source.fill_value == fill_value
        and not source.unfiltered_partial_chunks
        and not source.chunk_index.filter_mask.any()
    )


def _axes(placed: _Placed, rank: int) -> list[int | None] | None:
    """Return the source's axis for each axis of the virtual dataset, None where it has none.

    A block of frames may be shown as a block with one axis more, of length 1.
    """
    source_shape = placed.source.shape or ()
    missing = rank - len(source_shape)
    if missing < 0:
        return None
    leading = [axis for axis in range(rank) if placed.box.extent[axis] == 1][:missing]
    if len(leading) < missing:
        return None
    rest = iter(range(len(source_shape)))
    return [None if axis in leading else next(rest) for axis in range(rank)]


def _common_chunk_shape(placed: Sequence[_Placed], rank: int) -> Shape | None:
    shapes = {_chunk_shape(one, rank) for one in placed}
    if len(shapes) == 1:
        return shapes.pop()
    known = [shape for shape in shapes if shape is not None]
    if placed[0].source.layout is not Layout.CONTIGUOUS or len(known) != len(shapes):
        return None
    # Contiguous sources of different lengths are cut along their first axis.
    if len({shape[1:] for shape in known}) != 1:
        return None
    starts = [one.box.virtual_start[0] for one in placed]
    return (math.gcd(*(shape[0] for shape in known), *starts), *known[0][1:])


def _chunk_shape(placed: _Placed, rank: int) -> Shape | None:
    axes = _axes(placed, rank)
    own = placed.source.chunk_shape or placed.source.shape
    if axes is None or own is None:
        return None
    return tuple(1 if axis is None else own[axis] for axis in axes)


def _is_aligned(placed: _Placed, chunk_shape: Shape, shape: Shape) -> bool:
    box = placed.box
    axes = _axes(placed, len(shape))
    source_start = _start_in_source(placed, axes)
    if axes is None or source_start is None:
        return False
    source_extent = _extent_in_source(placed, source_start, axes)
    for chunk, virtual, source, extent, own, most in zip(
        chunk_shape, box.virtual_start, source_start, box.extent, source_extent, shape, strict=True
    ):
        if virtual % chunk or source % chunk:
            return False
        if (virtual + extent) % chunk and virtual + extent != most:
            return False
        # What is behind the end of a source is in no block; its last chunk may hold something there.
        is_shorter = own < extent and (source + own) % chunk == 0
        is_cut_off = own > extent and virtual + extent == most
        if own != extent and not (box.open_ended and (is_shorter or is_cut_off)):
            return False
    return True


def _extent_in_source(placed: _Placed, start: Shape, axes: list[int | None]) -> Shape:
    """Return how far the block reaches in the source, by the virtual dataset's axes (elements)."""
    extent, whole = placed.box.source_extent, placed.source.shape or ()
    return tuple(
        1 if axis is None else whole[axis] - begin if extent is None else extent[axis]
        for axis, begin in zip(axes, start, strict=True)
    )


def _start_in_source(placed: _Placed, axes: list[int | None] | None) -> Shape | None:
    """Return where the block begins in the source, by the virtual dataset's axes (elements)."""
    if axes is None:
        return None
    start = placed.box.source_start
    if start is None:
        return (0,) * len(axes)
    if len(start) != len(placed.source.shape or ()):
        return None
    return tuple(0 if axis is None else start[axis] for axis in axes)


# Chunks ----------------------------------------------------------------------------------


def _gather(placed: Sequence[_Placed], chunk_shape: Shape, shape: Shape) -> VirtualChunks | None:
    grid = grid_shape(shape, chunk_shape)
    parts = list(_parts(placed, chunk_shape, grid))
    urls = tuple(dict.fromkeys(one.url for one in placed))
    which = [
        np.full(len(part[0]), urls.index(one.url), np.uint32) for one, part in zip(placed, parts, strict=True)
    ]
    position, byte_offset, byte_length = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(position, kind="stable")
    if (position[order][1:] == position[order][:-1]).any():
        return None
    return VirtualChunks(
        source=placed[0].source,
        chunk_shape=chunk_shape,
        index=combined_index(grid, position[order], byte_offset[order], byte_length[order]),
        urls=urls,
        url_index=np.concatenate(which)[order],
    )


def _parts(
    placed: Sequence[_Placed], chunk_shape: Shape, grid: Shape
) -> Iterator[tuple[UInt64Column, UInt64Column, UInt64Column]]:
    """Yield grid position, byte offset and byte length of the chunks that each box shows."""
    for one in placed:
        cells, byte_offset, byte_length = _source_chunks(one, chunk_shape)
        axes = _axes(one, len(chunk_shape))
        start = _start_in_source(one, axes)
        assert start is not None
        first = np.array(start, np.int64) // chunk_shape
        count = np.array(grid_shape(one.box.extent, chunk_shape), np.int64)
        inside = ((cells >= first) & (cells < first + count)).all(axis=1)
        shown = cells[inside] - first + np.array(one.box.virtual_start, np.int64) // chunk_shape
        position = np.ravel_multi_index(tuple(shown.T), grid).astype(np.uint64)
        yield position, byte_offset[inside], byte_length[inside]


def _source_chunks(
    placed: _Placed, chunk_shape: Shape
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], UInt64Column, UInt64Column]:
    """Return the source's chunks: cells along the virtual dataset's axes, byte offset, byte length."""
    source, axes = placed.source, _axes(placed, len(chunk_shape))
    assert source.shape is not None
    assert axes is not None
    index = source.chunk_index
    if source.layout is Layout.CHUNKED:
        own = index.chunk_coords.astype(np.int64)
        columns = [np.zeros(len(index), np.int64) if axis is None else own[:, axis] for axis in axes]
        return np.stack(columns, axis=1), index.byte_offset, index.byte_length
    length = math.prod(chunk_shape) * source.datatype.byte_length
    count = source.logical_byte_length // length if len(index) else 0
    cells = np.zeros((count, len(chunk_shape)), np.int64)
    cells[:, next(at for at, axis in enumerate(axes) if axis == 0)] = np.arange(count)
    begin = index.byte_offset[0] if len(index) else np.uint64(0)
    byte_offset = begin + np.arange(count, dtype=np.uint64) * np.uint64(length)
    return cells, byte_offset, np.full(count, length, np.uint64)
