"""Filters undone, where chunks of pointers into heaps went through the common ones."""

from __future__ import annotations

import zlib

import numpy as np

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import FileFormat, FormatError

_DEFLATE = 1
_SHUFFLE = 2
_FLETCHER32 = 3
_FIRST_WITH_NAME = 256

Pipeline = tuple[tuple[int, tuple[int, ...]], ...]
"""Identifier and client data of each filter, in the order of writing."""


def parse_pipeline(body: memoryview, file_format: FileFormat) -> Pipeline:
    """Parse a filter pipeline message (HDF5 File Format Specification, IV.A.2.l)."""
    fields = Fields(body, file_format)
    version, count = fields.uint(1), fields.uint(1)
    fields.skip(6 if version == 1 else 0)
    return tuple(_parse_filter(fields, version) for _ in range(count))


def _parse_filter(fields: Fields, version: int) -> tuple[int, tuple[int, ...]]:
    identifier = fields.uint(2)
    has_name = version == 1 or identifier >= _FIRST_WITH_NAME
    name_bytes = fields.uint(2) if has_name else 0
    fields.skip(2)
    count = fields.uint(2)
    fields.skip(-(-name_bytes // 8) * 8 if version == 1 else name_bytes)
    client_data = tuple(fields.uint(4) for _ in range(count))
    fields.skip(4 if version == 1 and count % 2 else 0)
    return identifier, client_data


def unfilter(content: memoryview, pipeline: Pipeline, filter_mask: int, most_bytes: int) -> memoryview:
    """Return the elements of a chunk, as far as its filters are known here.

    Parameters
    ----------
    content
        The stored chunk.
    pipeline
        The filters.
    filter_mask
        Bit i set: filter i was skipped.
    most_bytes
        Length of an unfiltered chunk (bytes).

    Raises
    ------
    FormatError
        A filter is not known, or does not fit.
    """
    for number, (identifier, client_data) in reversed(list(enumerate(pipeline))):
        if not filter_mask & 1 << number:
            content = _unfilter(content, identifier, client_data, most_bytes)
    return content


def _unfilter(
    content: memoryview, identifier: int, client_data: tuple[int, ...], most_bytes: int
) -> memoryview:
    if identifier == _DEFLATE:
        return _inflate(content, most_bytes)
    if identifier == _SHUFFLE and client_data and client_data[0]:
        return _unshuffle(content, client_data[0])
    if identifier == _FLETCHER32:
        return content[:-4]
    raise FormatError(f"filter {identifier}")


def _inflate(content: memoryview, most_bytes: int) -> memoryview:
    try:
        return memoryview(zlib.decompressobj().decompress(content, most_bytes))
    except zlib.error as error:
        raise FormatError(str(error)) from error


def _unshuffle(content: memoryview, element_bytes: int) -> memoryview:
    count = len(content) // element_bytes
    rows = np.frombuffer(content[: count * element_bytes], np.uint8).reshape(element_bytes, count)
    return memoryview(rows.T.tobytes())
