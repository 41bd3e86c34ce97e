"""Datasets: their chunk index, and those of their data that are read with the description."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from h5zarr.prefetch import btree_v2
from h5zarr.prefetch.attributes import read_datatype
from h5zarr.prefetch.btree_v1 import chunk_tree, read_bottom
from h5zarr.prefetch.chunks import Chunk, DataBudget, ElementForm, array_chunks
from h5zarr.prefetch.datatype import ElementType
from h5zarr.prefetch.extensible_array import read_extensible_array
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.filters import Pipeline, parse_pipeline, unfilter
from h5zarr.prefetch.fixed_array import read_fixed_array
from h5zarr.prefetch.global_heap import follow_pointers, read_collection
from h5zarr.prefetch.layout import CHUNKED, VIRTUAL, IndexKind, Layout, parse_layout
from h5zarr.prefetch.object_header import (
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILL_VALUE,
    FILTERS,
    LAYOUT,
    OLD_FILL_VALUE,
    Message,
)
from h5zarr.prefetch.old_group import read_local_heap
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FormatError, Reading, Task, attempt, read_spans

_MOST_FILTERED_RATIO = 1000
"""A chunk longer than this many times what is read of it is not small after filters either."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dataset:
    """What the messages of a dataset tell."""

    element: ElementType
    """Its datatype."""
    shape: tuple[int, ...]
    """Its shape (elements)."""
    layout: Layout
    """Where its data are."""
    pipeline: Pipeline
    """Its filters."""
    budget: DataBudget
    """How much of its data is read."""

    @property
    def stored_bytes(self) -> int:
        """Length of all elements before filters (bytes)."""
        return math.prod(self.shape) * self.element.byte_length

    @property
    def chunk_count(self) -> int:
        """Number of chunks that cover all elements."""
        chunk_shape = self.layout.chunk_shape[: len(self.shape)]
        return math.prod(-(-extent // chunk) for extent, chunk in zip(self.shape, chunk_shape, strict=True))


def follow_dataset(crawl: Crawl, messages: list[Message]) -> Task:
    """Fetch the chunk index of a dataset, and its data where they are small or point into heaps."""
    own = {message.kind: message for message in messages if not message.is_shared}
    element = yield from _element_type(crawl, messages)
    for kind in (FILL_VALUE, OLD_FILL_VALUE):
        if kind in own and element.pointers:
            attempt(_follow_fill_value, crawl, own[kind], element)
    if EXTERNAL_FILES in own:
        crawl.start(_follow_external_files(crawl, own[EXTERNAL_FILES].body))
    layout = parse_layout(own[LAYOUT].body, crawl.format)
    if layout is None:
        _follow_compact(crawl, own[LAYOUT].body, element)
    elif crawl.format.is_defined(layout.address):
        yield from _follow_layout(crawl, _dataset(crawl, own, element, layout))


def _element_type(crawl: Crawl, messages: list[Message]) -> Reading[ElementType]:
    """Return the dataset's datatype; a plain one where it cannot be known."""
    datatypes = [message for message in messages if message.kind == DATATYPE]
    try:
        return (yield from read_datatype(crawl, datatypes[0]))
    except FORMAT_ERRORS:
        return ElementType(byte_length=1)


def _dataset(crawl: Crawl, own: dict[int, Message], element: ElementType, layout: Layout) -> _Dataset:
    shape = _shape(crawl, own[DATASPACE].body)
    pipeline = parse_pipeline(own[FILTERS].body, crawl.format) if FILTERS in own else ()
    return _Dataset(
        element=element,
        shape=shape,
        layout=layout,
        pipeline=pipeline,
        budget=DataBudget(_most_bytes(crawl, element, math.prod(shape))),
    )


def _shape(crawl: Crawl, body: memoryview) -> tuple[int, ...]:
    """Return the extents of a dataspace (elements), each distinct one parsed once."""
    encoded = bytes(body)
    found = crawl.shapes.get(encoded)
    if found is None:
        found = crawl.shapes[encoded] = _parse_shape(Fields(body, crawl.format))
    return found


def _parse_shape(fields: Fields) -> tuple[int, ...]:
    """Parse a dataspace message (HDF5 File Format Specification, IV.A.2.b)."""
    version, rank = fields.uint(1), fields.uint(1)
    fields.skip(6 if version == 1 else 2)
    return tuple(fields.length() for _ in range(rank))


def _most_bytes(crawl: Crawl, element: ElementType, element_count: int) -> int:
    """Return up to what length the stored data are read (bytes)."""
    interest, byte_length = crawl.interest, element_count * element.byte_length
    if element.on_heap:
        return interest.heap_data
    if element.has_text and byte_length <= interest.text_data:
        return interest.text_data
    return interest.small_data


def _follow_layout(crawl: Crawl, dataset: _Dataset) -> Task:
    layout = dataset.layout
    if layout.kind == VIRTUAL:
        yield from read_collection(crawl, layout.address)
        return
    if layout.kind == CHUNKED:
        chunks = yield from _read_index(crawl, dataset)
    else:
        chunks = [Chunk(address=layout.address, byte_length=dataset.stored_bytes)]
    yield from _follow_data(crawl, dataset, chunks)


# Chunk indexes ---------------------------------------------------------------------------


def _read_index(crawl: Crawl, dataset: _Dataset) -> Reading[list[Chunk]]:
    """Fetch the chunk index; return the chunks where their data may be worth reading."""
    layout, with_chunks = dataset.layout, _may_be_small(dataset)
    if layout.index in _READERS:
        return (yield from _READERS[layout.index](crawl, layout, with_chunks))
    if layout.index is IndexKind.IMPLICIT:
        byte_length = dataset.chunk_count * layout.chunk_bytes
        return [Chunk(address=layout.address, byte_length=byte_length)]
    return [Chunk(address=layout.address, byte_length=layout.byte_length or layout.chunk_bytes)]


def _may_be_small(dataset: _Dataset) -> bool:
    """Return whether a chunk can be short enough to be read."""
    ratio = _MOST_FILTERED_RATIO if dataset.pipeline else 1
    return dataset.budget.would_take(dataset.layout.chunk_bytes // ratio)


def _read_btree_v1(crawl: Crawl, layout: Layout, with_chunks: bool) -> Reading[list[Chunk]]:
    """Read a version 1 B-tree (III.A.1), whose keys tell length and filter mask of a chunk."""
    shape = chunk_tree(crawl, layout.rank)
    nodes = yield from read_bottom(crawl, shape, layout.address, with_leaves=with_chunks)
    if not with_chunks:
        return []
    chunks = []
    for key, address in (child for node in nodes if node.level == 0 for child in node.children):
        fields = Fields(key, crawl.format)
        chunks.append(Chunk(address=address, byte_length=fields.uint(4), filter_mask=fields.uint(4)))
    return chunks


def _read_btree_v2(crawl: Crawl, layout: Layout, with_chunks: bool) -> Reading[list[Chunk]]:
    """Read a version 2 B-tree (III.A.2, record types 10 and 11): offsets stand behind the chunk."""
    records = yield from btree_v2.read_records(crawl, layout.address, with_leaves=with_chunks)
    if not with_chunks or not records:
        return []
    element_bytes = len(records[0]) - 8 * layout.rank
    has_filters = element_bytes > crawl.format.offset_width
    form = ElementForm(byte_length=element_bytes, has_filters=has_filters, chunk_bytes=layout.chunk_bytes)
    return [chunk for record in records for chunk in array_chunks(crawl, record[:element_bytes], form)]


def _read_fixed_array(crawl: Crawl, layout: Layout, with_chunks: bool) -> Reading[list[Chunk]]:
    return read_fixed_array(crawl, layout.address, layout.chunk_bytes, with_chunks=with_chunks)


def _read_extensible_array(crawl: Crawl, layout: Layout, with_chunks: bool) -> Reading[list[Chunk]]:
    return read_extensible_array(crawl, layout.address, layout.chunk_bytes, with_chunks=with_chunks)


_READERS: dict[IndexKind | None, Callable[[Crawl, Layout, bool], Reading[list[Chunk]]]] = {
    IndexKind.BTREE_V1: _read_btree_v1,
    IndexKind.BTREE_V2: _read_btree_v2,
    IndexKind.FIXED_ARRAY: _read_fixed_array,
    IndexKind.EXTENSIBLE_ARRAY: _read_extensible_array,
}


# Data ------------------------------------------------------------------------------------


def _follow_data(crawl: Crawl, dataset: _Dataset, chunks: Iterable[Chunk]) -> Task:
    """Fetch chunks as long as they are worth it, and what their elements point to."""
    wanted = [chunk for chunk in chunks if dataset.budget.take(chunk.byte_length)]
    wanted = [chunk for chunk in wanted if chunk.byte_length and crawl.format.is_defined(chunk.address)]
    spans = [crawl.span(chunk.address, chunk.byte_length) for chunk in wanted]
    if not dataset.element.pointers:
        crawl.hints.extend(spans)
        return
    views = (yield from read_spans(spans)) if spans else []
    for chunk, view in zip(wanted, views, strict=True):
        attempt(_follow_chunk, crawl, dataset, chunk, view)


def _follow_chunk(crawl: Crawl, dataset: _Dataset, chunk: Chunk, view: memoryview) -> None:
    most_bytes = dataset.layout.chunk_bytes if dataset.layout.kind == CHUNKED else dataset.stored_bytes
    content = unfilter(view, dataset.pipeline, chunk.filter_mask, most_bytes)
    follow_pointers(crawl, dataset.element, content)


def _follow_compact(crawl: Crawl, body: memoryview, element: ElementType) -> None:
    """Fetch what data in the layout message point to (IV.A.2.i)."""
    fields = Fields(body, crawl.format)
    if fields.uint(1) < 3:
        raise FormatError("old compact layout")
    fields.skip(1)
    follow_pointers(crawl, element, fields.take(fields.uint(2)))


def _follow_fill_value(crawl: Crawl, message: Message, element: ElementType) -> None:
    """Fetch what a fill value points to: it stands at the end of its message (IV.A.2.e, IV.A.2.f)."""
    fields = Fields(message.body, crawl.format)
    if message.kind == FILL_VALUE:
        version = fields.uint(1)
        fields.skip(1 if version == 3 else 3)
    byte_length = fields.uint(4)
    if byte_length == element.byte_length:
        follow_pointers(crawl, element, fields.take(byte_length))


def _follow_external_files(crawl: Crawl, body: memoryview) -> Task:
    """Fetch the names of external files (IV.A.2.h "External Data Files Message")."""
    fields = Fields(body, crawl.format)
    fields.skip(8)
    yield from read_local_heap(crawl, fields.address())
