"""Shared messages: what objects' headers have in common is kept once, in heaps of the whole file."""

from __future__ import annotations

from collections.abc import Iterator

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.fractal_heap import Heap, read_heap
from h5zarr.prefetch.object_header import Message
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FormatError, Reading, Task, read_span

_IN_HEAP = (3, 1)
"""Version and type of a shared message that stands in a heap."""
_CHECKSUM = 4


def read_shared_table(crawl: Crawl, body: memoryview) -> Task:
    """Read where the heaps are (HDF5 File Format Specification, IV.A.2.p and III.I).

    Parameters
    ----------
    crawl
        The crawl, which gets to know the heaps.
    body
        The shared message table message of the superblock's extension.
    """
    fields = Fields(body, crawl.format)
    fields.skip(1)
    address, count = fields.address(), fields.uint(1)
    index_bytes = 14 + 2 * crawl.format.offset_width
    view = yield from read_span(crawl.span(address, 4 + count * index_bytes + _CHECKSUM))
    table = Fields(view, crawl.format)
    table.expect(b"SMTB")
    crawl.shared_heaps.update(heap for _ in range(count) for heap in _parse_index(table))


def _parse_index(fields: Fields) -> Iterator[tuple[int, int]]:
    """Yield each type of message that an index is for, and the address of its heap."""
    fields.skip(2)
    kinds = fields.uint(2)
    fields.skip(10)
    fields.address()
    heap_address = fields.address()
    return ((kind, heap_address) for kind in range(16) if kinds >> kind & 1)


def is_in_heap(body: memoryview) -> bool:
    """Return whether the body of a shared message tells a place in a heap, not an object (IV.A.2)."""
    return tuple(body[:2]) == _IN_HEAP


def read_shared(crawl: Crawl, kind: int, body: memoryview) -> Reading[memoryview]:
    """Read the message of a type that stands in a heap.

    Raises
    ------
    FormatError
        There is none.
    """
    address = crawl.shared_heaps[kind]
    heap: Heap | None = crawl.heaps.get(address)
    if heap is None:
        heap = crawl.heaps[address] = yield from read_heap(crawl, address)
    found = heap.managed(body[2:])
    if found is None:
        raise FormatError("a shared message that is no managed object")
    return found


def with_shared(crawl: Crawl, messages: list[Message]) -> Reading[list[Message]]:
    """Return an object's messages, those in heaps included as if they stood in its header."""
    if not crawl.shared_heaps:
        return messages
    found = []
    for message in messages:
        if not message.is_shared or not is_in_heap(message.body):
            found.append(message)
            continue
        try:
            body = yield from read_shared(crawl, message.kind, message.body)
        except FORMAT_ERRORS:
            continue
        found.append(Message(message.kind, body, False))
    return found
