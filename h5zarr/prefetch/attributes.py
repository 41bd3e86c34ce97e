"""Attributes: what their values point to."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from h5zarr.prefetch.datatype import ElementType, parse_datatype
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.global_heap import follow_pointers
from h5zarr.prefetch.object_header import DATATYPE, Message, read_object_header
from h5zarr.prefetch.tasks import Crawl, FormatError, Reading, Task, attempt

_HEAD = struct.Struct("<BBHHH")
_SHARED_DATATYPE = 0x01


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attribute:
    datatype: memoryview
    shares_datatype: bool
    content: memoryview


def follow_attribute(crawl: Crawl, body: memoryview) -> None:
    """Fetch what the value of an attribute points to (HDF5 File Format Specification, IV.A.2.m)."""
    attribute = _parse(body)
    if attribute.shares_datatype:
        crawl.start(_follow_shared(crawl, attribute))
    else:
        element = known_datatype(crawl, attribute.datatype)
        if element.pointers:
            follow_pointers(crawl, element, attribute.content)


def follow_attributes(crawl: Crawl, bodies: list[memoryview]) -> None:
    """Fetch what the values of attributes point to; those that make no sense are left out."""
    for body in bodies:
        attempt(follow_attribute, crawl, body)


def _parse(body: memoryview) -> _Attribute:
    version, flags, *lengths = _HEAD.unpack_from(body)
    if version not in (1, 2, 3):
        raise FormatError(f"attribute version {version}")
    padding = 8 if version == 1 else 1
    name_bytes, datatype_bytes, space_bytes = (-(-length // padding) * padding for length in lengths)
    start = _HEAD.size + (1 if version == 3 else 0) + name_bytes
    end = start + datatype_bytes
    return _Attribute(
        datatype=body[start:end],
        shares_datatype=version > 1 and bool(flags & _SHARED_DATATYPE),
        content=body[end + space_bytes :],
    )


def known_datatype(crawl: Crawl, body: memoryview) -> ElementType:
    """Return what a datatype message tells, each distinct one parsed once."""
    encoded = bytes(body)
    if encoded not in crawl.datatypes:
        crawl.datatypes[encoded] = parse_datatype(body, crawl.format)
    found: ElementType = crawl.datatypes[encoded]
    return found


def read_datatype(crawl: Crawl, message: Message) -> Reading[ElementType]:
    """Return the type that a datatype message tells, or refers to."""
    if not message.is_shared:
        return known_datatype(crawl, message.body)
    return (yield from read_committed(crawl, message.body))


def read_committed(crawl: Crawl, body: memoryview) -> Reading[ElementType]:
    """Read a committed datatype (IV.A.2, "Shared Message")."""
    messages = yield from read_object_header(crawl, _shared_address(Fields(body, crawl.format), crawl))
    for message in messages:
        if message.kind == DATATYPE and not message.is_shared:
            return known_datatype(crawl, message.body)
    raise FormatError("no datatype")


def _shared_address(fields: Fields, crawl: Crawl) -> int:
    """Return the address of the object that holds a shared message.

    Raises
    ------
    FormatError
        It is in the heap of shared messages, which is not followed.
    """
    version, kind = fields.uint(1), fields.uint(1)
    if version == 1:
        fields.skip(6 + crawl.format.length_width)
    elif version == 3 and kind != _COMMITTED:
        raise FormatError("a message in the heap of shared messages")
    return fields.address()


_COMMITTED = 2


def _follow_shared(crawl: Crawl, attribute: _Attribute) -> Task:
    element = yield from read_committed(crawl, attribute.datatype)
    follow_pointers(crawl, element, attribute.content)
