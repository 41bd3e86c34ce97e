"""The superblock: where everything begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.tasks import FileFormat, FormatError, Reading, read_span

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK_BYTES = 512
_WRITE_FLAGS = 0x01 | 0x04
_VERSION_WITH_WRITE_FLAGS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Superblock:
    """What the superblock tells."""

    format: FileFormat
    """Widths, base address and sizes of nodes."""
    root_address: int
    """Address of the root group's object header."""
    extension_address: int | None = None
    """Address of the object header of the superblock's extension; None before version 2."""
    open_for_writing: bool = False
    """Whether a writer has the file open, or did not close it; told from version 3 on."""


def read_superblock(byte_length: int) -> Reading[Superblock]:
    """Find and parse the superblock.

    HDF5 File Format Specification, II.A "Format Signature and Superblock": it begins at 0, 512 or a
    multiple of two of the last place; what is before it is the user block.

    Parameters
    ----------
    byte_length
        Length of the file (bytes).

    Raises
    ------
    FormatError
        There is none, or not of a known version.
    """
    at = 0
    while at < byte_length:
        span = Span(byte_offset=at, byte_length=min(SUPERBLOCK_BYTES, byte_length - at))
        view = yield from read_span(span)
        if bytes(view[: len(SIGNATURE)]) == SIGNATURE:
            return parse_superblock(view, FileFormat(byte_length=byte_length, base_address=at))
        at = at * 2 or 512
    raise FormatError("no HDF5 signature")


def parse_superblock(view: memoryview, known: FileFormat) -> Superblock:
    """Parse a superblock of any version (II.A).

    Parameters
    ----------
    view
        Its bytes.
    known
        The file's length, and where the superblock begins as base address.
    """
    fields = Fields(view, known)
    fields.expect(SIGNATURE)
    version = fields.uint(1)
    if version in (0, 1):
        return _parse_old(fields, known, version)
    if version in (2, 3):
        return _parse_new(fields, known, version)
    raise FormatError(f"superblock version {version}")


def _parse_old(fields: Fields, known: FileFormat, version: int) -> Superblock:
    fields.skip(4)
    widths = replace(known, offset_width=fields.uint(1), length_width=fields.uint(1))
    fields.skip(1)
    nodes = replace(widths, group_leaf_k=fields.uint(2), group_internal_k=fields.uint(2))
    fields.skip(4)
    if version == 1:
        nodes = replace(nodes, chunk_k=fields.uint(2))
        fields.skip(2)
    # Base address, free space, end of file and driver information; then the root's symbol table entry,
    # which begins with an offset into a heap. The base address may be stale: libhdf5 goes by the signature.
    rest = Fields(fields.view, nodes, fields.position)
    rest.skip(5 * nodes.offset_width)
    return Superblock(format=nodes, root_address=rest.address())


def _parse_new(fields: Fields, known: FileFormat, version: int) -> Superblock:
    widths = replace(known, offset_width=fields.uint(1), length_width=fields.uint(1))
    flags = fields.uint(1)
    rest = Fields(fields.view, widths, fields.position)
    rest.skip(widths.offset_width)
    extension_address = rest.address()
    rest.skip(widths.offset_width)
    return Superblock(
        format=widths,
        root_address=rest.address(),
        extension_address=extension_address if widths.is_defined(extension_address) else None,
        open_for_writing=version >= _VERSION_WITH_WRITE_FLAGS and bool(flags & _WRITE_FLAGS),
    )
