"""Version 2 B-trees: the index of dense links and attributes, huge heap objects, and of some chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FormatError, Reading, read_span, read_spans

_NODE_OVERHEAD = 10
_NODE_HEAD = 6
_DEEPEST = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A tree's header."""

    kind: int
    """What its records are."""
    node_bytes: int
    """Length of a node (bytes)."""
    record_bytes: int
    """Length of a record (bytes)."""
    depth: int
    """Levels of nodes below the root."""
    root_address: int
    """Address of the root node."""
    root_records: int
    """Number of records in the root node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Widths:
    """Widths of what stands beside a child's address, in nodes of one depth."""

    record_count: int
    """Width of the number of records in the child (bytes)."""
    total_count: int
    """Width of the number of records below the child (bytes); 0 above leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Child:
    """A node that another one points to."""

    address: int
    """Its address."""
    records: int
    """Number of records in it."""


def header_bytes(crawl: Crawl) -> int:
    """Return the length of a header (bytes)."""
    return 22 + crawl.format.offset_width + crawl.format.length_width


def parse_header(crawl: Crawl, view: memoryview) -> Header:
    """Parse a header (HDF5 File Format Specification, III.A.2 "Version 2 B-trees")."""
    fields = Fields(view, crawl.format)
    fields.expect(b"BTHD")
    fields.skip(1)
    kind, node_bytes, record_bytes, depth = fields.uint(1), fields.uint(4), fields.uint(2), fields.uint(2)
    fields.skip(2)
    if depth > _DEEPEST or not 0 < record_bytes <= node_bytes:
        raise FormatError("absurd B-tree")
    return Header(
        kind=kind,
        node_bytes=node_bytes,
        record_bytes=record_bytes,
        depth=depth,
        root_address=fields.address(),
        root_records=fields.uint(2),
    )


def read_records(crawl: Crawl, address: int, *, with_leaves: bool = True) -> Reading[list[memoryview]]:
    """Read a tree level by level, and return its records in no particular order.

    Parameters
    ----------
    crawl
        The crawl.
    address
        Of the tree's header.
    with_leaves
        Whether the records in leaves are wanted; otherwise leaves are only fetched.
    """
    view = yield from read_span(crawl.span(address, header_bytes(crawl)))
    header = parse_header(crawl, view)
    records: list[memoryview] = []
    children = [_Child(address=header.root_address, records=header.root_records)]
    widths = _widths(crawl, header)
    for depth in range(header.depth, -1, -1):
        spans = _spans(crawl, header, children)
        if not spans or (depth == 0 and not with_leaves):
            crawl.hints.extend(spans)
            break
        views = yield from read_spans(spans)
        nodes = list(zip(views, children, strict=True))
        records += [record for node, child in nodes for record in _records(header, node, child)]
        children = [] if depth == 0 else list(_children(crawl, header, nodes, widths[depth]))
    return records


def _spans(crawl: Crawl, header: Header, children: list[_Child]) -> list[Span]:
    return [crawl.span(child.address, header.node_bytes) for child in children]


def _widths(crawl: Crawl, header: Header) -> list[_Widths]:
    """Return the widths in nodes of each depth, which follow from what fits into a node (III.A.2)."""
    most_records = (header.node_bytes - _NODE_OVERHEAD) // header.record_bytes
    record_count = _width(most_records)
    below = most_records
    widths = [_Widths(record_count=record_count, total_count=0)]
    for depth in range(1, header.depth + 1):
        total_count = 0 if depth == 1 else _width(below)
        widths.append(_Widths(record_count=record_count, total_count=total_count))
        pointer = crawl.format.offset_width + record_count + total_count
        here = (header.node_bytes - _NODE_OVERHEAD - pointer) // (header.record_bytes + pointer)
        below = (here + 1) * below + here
    return widths


def _width(most: int) -> int:
    """Return how many bytes hold a number up to ``most``."""
    return max((most.bit_length() + 7) // 8, 1)


def _records(header: Header, node: memoryview, child: _Child) -> Iterator[memoryview]:
    end = _NODE_HEAD + child.records * header.record_bytes
    for at in range(_NODE_HEAD, min(end, len(node) - header.record_bytes + 1), header.record_bytes):
        yield node[at : at + header.record_bytes]


def _children(
    crawl: Crawl, header: Header, nodes: list[tuple[memoryview, _Child]], widths: _Widths
) -> Iterator[_Child]:
    """Yield the children of internal nodes, each once; a node that is none has no children."""
    seen: set[int] = set()
    for node, child in nodes:
        fields = Fields(node, crawl.format, _NODE_HEAD + child.records * header.record_bytes)
        try:
            found = _parse_children(fields, child.records + 1, widths) if bytes(node[:4]) == b"BTIN" else []
        except FORMAT_ERRORS:
            found = []
        for grandchild in found:
            if grandchild.address not in seen and crawl.format.is_defined(grandchild.address):
                seen.add(grandchild.address)
                yield grandchild


def _parse_children(fields: Fields, count: int, widths: _Widths) -> list[_Child]:
    children = []
    for _ in range(count):
        children.append(_Child(address=fields.address(), records=fields.uint(widths.record_count)))
        fields.skip(widths.total_count)
    return children
