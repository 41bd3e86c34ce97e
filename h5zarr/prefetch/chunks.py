"""Chunks as an index lists them, and how many of them are worth reading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.tasks import Crawl

_MASK_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A stored chunk, or all of a dataset's contiguous data."""

    address: int
    """Its address."""
    byte_length: int
    """Its stored length (bytes)."""
    filter_mask: int = 0
    """Bit i set: filter i was skipped."""


class DataBudget:
    """How much of one dataset's data is worth reading: all up to a limit, nothing beyond.

    Parameters
    ----------
    most_bytes
        The limit (bytes).
    """

    def __init__(self, most_bytes: int) -> None:
        self._remaining = most_bytes

    def would_take(self, byte_length: int) -> bool:
        """Return whether so many bytes are within the limit."""
        return byte_length <= self._remaining

    def take(self, byte_length: int) -> bool:
        """Return whether so many bytes are worth reading; the first that are too many end it."""
        fits = self.would_take(byte_length)
        self._remaining = self._remaining - byte_length if fits else -1
        return fits


@dataclass(frozen=True, kw_only=True, slots=True)
class ElementForm:
    """How the elements of a fixed or extensible array tell of chunks."""

    byte_length: int
    """Length of an element (bytes)."""
    has_filters: bool
    """Whether the chunk's length and filter mask stand behind its address."""
    chunk_bytes: int
    """Length of a chunk without filters (bytes)."""


def array_chunks(crawl: Crawl, content: memoryview, form: ElementForm) -> Iterator[Chunk]:
    """Yield the stored chunks of elements in a row (appendix C, "Fixed Array", "Extensible Array")."""
    for at in range(0, len(content) - form.byte_length + 1, form.byte_length):
        fields = Fields(content[at : at + form.byte_length], crawl.format)
        address = fields.address()
        if crawl.format.is_defined(address):
            yield _chunk(fields, address, form)


def _chunk(fields: Fields, address: int, form: ElementForm) -> Chunk:
    if not form.has_filters:
        return Chunk(address=address, byte_length=form.chunk_bytes)
    byte_length = fields.uint(fields.remaining - _MASK_BYTES)
    return Chunk(address=address, byte_length=byte_length, filter_mask=fields.uint(_MASK_BYTES))
