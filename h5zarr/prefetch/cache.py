"""Blocks of a remote file in memory, and a file object that reads from them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from h5zarr.model import FetchStatistics
from h5zarr.prefetch.fetch import Fetcher
from h5zarr.prefetch.ranges import BLOCK_BYTES, Span, block_numbers, is_worth_all, plan_requests

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MOST_BYTES = 512 * 2**20
_MISSES_BEFORE_READ_AHEAD = 20
_READ_AHEAD_BYTES = 2**20
_SMALL_FILE_BYTES = 2**20
"""Files of up to this length are fetched whole as soon as anything of them is missing (bytes)."""


class RangeCache:
    """Aligned blocks of a file by their number; the oldest go when there are too many.

    Parameters
    ----------
    most_bytes
        What the blocks may take together (bytes).
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._blocks: dict[int, bytes] = {}
        self._most_blocks = max(most_bytes // BLOCK_BYTES, 1)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, number: object) -> bool:
        return number in self._blocks

    def put(self, byte_offset: int, content: bytes) -> None:
        """Keep bytes that begin on a block's edge, and end on one or at the end of the file."""
        first = byte_offset // BLOCK_BYTES
        for number, at in enumerate(range(0, len(content), BLOCK_BYTES), first):
            self._blocks[number] = content[at : at + BLOCK_BYTES]
        while len(self._blocks) > self._most_blocks:
            del self._blocks[next(iter(self._blocks))]

    def get(self, span: Span) -> memoryview | None:
        """Return the bytes of a span, or None where some are not here."""
        first = span.byte_offset // BLOCK_BYTES
        start = span.byte_offset - first * BLOCK_BYTES
        stop = start + span.byte_length
        if stop <= BLOCK_BYTES:
            block = self._blocks.get(first)
            return None if block is None else memoryview(block)[start:stop]
        try:
            joined = b"".join([self._blocks[number] for number in block_numbers(span)])
        except KeyError:
            return None
        return memoryview(joined)[start:stop]


class PrefetchedFile(io.RawIOBase):
    """A remote file to read, of which the parts that were foreseen are in memory.

    Parameters
    ----------
    fetcher
        Brings ranges of the file.
    byte_length
        Length of the file (bytes).
    """

    def __init__(self, fetcher: Fetcher, byte_length: int) -> None:
        super().__init__()
        self.name = fetcher.name
        self.byte_length = byte_length
        self.page_bytes = BLOCK_BYTES
        self._fetcher = fetcher
        self._block_count = -(-byte_length // BLOCK_BYTES)
        self._cache = RangeCache()
        self._position = 0
        self._misses = 0

    @property
    def statistics(self) -> FetchStatistics:
        """What reading the file has cost so far."""
        return self._fetcher.statistics(self._misses)

    @property
    def is_whole(self) -> bool:
        """Whether all of the file is in memory."""
        return len(self._cache) == self._block_count

    @property
    def entity_tag(self) -> str | None:
        """The entity tag that every answer had; None where one had none, or a weak one."""
        return self._fetcher.entity_tag

    def prefetch(self, spans: Iterable[Span]) -> None:
        """Fetch what of the spans is not in memory, all together.

        Raises
        ------
        SourceError
            It cannot be read.
        """
        self._bring(spans)

    def take_beginning(self, entity_tag: str | None) -> None:
        """Take what `Fetcher.begin` fetched, if it is of the file with this entity tag."""
        content = self._fetcher.beginning(self.byte_length, entity_tag)
        is_whole = len(content) == self.byte_length
        self._cache.put(0, content if is_whole else content[: len(content) & -BLOCK_BYTES])

    def view(self, span: Span) -> memoryview | None:
        """Return the bytes of a span, or None where some are not in memory."""
        return self._cache.get(span)

    def _bring(self, spans: Iterable[Span]) -> None:
        pages = {number for span in spans for number in block_numbers(span, self.page_bytes)}
        blocks = self.page_bytes // BLOCK_BYTES
        missing = self._missing(
            number for page in sorted(pages) for number in range(page * blocks, (page + 1) * blocks)
        )
        if missing:
            self._fetch(self._all_missing() if self._is_worth_all(len(missing)) else missing)

    def _is_worth_all(self, needed_blocks: int) -> bool:
        rest = self._block_count - len(self._cache)
        return self.byte_length <= _SMALL_FILE_BYTES or is_worth_all(
            needed_blocks * BLOCK_BYTES, rest * BLOCK_BYTES, self._fetcher.speed
        )

    def _all_missing(self) -> list[int]:
        return self._missing(range(self._block_count))

    def _missing(self, numbers: Iterable[int]) -> list[int]:
        """Return those of the blocks that the file has and the cache has not."""
        return [number for number in numbers if number < self._block_count and number not in self._cache]

    def _fetch(self, numbers: list[int]) -> None:
        speed, file_end = self._fetcher.speed, self.byte_length
        spans = plan_requests(numbers, speed, file_end=file_end, present=self._cache)
        for span, content in zip(spans, self._fetcher.fetch(spans), strict=True):
            self._cache.put(span.byte_offset, content)

    def _read(self, span: Span) -> memoryview:
        content = self._cache.get(span)
        if content is not None:
            return content
        self._misses += 1
        reach = _READ_AHEAD_BYTES if self._misses > _MISSES_BEFORE_READ_AHEAD else 0
        self._bring([Span(byte_offset=span.byte_offset, byte_length=max(span.byte_length, reach))])
        content = self._cache.get(span)
        # Only a read larger than the whole cache is not in it now.
        return content if content is not None else memoryview(self._fetcher.fetch([span])[0])

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read (bytes)."""
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the position of the next read (bytes) and return it."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.byte_length}[whence]
        if origin + position < 0:
            raise ValueError(f"negative seek position {origin + position}")
        self._position = origin + position
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer as far as the file reaches; return the number of bytes.

        Raises
        ------
        SourceError
            They cannot be read.
        """
        target = memoryview(buffer).cast("B")
        byte_length = min(len(target), max(self.byte_length - self._position, 0))
        if byte_length:
            target[:byte_length] = self._read(Span(byte_offset=self._position, byte_length=byte_length))
            self._position += byte_length
        return byte_length
