"""Global heaps: where variable-length data and references to regions are."""

from __future__ import annotations

import numpy as np

from h5zarr.prefetch.datatype import ElementType, Pointer
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, Reading, Task

COLLECTION_BYTES = 4096
"""What libhdf5 reads of a collection before it knows its length (bytes)."""

_INDEX_WIDTH = 4
_FEW_ELEMENTS = 16
_NUMPY_WIDTHS = (4, 8)
_MOST_NESTED_ELEMENTS = 100_000


def fetch_collection(crawl: Crawl, address: int) -> Task:
    """Fetch a heap collection that nothing needs to be learned from."""
    yield from read_collection(crawl, address)


def read_collection(crawl: Crawl, address: int) -> Reading[memoryview]:
    """Read a whole heap collection (HDF5 File Format Specification, III.E "Global Heap")."""
    (view,) = yield (crawl.span(address, COLLECTION_BYTES),)
    fields = Fields(view, crawl.format)
    fields.expect(b"GCOL")
    fields.skip(4)
    byte_length = fields.length()
    if byte_length > len(view):
        (view,) = yield (crawl.span(address, byte_length),)
    return view


def collection_objects(crawl: Crawl, collection: memoryview) -> dict[int, memoryview]:
    """Return the objects of a collection by their index (III.E)."""
    fields = Fields(collection, crawl.format)
    fields.skip(8 + crawl.format.length_width)
    found: dict[int, memoryview] = {}
    while fields.remaining >= 8 + crawl.format.length_width:
        index = fields.uint(2)
        fields.skip(6)
        byte_length = fields.length()
        if index == 0:
            break
        found[index] = fields.take(min(byte_length, fields.remaining))
        fields.skip(-byte_length % 8)
    return found


def follow_pointers(crawl: Crawl, element: ElementType, content: memoryview) -> None:
    """Fetch the heap collections that elements point to, and what is in them points to.

    Parameters
    ----------
    crawl
        The crawl.
    element
        Type of the elements.
    content
        Elements in a row; a rest that is no whole element is left out.
    """
    count = len(content) // max(element.byte_length, 1)
    whole = content[: count * element.byte_length]
    for pointer in element.pointers:
        for address in _addresses(crawl, element, pointer, whole):
            if crawl.format.is_defined(address) and crawl.claim("collection", address):
                crawl.start(fetch_collection(crawl, address))
    nested = [pointer for pointer in element.pointers if pointer.base is not None]
    if nested:
        crawl.start(_follow_nested(crawl, element, nested, content, count))


def _addresses(crawl: Crawl, element: ElementType, pointer: Pointer, content: memoryview) -> set[int]:
    """Return the addresses at one place of all elements; 0 stands for nothing."""
    width = crawl.format.offset_width
    if pointer.byte_offset + width > element.byte_length:
        return set()
    starts = range(pointer.byte_offset, len(content), element.byte_length)
    if len(starts) > _FEW_ELEMENTS and width in _NUMPY_WIDTHS:
        return _addresses_in_bulk(element, pointer, content, width)
    return {int.from_bytes(content[start : start + width], "little") for start in starts} - {0}


def _addresses_in_bulk(element: ElementType, pointer: Pointer, content: memoryview, width: int) -> set[int]:
    rows = np.frombuffer(content, np.uint8).reshape(-1, element.byte_length)
    columns = np.ascontiguousarray(rows[:, pointer.byte_offset : pointer.byte_offset + width])
    return set(np.unique(columns.view(f"<u{width}")).tolist()) - {0}


def _follow_nested(
    crawl: Crawl, element: ElementType, pointers: list[Pointer], content: memoryview, count: int
) -> Task:
    """Look into the heap objects of elements whose own elements point on."""
    for number in range(min(count, _MOST_NESTED_ELEMENTS)):
        start = number * element.byte_length
        for pointer in pointers:
            fields = Fields(content, crawl.format, start + pointer.byte_offset)
            address, index = fields.address(), fields.uint(_INDEX_WIDTH)
            if crawl.format.is_defined(address) and address and pointer.base is not None:
                yield from _follow_object(crawl, pointer.base, address, index)


def _follow_object(crawl: Crawl, base: ElementType, address: int, index: int) -> Task:
    try:
        collection = yield from read_collection(crawl, address)
        inner = collection_objects(crawl, collection).get(index)
    except FORMAT_ERRORS:
        return
    if inner is not None:
        follow_pointers(crawl, base, inner)
