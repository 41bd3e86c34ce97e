"""Fixed arrays: the chunk index of datasets that cannot grow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch.chunks import Chunk, ElementForm, array_chunks
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import Crawl, Reading, read_span

_CHECKSUM = 4
_WHOLE_BYTES = 2**20
_FILTERED = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """An array's header."""

    form: ElementForm
    """How its elements tell of chunks."""
    page_elements: int
    """Elements in a page; data blocks with more are in pages."""
    element_count: int
    """Number of all elements."""
    block_address: int
    """Address of the data block."""

    @property
    def page_count(self) -> int:
        """Number of pages; 0: the elements stand in the data block itself."""
        if self.element_count <= self.page_elements:
            return 0
        return -(-self.element_count // self.page_elements)


def read_fixed_array(
    crawl: Crawl, address: int, chunk_bytes: int, *, with_chunks: bool
) -> Reading[list[Chunk]]:
    """Read a fixed array (HDF5 File Format Specification, VII.C "The Fixed Array Index").

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
    header_bytes = 12 + crawl.format.length_width + crawl.format.offset_width
    view = yield from read_span(crawl.span(address, header_bytes))
    header = _parse_header(crawl, view, chunk_bytes)
    prefix = 6 + crawl.format.offset_width
    if header.page_count:
        return (yield from _read_paged(crawl, header, prefix, with_chunks=with_chunks))
    stored = header.element_count * header.form.byte_length
    if not with_chunks:
        crawl.hint(header.block_address, prefix + stored + _CHECKSUM)
        return []
    block = yield from read_span(crawl.span(header.block_address, prefix + stored + _CHECKSUM))
    return list(array_chunks(crawl, block[prefix : prefix + stored], header.form))


def _parse_header(crawl: Crawl, view: memoryview, chunk_bytes: int) -> _Header:
    fields = Fields(view, crawl.format)
    fields.expect(b"FAHD")
    fields.skip(1)
    client, element_bytes, page_bits = fields.uint(1), fields.uint(1), fields.uint(1)
    form = ElementForm(byte_length=element_bytes, has_filters=client == _FILTERED, chunk_bytes=chunk_bytes)
    return _Header(
        form=form,
        page_elements=1 << page_bits,
        element_count=fields.length(),
        block_address=fields.address(),
    )


def _read_paged(crawl: Crawl, header: _Header, prefix: int, *, with_chunks: bool) -> Reading[list[Chunk]]:
    """Read a data block in pages, each with a checksum; a bitmap tells which have been written."""
    bitmap_bytes = -(-header.page_count // 8)
    start = prefix + bitmap_bytes + _CHECKSUM
    page_bytes = header.page_elements * header.form.byte_length + _CHECKSUM
    whole = start + header.element_count * header.form.byte_length + header.page_count * _CHECKSUM
    if whole <= _WHOLE_BYTES:
        crawl.hint(header.block_address, whole)
    block = yield from read_span(crawl.span(header.block_address, start))
    numbers = list(_written(block[prefix : prefix + bitmap_bytes], header.page_count))
    spans = [crawl.span(header.block_address + start + number * page_bytes, page_bytes) for number in numbers]
    if not with_chunks:
        crawl.hints.extend(spans)
        return []
    pages = yield tuple(spans)
    return [chunk for page in pages for chunk in array_chunks(crawl, page[:-_CHECKSUM], header.form)]


def _written(bitmap: memoryview, page_count: int) -> Iterator[int]:
    """Yield the numbers of the pages whose bit is set, the highest of a byte first."""
    numbers = range(min(page_count, len(bitmap) * 8))
    return (number for number in numbers if bitmap[number // 8] & 0x80 >> number % 8)
