"""The header of a fractal heap: how its blocks are laid out, and where the first one is."""

from __future__ import annotations

from dataclasses import dataclass

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.filters import Pipeline, parse_pipeline
from h5zarr.prefetch.tasks import Crawl, FormatError, Reading, read_span

_MOST_ROWS = 1024
_MOST_WIDTH = 1024
_ADDRESS = -1
_LENGTH = -2
_FIELDS = {
    "version": 1,
    "id_bytes": 2,
    "filter_bytes": 2,
    "flags": 1,
    "largest_managed_bytes": 4,
    "next_huge_number": _LENGTH,
    "huge_address": _ADDRESS,
    "free_bytes": _LENGTH,
    "free_space_address": _ADDRESS,
    "managed_bytes": _LENGTH,
    "allocated_bytes": _LENGTH,
    "allocation_offset": _LENGTH,
    "managed_count": _LENGTH,
    "huge_bytes": _LENGTH,
    "huge_count": _LENGTH,
    "tiny_bytes": _LENGTH,
    "tiny_count": _LENGTH,
    "width": 2,
    "start_bytes": _LENGTH,
    "largest_direct_bytes": _LENGTH,
    "heap_bits": 2,
    "first_rows": 2,
    "root_address": _ADDRESS,
    "root_rows": 2,
}
"""What stands behind the signature, in this order, and its width (bytes)."""
_FILTERED_FIELDS = {"root_stored_bytes": _LENGTH, "root_filter_mask": 4}
"""What comes next in a heap with filters, before these."""
_SIGNATURE = b"FRHP"
_CHECKSUM = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A heap's header."""

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
    pipeline: Pipeline = ()
    """Filters that direct blocks pass through."""
    root_stored_bytes: int = 0
    """Length of the root in the file where it is a direct block and there are filters (bytes)."""
    root_filter_mask: int = 0
    """Bit i set: filter i was skipped for that root."""

    def row_bytes(self, row: int) -> int:
        """Return the length of the blocks in a row (bytes): each but the first two rows doubles it."""
        return self.start_bytes << max(row - 1, 0)


def read_header(crawl: Crawl, address: int) -> Reading[Header]:
    """Read a heap's header (HDF5 File Format Specification, III.G "Fractal Heap").

    Raises
    ------
    FormatError
        It is none, or absurd.
    """
    plain_bytes = len(_SIGNATURE) + _total_bytes(crawl, _FIELDS) + _CHECKSUM
    view = yield from read_span(crawl.span(address, plain_bytes))
    fields = Fields(view, crawl.format)
    fields.expect(_SIGNATURE)
    values = _parse(crawl, fields, _FIELDS)
    pipeline: Pipeline = ()
    if values["filter_bytes"]:
        whole = plain_bytes + _total_bytes(crawl, _FILTERED_FIELDS) + values["filter_bytes"]
        view = yield from read_span(crawl.span(address, whole))
        fields = Fields(view, crawl.format, plain_bytes - _CHECKSUM)
        values |= _parse(crawl, fields, _FILTERED_FIELDS)
        pipeline = parse_pipeline(fields.take(values["filter_bytes"]), crawl.format)
    return _checked(_header(values, pipeline))


def _width(crawl: Crawl, width: int) -> int:
    return {_ADDRESS: crawl.format.offset_width, _LENGTH: crawl.format.length_width}.get(width, width)


def _total_bytes(crawl: Crawl, layout: dict[str, int]) -> int:
    return sum(_width(crawl, width) for width in layout.values())


def _parse(crawl: Crawl, fields: Fields, layout: dict[str, int]) -> dict[str, int]:
    return {name: fields.uint(_width(crawl, width)) for name, width in layout.items()}


def _header(values: dict[str, int], pipeline: Pipeline) -> Header:
    largest = min(values["largest_direct_bytes"], values["largest_managed_bytes"])
    return Header(
        huge_address=values["huge_address"],
        free_space_address=values["free_space_address"],
        width=values["width"],
        start_bytes=values["start_bytes"],
        largest_direct_bytes=values["largest_direct_bytes"],
        offset_width=(values["heap_bits"] + 7) // 8,
        length_width=max((largest.bit_length() + 7) // 8, 1),
        root_address=values["root_address"],
        root_rows=values["root_rows"],
        pipeline=pipeline,
        root_stored_bytes=values.get("root_stored_bytes", 0),
        root_filter_mask=values.get("root_filter_mask", 0),
    )


def _checked(header: Header) -> Header:
    powers = (header.width, header.start_bytes, header.largest_direct_bytes)
    if any(value <= 0 or value & (value - 1) for value in powers):
        raise FormatError("absurd fractal heap")
    if header.root_rows > _MOST_ROWS or header.width > _MOST_WIDTH:
        raise FormatError("absurd fractal heap")
    return header
