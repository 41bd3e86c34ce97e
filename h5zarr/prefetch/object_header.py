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
SHARED_MESSAGES = 0x0F
CONTINUATION = 0x10
SYMBOL_TABLE = 0x11
BTREE_K = 0x13
ATTRIBUTE_INFO = 0x15
FILE_SPACE_INFO = 0x17
CACHE_IMAGE = 0x18

_UNUSED = frozenset((0x00, 0x0A, 0x0D, 0x0E, 0x12, 0x16))
"""Nothing, group info, comment, times of modification, reference count."""

_SHARED = 0x02
_PREFIX_1 = struct.Struct("<B7xI4x")
_MESSAGE_1 = struct.Struct("<HHB3x")
_MESSAGE_2 = struct.Struct("<BHB")
_CHECKSUM = 4


# Not frozen: that takes three times as long to make, and an object has ten.
@dataclass(slots=True)
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
    messages = list(_messages(view[prefix.start : prefix.end], prefix))
    messages += yield from _read_continuations(crawl, prefix, messages, hints)
    return [message for message in messages if message.kind != CONTINUATION]


def _read_continuations(
    crawl: Crawl, prefix: _Prefix, found: list[Message], hints: MessageHints | None
) -> Reading[list[Message]]:
    """Return the messages of all continuation blocks that messages lead to."""
    messages: list[Message] = []
    seen: set[Span] = set()
    blocks = _continuations(found, crawl, seen)
    while blocks:
        ahead = [span for message in found for span in _hinted(hints, message)]
        views = yield (*blocks, *ahead)
        found = [message for view in views[: len(blocks)] for message in _block_messages(view, prefix)]
        messages += found
        blocks = _continuations(found, crawl, seen)
    return messages


def _parse_prefix(view: memoryview, crawl: Crawl) -> _Prefix:
    if bytes(view[:4]) == b"OHDR":
        return _parse_prefix_2(Fields(view, crawl.format))
    version, byte_length = _PREFIX_1.unpack_from(view)
    if version != 1:
        raise FormatError(f"object header version {version}")
    return _Prefix(
        version=1, start=_PREFIX_1.size, end=_PREFIX_1.size + byte_length, has_creation_order=False
    )


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
    """Yield the messages in a row that something is known of."""
    head = _MESSAGE_1 if prefix.version == 1 else _MESSAGE_2
    head_bytes = head.size + (2 if prefix.has_creation_order else 0)
    position = 0
    last = len(block) - head_bytes
    while position <= last:
        kind, byte_length, flags = head.unpack_from(block, position)
        position += head_bytes
        if kind not in _UNUSED:
            yield Message(kind, block[position : position + byte_length], bool(flags & _SHARED))
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
    new = []
    for message in messages:
        if message.kind == CONTINUATION:
            fields = Fields(message.body, crawl.format)
            span = crawl.span(fields.address(), fields.length())
            if span not in seen:
                seen.add(span)
                new.append(span)
    return new


def _hinted(hints: MessageHints | None, message: Message) -> Iterator[Span]:
    return iter(()) if hints is None or message.is_shared else hints(message)
