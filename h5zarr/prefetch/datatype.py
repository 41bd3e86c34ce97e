"""Datatypes, as far as telling where elements point into heaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import FileFormat, FormatError

_MOST_POINTERS = 10_000
_DEEPEST = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """A place in an element that points to an object of a global heap."""

    byte_offset: int
    """Where the address of the heap collection stands in the element (bytes)."""
    base: ElementType | None = None
    """Type of the elements in the heap object, where those point on; None where they do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ElementType:
    """What is to know of a datatype."""

    byte_length: int
    """Length of one element (bytes)."""
    pointers: tuple[Pointer, ...] = ()
    """Where an element points into heaps."""
    on_heap: bool = False
    """Whether values are read with the description: variable-length data and references."""
    has_text: bool = False
    """Whether there are fixed-length strings in it."""


def parse_datatype(body: memoryview, file_format: FileFormat) -> ElementType:
    """Parse a datatype message (HDF5 File Format Specification, IV.A.2.d).

    Raises
    ------
    FormatError
        Its class or version is not known, or it is absurdly large.
    """
    return _parse(Fields(body, file_format), 0)


def _parse(fields: Fields, depth: int) -> ElementType:
    if depth > _DEEPEST:
        raise FormatError("datatypes nested too deeply")
    head = fields.uint(1)
    bits = fields.uint(3)
    plain = ElementType(byte_length=fields.uint(4))
    datatype_class, version = head & 0x0F, head >> 4
    if datatype_class in _PROPERTY_BYTES:
        fields.skip(_PROPERTY_BYTES[datatype_class])
        return plain
    return _PARSERS[datatype_class](fields, version, bits, plain.byte_length, depth)


_PROPERTY_BYTES = {0: 4, 1: 12, 2: 2, 4: 4}
"""Lengths of the properties of integers, floats, times and bitfields (bytes)."""


def _parse_string(_fields: Fields, _version: int, _bits: int, byte_length: int, _depth: int) -> ElementType:
    return ElementType(byte_length=byte_length, has_text=True)


def _parse_opaque(fields: Fields, _version: int, bits: int, byte_length: int, _depth: int) -> ElementType:
    fields.skip(bits & 0xFF)
    return ElementType(byte_length=byte_length)


def _parse_compound(fields: Fields, version: int, bits: int, byte_length: int, depth: int) -> ElementType:
    members = [_parse_member(fields, version, byte_length, depth) for _ in range(bits & 0xFFFF)]
    return ElementType(
        byte_length=byte_length,
        pointers=_bounded(tuple(at for offset, member in members for at in _moved(member, offset))),
        on_heap=any(member.on_heap for _, member in members),
        has_text=any(member.has_text for _, member in members),
    )


def _parse_member(fields: Fields, version: int, byte_length: int, depth: int) -> tuple[int, ElementType]:
    """Return where a member of a compound begins (bytes), and its type."""
    _skip_name(fields, version)
    if version >= 3:
        width = max((byte_length.bit_length() + 7) // 8, 1)
        return fields.uint(width), _parse(fields, depth + 1)
    byte_offset = fields.uint(4)
    count = 1
    if version == 1:
        rank = fields.uint(1)
        fields.skip(11)
        extents = [fields.uint(4) for _ in range(4)]
        for extent in extents[:rank]:
            count *= extent
    return byte_offset, _repeated(_parse(fields, depth + 1), count)


def _skip_name(fields: Fields, version: int) -> None:
    """Skip a name, which before version 3 is padded to a multiple of 8 bytes."""
    start = fields.position
    fields.text()
    if version < 3:
        fields.skip(-(fields.position - start) % 8)


def _parse_reference(fields: Fields, _version: int, bits: int, byte_length: int, _depth: int) -> ElementType:
    """Parse a reference: of those to regions and attributes, a part stands on a heap."""
    kind = bits & 0x0F
    if kind == 0:
        return ElementType(byte_length=byte_length, on_heap=True)
    # Kinds from 2 on (version 4): two bytes of header and a length come first (Appendix D).
    at = 0 if kind == 1 else 6
    return ElementType(byte_length=byte_length, pointers=(Pointer(byte_offset=at),), on_heap=True)


def _parse_enumeration(fields: Fields, version: int, bits: int, byte_length: int, depth: int) -> ElementType:
    base = _parse(fields, depth + 1)
    for _ in range(bits & 0xFFFF):
        _skip_name(fields, version)
    fields.skip((bits & 0xFFFF) * base.byte_length)
    return ElementType(byte_length=byte_length)


def _parse_variable_length(
    fields: Fields, _version: int, _bits: int, byte_length: int, depth: int
) -> ElementType:
    """Parse a variable-length type: four bytes of length, then a heap's address and an index."""
    base = _parse(fields, depth + 1)
    pointer = Pointer(byte_offset=4, base=base if base.pointers else None)
    return ElementType(byte_length=byte_length, pointers=(pointer,), on_heap=True)


def _parse_array(fields: Fields, version: int, _bits: int, byte_length: int, depth: int) -> ElementType:
    rank = fields.uint(1)
    fields.skip(3 if version < 3 else 0)
    fields.skip(rank * 4)
    fields.skip(rank * 4 if version < 3 else 0)
    base = _parse(fields, depth + 1)
    repeated = _repeated(base, byte_length // max(base.byte_length, 1))
    return ElementType(
        byte_length=byte_length,
        pointers=repeated.pointers,
        on_heap=base.on_heap,
        has_text=base.has_text,
    )


def _parse_complex(fields: Fields, _version: int, _bits: int, byte_length: int, depth: int) -> ElementType:
    _parse(fields, depth + 1)
    return ElementType(byte_length=byte_length)


_Parser = Callable[[Fields, int, int, int, int], ElementType]
_PARSERS: dict[int, _Parser] = {
    3: _parse_string,
    5: _parse_opaque,
    6: _parse_compound,
    7: _parse_reference,
    8: _parse_enumeration,
    9: _parse_variable_length,
    10: _parse_array,
    11: _parse_complex,
}


def _moved(element: ElementType, byte_offset: int) -> tuple[Pointer, ...]:
    """Return the pointers of an element that stands inside of another."""
    return tuple(
        Pointer(byte_offset=pointer.byte_offset + byte_offset, base=pointer.base)
        for pointer in element.pointers
    )


def _repeated(element: ElementType, count: int) -> ElementType:
    """Return the type of so many elements in a row."""
    if len(element.pointers) * count > _MOST_POINTERS:
        raise FormatError("too many pointers in one element")
    copies = count if element.pointers else 0
    return ElementType(
        byte_length=element.byte_length * count,
        pointers=tuple(at for copy in range(copies) for at in _moved(element, copy * element.byte_length)),
        on_heap=element.on_heap,
        has_text=element.has_text,
    )


def _bounded(pointers: tuple[Pointer, ...]) -> tuple[Pointer, ...]:
    if len(pointers) > _MOST_POINTERS:
        raise FormatError("too many pointers in one element")
    return pointers
