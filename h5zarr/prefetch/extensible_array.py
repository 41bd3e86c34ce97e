"""Extensible arrays: the chunk index of datasets that can grow along one dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch.chunks import Chunk, ElementForm, array_chunks
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FormatError, Reading, read_span, read_spans

_CHECKSUM = 4
_FILTERED = 1
_MOST_BITS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """An array's header."""

    form: ElementForm
    """How its elements tell of chunks."""
    index_bits: int
    """Bits of the number of an element."""
    index_block_elements: int
    """Elements in the index block itself."""
    least_block_elements: int
    """Elements in the smallest data blocks."""
    least_pointers: int
    """Data blocks of the smallest super block."""
    page_elements: int
    """Elements in a page; data blocks with more are in pages."""
    index_block_address: int
    """Address of the index block."""

    @property
    def direct_super_blocks(self) -> int:
        """Number of super blocks whose data blocks the index block itself points to."""
        return 2 * (self.least_pointers.bit_length() - 1)

    @property
    def super_blocks(self) -> int:
        """Number of all super blocks."""
        return 1 + self.index_bits - (self.least_block_elements.bit_length() - 1)

    def block_count(self, super_block: int) -> int:
        """Return the number of data blocks of a super block."""
        return 1 << super_block // 2

    def block_elements(self, super_block: int) -> int:
        """Return the number of elements in each data block of a super block."""
        return self.least_block_elements << (super_block + 1) // 2

    def page_count(self, super_block: int) -> int:
        """Return the number of pages of each data block of a super block; 0: not in pages."""
        elements = self.block_elements(super_block)
        return elements // self.page_elements if elements > self.page_elements else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _DataBlock:
    """A data block, not read yet."""

    address: int
    """Its address."""
    super_block: int
    """Number of the super block that it belongs to."""
    pages: tuple[int, ...] = ()
    """Numbers of the pages that have been written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A part of the array that is stored in a row."""

    span: Span
    """Where it is in the file."""
    start: int
    """Where the elements begin in it (bytes)."""


def read_extensible_array(
    crawl: Crawl, address: int, chunk_bytes: int, *, with_chunks: bool
) -> Reading[list[Chunk]]:
    """Read an extensible array (HDF5 File Format Specification, VII.D "The Extensible Array Index").

    Parameters
    ----------
    crawl
        The crawl.
    address
        Of its header.
    chunk_bytes
        Length of a chunk without filters (bytes).
    with_chunks
        Whether the chunks are wanted; otherwise their places are only fetched.
    """
    view = yield from read_span(crawl.span(address, _header_bytes(crawl)))
    header = _parse_header(crawl, view, chunk_bytes)
    index_bytes = _index_block_bytes(crawl, header)
    index_block = yield from read_span(crawl.span(header.index_block_address, index_bytes))
    fields = Fields(index_block, crawl.format)
    fields.expect(b"EAIB")
    fields.skip(2 + crawl.format.offset_width)
    elements = fields.take(header.index_block_elements * header.form.byte_length)
    pieces = yield from _find_pieces(crawl, header, fields)
    if not with_chunks:
        crawl.hints.extend(piece.span for piece in pieces)
        return []
    contents = [elements, *(yield from _read_pieces(pieces))]
    return [chunk for content in contents for chunk in array_chunks(crawl, content, header.form)]


def _find_pieces(crawl: Crawl, header: _Header, fields: Fields) -> Reading[list[_Piece]]:
    """Return where the elements are of all blocks that the rest of the index block leads to."""
    blocks = list(_direct_blocks(crawl, header, fields))
    blocks += yield from _read_super_blocks(crawl, header, fields)
    return [piece for block in blocks for piece in _pieces(crawl, header, block)]


def _read_pieces(pieces: list[_Piece]) -> Reading[list[memoryview]]:
    """Read the elements of pieces, without checksums."""
    views = (yield tuple(piece.span for piece in pieces)) if pieces else ()
    return [view[piece.start : -_CHECKSUM] for piece, view in zip(pieces, views, strict=True)]


def _header_bytes(crawl: Crawl) -> int:
    return 16 + 6 * crawl.format.length_width + crawl.format.offset_width


