"""Groups of the old kind: a version 1 B-tree of symbol table nodes, and a local heap of names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch.btree_v1 import Node, group_tree, read_bottom
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, Reading, read_spans, together

LOCAL_HEAP_BYTES = 512
"""What libhdf5 reads of a local heap before it knows its length (bytes)."""

_SOFT_LINK = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A hard link of a group."""

    name: str
    """Its name."""
    address: int
    """Address of the object header that it leads to."""


def read_local_heap(crawl: Crawl, address: int) -> Reading[memoryview]:
    """Read the data segment of a local heap (HDF5 File Format Specification, III.D "Local Heaps")."""
    (view,) = yield (crawl.span(address, LOCAL_HEAP_BYTES),)
    fields = Fields(view, crawl.format)
    fields.expect(b"HEAP")
    fields.skip(4)
    byte_length = fields.length()
    fields.skip(crawl.format.length_width)
    (segment,) = yield (crawl.span(fields.address(), byte_length),)
    return segment


def read_symbol_table(crawl: Crawl, btree_address: int, heap_address: int) -> Reading[list[Link]]:
    """Read the hard links of a group (IV.A.2.r "Symbol Table Message")."""
    names, entries = yield from together(
        read_local_heap(crawl, heap_address), _read_entries(crawl, btree_address)
    )
    if names is None or entries is None:
        return []
    heap = bytes(names)
    return [Link(name=_name(heap, at), address=address) for at, address in _entries(crawl, entries)]


def _read_entries(crawl: Crawl, btree_address: int) -> Reading[memoryview]:
    """Return the entries of all symbol table nodes, one behind the other."""
    leaves = yield from read_bottom(crawl, group_tree(crawl), btree_address, with_leaves=True)
    node_bytes = 8 + 2 * crawl.format.group_leaf_k * _entry_bytes(crawl)
    spans = [crawl.span(address, node_bytes) for address in _symbol_nodes(leaves)]
    views = (yield from read_spans(spans)) if spans else []
    return memoryview(b"".join(_entry_part(crawl, view) for view in views))


def _symbol_nodes(leaves: list[Node]) -> Iterator[int]:
    return (address for node in leaves if node.level == 0 for _, address in node.children)


def _entry_bytes(crawl: Crawl) -> int:
    return 2 * crawl.format.offset_width + 24


def _entry_part(crawl: Crawl, view: memoryview) -> memoryview:
    """Return the used entries of a node (III.B "Group Symbol Table Nodes")."""
    fields = Fields(view, crawl.format)
    try:
        fields.expect(b"SNOD")
        fields.skip(2)
        return fields.take(fields.uint(2) * _entry_bytes(crawl))
    except FORMAT_ERRORS:
        return view[:0]


def _entries(crawl: Crawl, entries: memoryview) -> Iterator[tuple[int, int]]:
    """Yield where the name of each hard link stands in the heap, and its address (III.C)."""
    for at in range(0, len(entries), _entry_bytes(crawl)):
        fields = Fields(entries, crawl.format, at)
        name_at, address = fields.address(), fields.address()
        if fields.uint(4) != _SOFT_LINK:
            yield name_at, address


def _name(heap: bytes, at: int) -> str:
    return heap[at : heap.find(b"\0", at)].decode("utf-8", "surrogateescape")
