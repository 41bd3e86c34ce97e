"""Object headers: the messages that describe a group, a dataset or a committed datatype."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import Crawl, FormatError, Reading

HEADER_BYTES = 512
"""What libhdf5 reads of a header before it knows its length (bytes)."""

DATASPACE = 0x01
LINK_INFO = 0x02
DATATYPE = 0x03
OLD_FILL_VALUE = 0x04
FILL_VALUE = 0x05
LINK = 0x06
EXTERNAL_FILES = 0x07
LAYOUT = 0x08
FILTERS = 0x0B
ATTRIBUTE = 0x0C
CONTINUATION = 0x10
SYMBOL_TABLE = 0x11
BTREE_K = 0x13
ATTRIBUTE_INFO = 0x15
FILE_SPACE_INFO = 0x17
CACHE_IMAGE = 0x18

_SHARED = 0x02
_VERSION_1_PREFIX = 16
_MESSAGE_1 = struct.Struct("<HHB3x")
_CHECKSUM = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of an object header."""

    kind: int
    """Its type."""
    body: memoryview
    """Its bytes."""
    is_shared: bool
    """Whether the body only tells where the message is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prefix:
    """What the prefix tells of the messages behind it."""

    version: int
    """1 or 2."""
    start: int
    """Where the messages begin in the header (bytes)."""
    end: int
    """Where they end (bytes)."""
    has_creation_order: bool
    """Whether every message tells when it was made; version 2 only."""


MessageHints = Callable[[Message], Iterator[Span]]
"""What a message leads to that can be fetched before the whole header is known."""


def read_object_header(
    crawl: Crawl, address: int, hints: MessageHints | None = None
) -> Reading[list[Message]]:
    """Read all messages of an object, those of continuation blocks included.

    HDF5 File Format Specification, IV.A.1 "Data Object Header Prefix" and IV.A.2.q "Object Header
    Continuation".

    Parameters
    ----------
    crawl
        The crawl.
    address
        Of the object header.
    hints
        Tells what to fetch together with continuation blocks.
    """
    (view,) = yield (crawl.span(address, HEADER_BYTES),)
    prefix = _parse_prefix(view, crawl)
    if prefix.end + _CHECKSUM > len(view):
        (view,) = yield (crawl.span(address, prefix.end + _CHECKSUM),)
    found = list(_messages(view[prefix.start : prefix.end], prefix))
    messages = list(found)
    seen: set[Span] = set()
    blocks = _continuations(found, crawl, seen)
    while blocks:
        ahead = [span for message in found for span in _hinted(hints, message)]
        views = yield (*blocks, *ahead)
        found = [message for view in views[: len(blocks)] for message in _block_messages(view, prefix)]
        messages += found
        blocks = _continuations(found, crawl, seen)
    return [message for message in messages if message.kind != CONTINUATION]


def _parse_prefix(view: memoryview, crawl: Crawl) -> _Prefix:
    fields = Fields(view, crawl.format)
    if bytes(view[:4]) == b"OHDR":
        return _parse_prefix_2(fields)
    version = fields.uint(1)
    if version != 1:
        raise FormatError(f"object header version {version}")
    fields.skip(7)
    end = _VERSION_1_PREFIX + fields.uint(4)
    return _Prefix(version=1, start=_VERSION_1_PREFIX, end=end, has_creation_order=False)


def _parse_prefix_2(fields: Fields) -> _Prefix:
    """Parse a prefix (IV.A.1.b "Version 2 Data Object Header Prefix")."""
    fields.skip(5)
    flags = fields.uint(1)
    fields.skip((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))
    byte_length = fields.uint(1 << (flags & 0x03))
    return _Prefix(
        version=2,
        start=fields.position,
        end=fields.position + byte_length,
        has_creation_order=bool(flags & 0x04),
    )


def _messages(block: memoryview, prefix: _Prefix) -> Iterator[Message]:
    position = 0
    head = 8 if prefix.version == 1 else 6 if prefix.has_creation_order else 4
    while position + head <= len(block):
        if prefix.version == 1:
            kind, byte_length, flags = _MESSAGE_1.unpack_from(block, position)
        else:
            kind, byte_length, flags = struct.unpack_from("<BHB", block, position)
        position += head
        body = block[position : position + byte_length]
        yield Message(kind=kind, body=body, is_shared=bool(flags & _SHARED))
        position += byte_length


def _block_messages(block: memoryview, prefix: _Prefix) -> Iterator[Message]:
    """Yield the messages of a continuation block, which has a signature and a checksum in version 2."""
    if prefix.version == 1:
        return _messages(block, prefix)
    if bytes(block[:4]) != b"OCHK":
        return iter(())
    return _messages(block[4:-_CHECKSUM], prefix)


def _continuations(messages: list[Message], crawl: Crawl, seen: set[Span]) -> list[Span]:
    """Return the continuation blocks that were not seen before."""
    fields = (Fields(message.body, crawl.format) for message in messages if message.kind == CONTINUATION)
    spans = dict.fromkeys(crawl.span(field.address(), field.length()) for field in fields)
    new = [span for span in spans if span not in seen]
    seen.update(new)
    return new


def _hinted(hints: MessageHints | None, message: Message) -> Iterator[Span]:
    return iter(()) if hints is None or message.is_shared else hints(message)