def _parse_header(crawl: Crawl, view: memoryview, chunk_bytes: int) -> _Header:
    fields = Fields(view, crawl.format)
    fields.expect(b"EAHD")
    fields.skip(1)
    client, element_bytes, index_bits, index_elements = (fields.uint(1) for _ in range(4))
    least_elements, least_pointers, page_bits = (fields.uint(1) for _ in range(3))
    fields.skip(6 * crawl.format.length_width)
    if index_bits > _MOST_BITS or page_bits > _MOST_BITS or not least_elements or not least_pointers:
        raise FormatError("absurd extensible array")
    return _Header(
        form=ElementForm(byte_length=element_bytes, has_filters=client == _FILTERED, chunk_bytes=chunk_bytes),
        index_bits=index_bits,
        index_block_elements=index_elements,
        least_block_elements=least_elements,
        least_pointers=least_pointers,
        page_elements=1 << page_bits,
        index_block_address=fields.address(),
    )


def _index_block_bytes(crawl: Crawl, header: _Header) -> int:
    addresses = 2 * (header.least_pointers - 1) + max(header.super_blocks - header.direct_super_blocks, 0)
    elements = header.index_block_elements * header.form.byte_length
    return 6 + crawl.format.offset_width + elements + addresses * crawl.format.offset_width + _CHECKSUM


def _direct_blocks(crawl: Crawl, header: _Header, fields: Fields) -> Iterator[_DataBlock]:
    """Yield the data blocks that the index block points to."""
    for super_block in range(header.direct_super_blocks):
        for _ in range(header.block_count(super_block)):
            address = fields.address()
            if crawl.format.is_defined(address):
                yield _DataBlock(address=address, super_block=super_block)


def _read_super_blocks(crawl: Crawl, header: _Header, fields: Fields) -> Reading[list[_DataBlock]]:
    """Read the super blocks whose addresses come next, and return their data blocks."""
    numbers = range(header.direct_super_blocks, header.super_blocks)
    addresses = {number: fields.address() for number in numbers}
    stored = {number: address for number, address in addresses.items() if crawl.format.is_defined(address)}
    spans = [crawl.span(at, _super_block_bytes(crawl, header, number)) for number, at in stored.items()]
    views = (yield from read_spans(spans)) if spans else []
    found: list[_DataBlock] = []
    for number, view in zip(stored, views, strict=True):
        try:
            found += _super_block_blocks(crawl, header, number, view)
        except FORMAT_ERRORS:
            continue
    return found


def _offset_width(header: _Header) -> int:
    """Return the width of a block's place in the array (bytes)."""
    return -(-header.index_bits // 8)


def _prefix_bytes(crawl: Crawl, header: _Header) -> int:
    """Return the length of what super and data blocks begin with (bytes)."""
    return 6 + crawl.format.offset_width + _offset_width(header)


def _bitmap_bytes(header: _Header, super_block: int) -> int:
    """Return the length of the bitmap of each data block's pages (bytes)."""
    return -(-header.page_count(super_block) // 8)


def _super_block_bytes(crawl: Crawl, header: _Header, super_block: int) -> int:
    per_block = _bitmap_bytes(header, super_block) + crawl.format.offset_width
    return _prefix_bytes(crawl, header) + header.block_count(super_block) * per_block + _CHECKSUM


def _super_block_blocks(
    crawl: Crawl, header: _Header, super_block: int, view: memoryview
) -> Iterator[_DataBlock]:
    fields = Fields(view, crawl.format)
    fields.expect(b"EASB")
    fields.skip(_prefix_bytes(crawl, header) - 4)
    count, page_count = header.block_count(super_block), header.page_count(super_block)
    bitmap = fields.take(count * _bitmap_bytes(header, super_block))
    for number in range(count):
        address = fields.address()
        if crawl.format.is_defined(address):
            pages = tuple(_written(bitmap, number * page_count, page_count))
            yield _DataBlock(address=address, super_block=super_block, pages=pages)


def _written(bitmap: memoryview, first: int, page_count: int) -> Iterator[int]:
    """Yield the numbers of a block's pages whose bit is set: bits of all blocks in a row, highest first."""
    for page in range(page_count):
        byte, bit = divmod(first + page, 8)
        if bitmap[byte] & 0x80 >> bit:
            yield page


def _pieces(crawl: Crawl, header: _Header, block: _DataBlock) -> Iterator[_Piece]:
    """Yield where the elements of a data block are: behind its prefix, or in its pages."""
    prefix = _prefix_bytes(crawl, header)
    element_bytes = header.form.byte_length
    if not header.page_count(block.super_block):
        stored = header.block_elements(block.super_block) * element_bytes
        yield _Piece(span=crawl.span(block.address, prefix + stored + _CHECKSUM), start=prefix)
        return
    crawl.hint(block.address, prefix + _CHECKSUM)
    page_bytes = header.page_elements * element_bytes + _CHECKSUM
    for page in block.pages:
        address = block.address + prefix + _CHECKSUM + page * page_bytes
        yield _Piece(span=crawl.span(address, page_bytes), start=0)
