"""Attributes: what their values point to."""

from __future__ import annotations

import struct

from h5zarr.prefetch.datatype import ElementType, parse_datatype
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.global_heap import follow_pointers
from h5zarr.prefetch.object_header import DATATYPE, Message, read_object_header
from h5zarr.prefetch.shared_messages import is_in_heap, read_shared, with_shared
from h5zarr.prefetch.tasks import Crawl, FormatError, Reading, Task, attempt

_HEAD = struct.Struct("<BBHHH")
_VERSIONS = {1: (7, 8), 2: (0, 8), 3: (0, 9)}
"""By version: what lengths of parts are padded to, less one, and where the parts begin (bytes)."""
_SHARED_DATATYPE = 0x01


def follow_attribute(crawl: Crawl, body: memoryview) -> None:
    """Fetch what the value of an attribute points to (HDF5 File Format Specification, IV.A.2.m)."""
    version, flags, name_bytes, datatype_bytes, space_bytes = _HEAD.unpack_from(body)
    if version not in _VERSIONS:
        raise FormatError(f"attribute version {version}")
    padding, start = _VERSIONS[version]
    start += name_bytes + (-name_bytes & padding)
    end = start + datatype_bytes + (-datatype_bytes & padding)
    content = body[end + space_bytes + (-space_bytes & padding) :]
    if version > 1 and flags & _SHARED_DATATYPE:
        crawl.start(_follow_shared(crawl, body[start:end], content))
        return
    element = known_datatype(crawl, body[start:end])
    if element.pointers:
        follow_pointers(crawl, element, content)


def follow_attributes(crawl: Crawl, bodies: list[memoryview]) -> None:
    """Fetch what the values of attributes point to; those that make no sense are left out."""
    for body in bodies:
        attempt(follow_attribute, crawl, body)


def known_datatype(crawl: Crawl, body: memoryview) -> ElementType:
    """Return what a datatype message tells, each distinct one parsed once."""
    encoded = bytes(body)
    found: ElementType | None = crawl.datatypes.get(encoded)
    if found is None:
        found = crawl.datatypes[encoded] = parse_datatype(body, crawl.format)
    return found


def read_datatype(crawl: Crawl, message: Message) -> Reading[ElementType]:
    """Return the type that a datatype message tells, or refers to."""
    if not message.is_shared:
        return known_datatype(crawl, message.body)
    return (yield from read_shared_datatype(crawl, message.body))


def read_shared_datatype(crawl: Crawl, body: memoryview) -> Reading[ElementType]:
    """Read a datatype that is committed, or shared by way of a heap (IV.A.2, "Shared Message")."""
    if is_in_heap(body):
        return known_datatype(crawl, (yield from read_shared(crawl, DATATYPE, body)))
    messages = yield from read_object_header(crawl, _committed_address(Fields(body, crawl.format), crawl))
    messages = yield from with_shared(crawl, messages)
    for message in messages:
        if message.kind == DATATYPE and not message.is_shared:
            return known_datatype(crawl, message.body)
    raise FormatError("no datatype")


def _committed_address(fields: Fields, crawl: Crawl) -> int:
    """Return the address of the object that holds a shared message."""
    version = fields.uint(1)
    fields.skip(7 + crawl.format.length_width if version == 1 else 1)
    return fields.address()


def _follow_shared(crawl: Crawl, datatype: memoryview, content: memoryview) -> Task:
    element = yield from read_shared_datatype(crawl, datatype)
    follow_pointers(crawl, element, content)
