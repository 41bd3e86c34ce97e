"""Groups and datasets: what their messages lead to."""

from __future__ import annotations

from collections.abc import Iterator

from h5zarr.prefetch.attributes import follow_attributes
from h5zarr.prefetch.btree_v1 import chunk_tree, group_tree
from h5zarr.prefetch.datasets import follow_dataset
from h5zarr.prefetch.dense import (
    ATTRIBUTE_ID,
    ATTRIBUTE_ORDER_BYTES,
    LINK_ID,
    LINK_ORDER_BYTES,
    dense_addresses,
    read_dense,
)
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.layout import CHUNKED, IndexKind, parse_layout
from h5zarr.prefetch.object_header import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    LAYOUT,
    LINK,
    LINK_INFO,
    SYMBOL_TABLE,
    Message,
    read_object_header,
)
from h5zarr.prefetch.old_group import LOCAL_HEAP_BYTES, Link, read_symbol_table
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.shared_messages import with_shared
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FormatError, Task

_INDEX_HEADER_BYTES = 256
_HARD_LINK = 0


def follow_object(crawl: Crawl, address: int, path: str) -> Task:
    """Fetch an object of the file and all that is read with it.

    Parameters
    ----------
    crawl
        The crawl.
    address
        Address of its object header.
    path
        Its absolute path, by the name that led here.
    """
    reads = crawl.interest.reads(path)
    if not crawl.claim("object", address, reads):
        return
    messages = yield from read_object_header(crawl, address, lambda message: _hints(crawl, message))
    messages = yield from with_shared(crawl, messages)
    is_dataset = any(message.kind == LAYOUT for message in messages)
    if not is_dataset:
        _follow_links(crawl, messages, path)
    if reads if is_dataset else crawl.interest.covers(path):
        _follow_attributes(crawl, messages)
    if is_dataset and reads:
        yield from follow_dataset(crawl, messages)


def _hints(crawl: Crawl, message: Message) -> Iterator[Span]:
    """Yield what a message leads to, to fetch it along with the rest of the object header."""
    try:
        if message.kind in (LINK_INFO, ATTRIBUTE_INFO):
            yield from _dense_hints(crawl, message)
        elif message.kind == LAYOUT:
            yield from _layout_hints(crawl, message)
        elif message.kind == SYMBOL_TABLE:
            fields = Fields(message.body, crawl.format)
            yield crawl.span(fields.address(), group_tree(crawl).node_bytes)
            yield crawl.span(fields.address(), LOCAL_HEAP_BYTES)
    except FORMAT_ERRORS:
        return


def _dense_hints(crawl: Crawl, message: Message) -> Iterator[Span]:
    order_bytes = LINK_ORDER_BYTES if message.kind == LINK_INFO else ATTRIBUTE_ORDER_BYTES
    heap_address, indexes = dense_addresses(crawl, message.body, order_bytes)
    for address in (heap_address, *indexes):
        yield crawl.span(address, _INDEX_HEADER_BYTES)


def _layout_hints(crawl: Crawl, message: Message) -> Iterator[Span]:
    layout = parse_layout(message.body, crawl.format)
    if layout is None or layout.kind != CHUNKED:
        return
    if layout.index is IndexKind.BTREE_V1:
        yield crawl.span(layout.address, chunk_tree(crawl, layout.rank).node_bytes)
    elif layout.index not in (IndexKind.SINGLE, IndexKind.IMPLICIT):
        yield crawl.span(layout.address, _INDEX_HEADER_BYTES)


# Attributes ------------------------------------------------------------------------------


def _follow_attributes(crawl: Crawl, messages: list[Message]) -> None:
    own = [message for message in messages if not message.is_shared]
    follow_attributes(crawl, [message.body for message in own if message.kind == ATTRIBUTE])
    for message in own:
        if message.kind == ATTRIBUTE_INFO:
            crawl.start(_follow_dense_attributes(crawl, message.body))


def _follow_dense_attributes(crawl: Crawl, body: memoryview) -> Task:
    heap_address, indexes = dense_addresses(crawl, body, ATTRIBUTE_ORDER_BYTES)
    bodies = yield from read_dense(crawl, heap_address, indexes, *ATTRIBUTE_ID)
    follow_attributes(crawl, bodies)


# Links -----------------------------------------------------------------------------------


def _follow_links(crawl: Crawl, messages: list[Message], path: str) -> None:
    for message in messages:
        if message.is_shared:
            continue
        if message.kind == LINK:
            _follow_link_messages(crawl, [message.body], path)
        elif message.kind == LINK_INFO:
            crawl.start(_follow_dense_links(crawl, message.body, path))
        elif message.kind == SYMBOL_TABLE:
            crawl.start(_follow_symbol_table(crawl, message.body, path))


def _follow_symbol_table(crawl: Crawl, body: memoryview, path: str) -> Task:
    fields = Fields(body, crawl.format)
    links = yield from read_symbol_table(crawl, fields.address(), fields.address())
    for link in links:
        _follow_link(crawl, link, path)


def _follow_dense_links(crawl: Crawl, body: memoryview, path: str) -> Task:
    heap_address, indexes = dense_addresses(crawl, body, LINK_ORDER_BYTES)
    bodies = yield from read_dense(crawl, heap_address, indexes, *LINK_ID)
    _follow_link_messages(crawl, bodies, path)


def _follow_link_messages(crawl: Crawl, bodies: list[memoryview], path: str) -> None:
    for body in bodies:
        try:
            link = _parse_link(Fields(body, crawl.format))
        except FORMAT_ERRORS:
            continue
        if link is not None:
            _follow_link(crawl, link, path)


def _parse_link(fields: Fields) -> Link | None:
    """Parse a link message (HDF5 File Format Specification, IV.A.2.g); None where it is no hard link."""
    if fields.uint(1) != 1:
        raise FormatError("unknown link version")
    flags = fields.uint(1)
    kind = fields.uint(1) if flags & 0x08 else _HARD_LINK
    fields.skip((8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0))
    name = fields.take(fields.uint(1 << (flags & 0x03)))
    if kind != _HARD_LINK:
        return None
    return Link(name=bytes(name).decode("utf-8", "surrogateescape"), address=fields.address())


def _follow_link(crawl: Crawl, link: Link, parent: str) -> None:
    path = f"{parent.rstrip('/')}/{link.name}"
    if crawl.interest.enters(path):
        crawl.start(follow_object(crawl, link.address, path))
