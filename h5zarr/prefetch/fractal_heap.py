"""Fractal heaps: where dense links and attributes are."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch import btree_v2
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.filters import unfilter
from h5zarr.prefetch.heap_header import Header, read_header
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import Crawl, FormatError, Reading, read_spans

_FREE_SPACE_HEADER_BYTES = 128
_CHECKSUM = 4
_MASK_BYTES = 4
_MANAGED = 0
_HUGE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """A block of the heap, not read yet."""

    heap_offset: int
    """Where it begins in the heap (bytes)."""
    address: int
    """Its address in the file."""
    byte_length: int
    """Its length in the heap (bytes)."""
    stored_bytes: int
    """Its length in the file (bytes)."""
    rows: int = 0
    """Rows of an indirect block; 0: a direct block."""
    filter_mask: int = 0
    """Bit i set: filter i was skipped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heap:
    """A heap whose blocks have been read."""

    header: Header
    """Its header."""
    heap_offsets: list[int]
    """Where each direct block begins in the heap (bytes), ascending."""
    blocks: list[memoryview]
    """The direct blocks."""
    huge: dict[int, Span]
    """Where huge objects are, by their number."""

    def managed(self, identifier: memoryview) -> memoryview | None:
        """Return the bytes of a managed object; None of others."""
        if identifier[0] >> 4 & 0x03 != _MANAGED:
            return None
        split = 1 + self.header.offset_width
        heap_offset = int.from_bytes(identifier[1:split], "little")
        byte_length = int.from_bytes(identifier[split : split + self.header.length_width], "little")
        number = bisect.bisect_right(self.heap_offsets, heap_offset) - 1
        if number < 0:
            raise FormatError("no such block in the heap")
        start = heap_offset - self.heap_offsets[number]
        return self.blocks[number][start : start + byte_length]

    def huge_span(self, crawl: Crawl, identifier: memoryview) -> Span | None:
        """Return where a huge object is; None of others, and of those that are not known."""
        if identifier[0] >> 4 & 0x03 != _HUGE:
            return None
        direct = crawl.format.offset_width + crawl.format.length_width
        if len(identifier) > direct:
            fields = Fields(identifier, crawl.format, 1)
            return crawl.span(fields.address(), fields.length())
        return self.huge.get(int.from_bytes(identifier[1:], "little"))


def read_heap(crawl: Crawl, address: int) -> Reading[Heap]:
    """Read all blocks of a heap, level by level (HDF5 File Format Specification, III.G)."""
    header = yield from read_header(crawl, address)
    # libhdf5 opens it when it iterates over links.
    crawl.hint(header.free_space_address, _FREE_SPACE_HEADER_BYTES)
    found = yield from _read_blocks(crawl, header)
    huge = yield from _read_huge(crawl, header)
    heap_offsets = sorted(found)
    return Heap(
        header=header, heap_offsets=heap_offsets, blocks=[found[at] for at in heap_offsets], huge=huge
    )


# Blocks ----------------------------------------------------------------------------------


def _read_blocks(crawl: Crawl, header: Header) -> Reading[dict[int, memoryview]]:
    """Return the direct blocks by where they begin in the heap (bytes), without filters."""
    found: dict[int, memoryview] = {}
    pending = _root(crawl, header)
    while pending:
        views = yield from read_spans([crawl.span(block.address, block.stored_bytes) for block in pending])
        read = dict(zip(pending, views, strict=True))
        for block, view in read.items():
            if not block.rows:
                found[block.heap_offset] = unfilter(
                    view, header.pipeline, block.filter_mask, block.byte_length
                )
        pending = list(_below(crawl, header, read))
    return found


def _root(crawl: Crawl, header: Header) -> list[_Block]:
    if not crawl.format.is_defined(header.root_address):
        return []
    stored_bytes = header.root_stored_bytes if header.pipeline else header.start_bytes
    if header.root_rows:
        stored_bytes = _indirect_bytes(crawl, header, header.root_rows)
    return [
        _Block(
            heap_offset=0,
            address=header.root_address,
            byte_length=header.start_bytes,
            stored_bytes=stored_bytes,
            rows=header.root_rows,
            filter_mask=header.root_filter_mask,
        )
    ]


def _prefix_bytes(crawl: Crawl, header: Header) -> int:
    """Return the length of what comes before a block's entries (bytes)."""
    return 5 + crawl.format.offset_width + header.offset_width


def _indirect_bytes(crawl: Crawl, header: Header, rows: int) -> int:
    """Return the length of an indirect block (bytes); with filters, entries of direct blocks are longer."""
    entries = rows * header.width * crawl.format.offset_width
    if header.pipeline:
        direct_rows = sum(header.row_bytes(row) <= header.largest_direct_bytes for row in range(rows))
        entries += direct_rows * header.width * (crawl.format.length_width + _MASK_BYTES)
    return _prefix_bytes(crawl, header) + entries + _CHECKSUM


def _below(crawl: Crawl, header: Header, read: dict[_Block, memoryview]) -> Iterator[_Block]:
    """Yield the children of indirect blocks, each once."""
    seen: set[int] = set()
    for block, view in read.items():
        if block.rows and bytes(view[:4]) == b"FHIB":
            for child in _children(crawl, header, block, view):
                if child.address not in seen:
                    seen.add(child.address)
                    yield child


def _children(crawl: Crawl, header: Header, block: _Block, view: memoryview) -> Iterator[_Block]:
    """Yield the children of an indirect block, row by row of its doubling table."""
    fields = Fields(view, crawl.format, _prefix_bytes(crawl, header))
    heap_offset = block.heap_offset
    for row in range(block.rows):
        byte_length = header.row_bytes(row)
        rows = _child_rows(header, block, byte_length)
        for _ in range(header.width):
            child = _parse_child(crawl, header, fields, heap_offset, byte_length, rows)
            heap_offset += byte_length
            if crawl.format.is_defined(child.address):
                yield child


def _parse_child(
    crawl: Crawl, header: Header, fields: Fields, heap_offset: int, byte_length: int, rows: int
) -> _Block:
    address = fields.address()
    stored_bytes, filter_mask = _indirect_bytes(crawl, header, rows) if rows else byte_length, 0
    if header.pipeline and not rows:
        stored_bytes, filter_mask = fields.length(), fields.uint(_MASK_BYTES)
    return _Block(
        heap_offset=heap_offset,
        address=address,
        byte_length=byte_length,
        stored_bytes=stored_bytes,
        rows=rows,
        filter_mask=filter_mask,
    )


def _child_rows(header: Header, block: _Block, byte_length: int) -> int:
    """Return the rows of a child that is an indirect block; fewer than its parent's, or it is damaged."""
    if byte_length <= header.largest_direct_bytes:
        return 0
    rows = (byte_length // (header.start_bytes * header.width)).bit_length()
    if not 0 < rows < block.rows:
        raise FormatError("absurd indirect block")
    return rows


# Huge objects ----------------------------------------------------------------------------


def _read_huge(crawl: Crawl, header: Header) -> Reading[dict[int, Span]]:
    """Read where huge objects are (III.A.2, record types 1 and 3)."""
    if not crawl.format.is_defined(header.huge_address):
        return {}
    records = yield from btree_v2.read_records(crawl, header.huge_address)
    found: dict[int, Span] = {}
    for record in records:
        fields = Fields(record, crawl.format)
        span = crawl.span(fields.address(), fields.length())
        number = fields.length() if fields.remaining else len(found)
        found[number] = span
    return found
