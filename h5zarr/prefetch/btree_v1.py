"""Version 1 B-trees: the index of old groups, and of the chunks of most files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FormatError, Reading, read_spans

_GROUP_NODE = 0
_CHUNK_NODE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node."""

    level: int
    """Nodes below it on each path; 0: its children are no nodes."""
    children: tuple[tuple[memoryview, int], ...]
    """Key before it and address of each child."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeShape:
    """What all nodes of a tree have in common."""

    kind: int
    """0: a group's, 1: chunks'."""
    key_bytes: int
    """Length of a key (bytes)."""
    node_bytes: int
    """Allocated length of a node (bytes)."""


def group_tree(crawl: Crawl) -> TreeShape:
    """Return the shape of groups' trees, whose keys are offsets into a heap."""
    known = crawl.format
    return _shape(crawl, _GROUP_NODE, known.length_width, known.group_internal_k)


def chunk_tree(crawl: Crawl, rank: int) -> TreeShape:
    """Return the shape of the tree of chunks in so many dimensions: length, filter mask, offsets."""
    return _shape(crawl, _CHUNK_NODE, 8 + 8 * (rank + 1), crawl.format.chunk_k)


def _shape(crawl: Crawl, kind: int, key_bytes: int, k: int) -> TreeShape:
    width = crawl.format.offset_width
    node_bytes = 8 + 2 * width + 2 * k * (key_bytes + width) + key_bytes
    return TreeShape(kind=kind, key_bytes=key_bytes, node_bytes=node_bytes)


def parse_node(crawl: Crawl, shape: TreeShape, view: memoryview) -> Node:
    """Parse a node (HDF5 File Format Specification, III.A.1 "Version 1 B-trees")."""
    fields = Fields(view, crawl.format)
    fields.expect(b"TREE")
    kind, level, count = fields.uint(1), fields.uint(1), fields.uint(2)
    if kind != shape.kind:
        raise FormatError(f"B-tree node of type {kind}")
    fields.skip(2 * crawl.format.offset_width)
    children = tuple((fields.take(shape.key_bytes), fields.address()) for _ in range(count))
    return Node(level=level, children=children)


def read_bottom(
    crawl: Crawl, shape: TreeShape, root_address: int, *, with_leaves: bool
) -> Reading[list[Node]]:
    """Read a tree level by level and return its lowest nodes.

    Parameters
    ----------
    crawl
        The crawl.
    shape
        What the nodes have in common.
    root_address
        Address of the root.
    with_leaves
        Whether leaves are waited for; otherwise they are only fetched, and the level above is returned.
    """
    spans = [crawl.span(root_address, shape.node_bytes)]
    nodes: list[Node] = []
    while spans:
        views = yield from read_spans(spans)
        nodes = list(_parsed(crawl, shape, views))
        spans = _child_nodes(crawl, shape, nodes)
        if spans and not with_leaves and nodes[0].level == 1:
            crawl.hints.extend(spans)
            break
    return nodes


def _parsed(crawl: Crawl, shape: TreeShape, views: list[memoryview]) -> Iterator[Node]:
    for view in views:
        try:
            yield parse_node(crawl, shape, view)
        except FORMAT_ERRORS:
            continue


def _child_nodes(crawl: Crawl, shape: TreeShape, nodes: list[Node]) -> list[Span]:
    return [
        crawl.span(address, shape.node_bytes)
        for node in nodes
        if node.level > 0
        for _, address in node.children
        if crawl.format.is_defined(address)
    ]
