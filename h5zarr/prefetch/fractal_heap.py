"""Fractal heaps: where dense links and attributes are."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch import btree_v2
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import Crawl, FormatError, Reading, read_span, read_spans

_FREE_SPACE_HEADER_BYTES = 128
_MOST_ROWS = 1024
_MOST_WIDTH = 1024
_MANAGED = 0
_HUGE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A heap's header."""

    id_bytes: int
    """Length of the identifiers of its objects (bytes)."""
    huge_address: int
    """Address of the version 2 B-tree of huge objects."""
    free_space_address: int
    """Address of the free-space manager's header."""
    width: int
    """Blocks in a row of the doubling table."""
    start_bytes: int
    """Length of the blocks of the first row (bytes)."""
    largest_direct_bytes: int
    """Length of the largest direct blocks (bytes)."""
    offset_width: int
    """Width of an offset into the heap (bytes)."""
    length_width: int
    """Width of the length of a managed object (bytes)."""
    root_address: int
    """Address of the root block."""
    root_rows: int
    """Rows of the root, an indirect block; 0 where the root is a direct block."""

    def row_bytes(self, row: int) -> int:
        """Return the length of the blocks in a row (bytes): each but the first two rows doubles it."""
        return self.start_bytes << max(row - 1, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """A block of the heap, not read yet."""

    heap_offset: int
    """Where it begins in the heap (bytes)."""
    address: int
    """Its address in the file."""
    byte_length: int
    """Its length in the heap (bytes)."""
    rows: int
    """Rows of an indirect block; 0: a direct block."""


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


def header_bytes(crawl: Crawl) -> int:
    """Return the length of the header of a heap without filters (bytes)."""
    return 26 + 12 * crawl.format.length_width + 3 * crawl.format.offset_width


def parse_header(crawl: Crawl, view: memoryview) -> Header:
    """Parse a heap's header (HDF5 File Format Specification, III.G "Fractal Heap").

    Raises
    ------
    FormatError
        It is none, or its blocks pass through filters.
    """
    fields = Fields(view, crawl.format)
    fields.expect(b"FRHP")
    fields.skip(1)
    id_bytes, filter_bytes = fields.uint(2), fields.uint(2)
    if filter_bytes:
        raise FormatError("a filtered heap")
    fields.skip(1)
    largest_managed = fields.uint(4)
    fields.length()
    huge_address = fields.address()
    fields.length()
    free_space_address = fields.address()
    fields.skip(8 * crawl.format.length_width)
    width, start_bytes, largest_direct = fields.uint(2), fields.length(), fields.length()
    heap_bits = fields.uint(2)
    fields.skip(2)
    return _checked(
        Header(
            id_bytes=id_bytes,
            huge_address=huge_address,
            free_space_address=free_space_address,
            width=width,
            start_bytes=start_bytes,
            largest_direct_bytes=largest_direct,
            offset_width=(heap_bits + 7) // 8,
            length_width=_width(min(largest_direct, largest_managed)),
            root_address=fields.address(),
            root_rows=fields.uint(2),
        )
    )


def _checked(header: Header) -> Header:
    powers = (header.width, header.start_bytes, header.largest_direct_bytes)
    if any(value <= 0 or value & (value - 1) for value in powers):
        raise FormatError("absurd fractal heap")
    if header.root_rows > _MOST_ROWS or header.width > _MOST_WIDTH:
        raise FormatError("absurd fractal heap")
    return header


def _width(most: int) -> int:
    return max((most.bit_length() + 7) // 8, 1)


def read_heap(crawl: Crawl, address: int) -> Reading[Heap]:
    """Read all blocks of a heap, level by level (III.G)."""
    view = yield from read_span(crawl.span(address, header_bytes(crawl)))
    header = parse_header(crawl, view)
    # libhdf5 opens it when it iterates over links.
    crawl.hint(header.free_space_address, _FREE_SPACE_HEADER_BYTES)
    found: dict[int, memoryview] = {}
    pending = _root(crawl, header)
    while pending:
        views = yield from read_spans(
            [crawl.span(block.address, _stored_bytes(crawl, header, block)) for block in pending]
        )
        read = dict(zip(pending, views, strict=True))
        found |= {block.heap_offset: view for block, view in read.items() if not block.rows}
        pending = list(_below(crawl, header, read))
    huge = yield from _read_huge(crawl, header)
    heap_offsets = sorted(found)
    return Heap(
        header=header, heap_offsets=heap_offsets, blocks=[found[at] for at in heap_offsets], huge=huge
    )


def _root(crawl: Crawl, header: Header) -> list[_Block]:
    if not crawl.format.is_defined(header.root_address):
        return []
    return [
        _Block(
            heap_offset=0,
            address=header.root_address,
            byte_length=header.start_bytes,
            rows=header.root_rows,
        )
    ]


def _prefix_bytes(crawl: Crawl, header: Header) -> int:
    """Return the length of what comes before a block's entries (bytes)."""
    return 5 + crawl.format.offset_width + header.offset_width


def _stored_bytes(crawl: Crawl, header: Header, block: _Block) -> int:
    if not block.rows:
        return block.byte_length
    return _prefix_bytes(crawl, header) + block.rows * header.width * crawl.format.offset_width + 4


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
        for _ in range(header.width):
            address = fields.address()
            if crawl.format.is_defined(address):
                rows = _child_rows(header, block, byte_length)
                yield _Block(heap_offset=heap_offset, address=address, byte_length=byte_length, rows=rows)
            heap_offset += byte_length


def _child_rows(header: Header, block: _Block, byte_length: int) -> int:
    """Return the rows of a child that is an indirect block; fewer than its parent's, or it is damaged."""
    if byte_length <= header.largest_direct_bytes:
        return 0
    rows = (byte_length // (header.start_bytes * header.width)).bit_length()
    if not 0 < rows < block.rows:
        raise FormatError("absurd indirect block")
    return rows


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
