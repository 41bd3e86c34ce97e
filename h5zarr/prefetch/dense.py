"""Dense storage: links or attributes in a fractal heap, found through version 2 B-trees."""

from __future__ import annotations

from collections.abc import Iterator

from h5zarr.prefetch.btree_v2 import read_records
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.fractal_heap import Heap, read_heap
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, Reading, read_spans, together

LINK_ID = (4, 7)
"""Where the heap identifier of a link stands in a record of the index by name, and its length (bytes)."""
ATTRIBUTE_ID = (0, 8)
"""Where the heap identifier of an attribute stands in a record, and its length (bytes)."""
LINK_ORDER_BYTES = 8
"""Width of the largest creation number of a group's links (bytes)."""
ATTRIBUTE_ORDER_BYTES = 2
"""Width of the largest creation number of an object's attributes (bytes)."""


def dense_addresses(crawl: Crawl, body: memoryview, order_bytes: int) -> tuple[int, list[int]]:
    """Return the address of the heap, and those of the indexes by name and by order of creation.

    HDF5 File Format Specification, IV.A.2.c "Link Info Message" and IV.A.2.v "Attribute Info Message",
    which differ in the width of the largest creation number only.

    Parameters
    ----------
    crawl
        The crawl.
    body
        The message.
    order_bytes
        That width (bytes).
    """
    fields = Fields(body, crawl.format)
    fields.skip(1)
    flags = fields.uint(1)
    fields.skip(order_bytes if flags & 0x01 else 0)
    heap_address = fields.address()
    indexes = [fields.address() for _ in range(2 if flags & 0x02 else 1)]
    return heap_address, [address for address in indexes if crawl.format.is_defined(address)]


def read_dense(
    crawl: Crawl, heap_address: int, index_addresses: list[int], id_at: int, id_bytes: int
) -> Reading[list[memoryview]]:
    """Read all links or attributes of an object.

    Parameters
    ----------
    crawl
        The crawl.
    heap_address
        Address of the heap.
    index_addresses
        Addresses of the indexes: by name first. All are fetched, the first is followed.
    id_at, id_bytes
        Where the heap identifier stands in a record of the first, and its length (bytes).
    """
    heap, *indexes = yield from together(
        read_heap(crawl, heap_address), *(read_records(crawl, address) for address in index_addresses)
    )
    if heap is None or not indexes or indexes[0] is None:
        return []
    identifiers = [record[id_at : id_at + id_bytes] for record in indexes[0]]
    spans = [span for span in _attempts(heap, crawl, identifiers) if span is not None]
    huge = (yield from read_spans(spans)) if spans else []
    return [*_managed(heap, identifiers), *huge]


def _managed(heap: Heap, identifiers: list[memoryview]) -> Iterator[memoryview]:
    for identifier in identifiers:
        try:
            found = heap.managed(identifier)
        except FORMAT_ERRORS:
            continue
        if found is not None:
            yield found


def _attempts(heap: Heap, crawl: Crawl, identifiers: list[memoryview]) -> Iterator[Span | None]:
    for identifier in identifiers:
        try:
            yield heap.huge_span(crawl, identifier)
        except FORMAT_ERRORS:
            continue
