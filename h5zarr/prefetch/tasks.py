"""What the structures' readers share: how they ask for bytes, and how they start one another.

A reader is a generator that yields the spans that it needs and gets their bytes in return. The crawler
runs all readers as far as they come, then fetches what they wait for in one go: reading is written
depth first and done breadth first. Everything that a reader makes of the bytes is a guess about what
libhdf5 will ask for; a reader that cannot make sense of them raises one of `FORMAT_ERRORS`
and is dropped, which costs a miss later and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from h5zarr.prefetch.ranges import Span

T = TypeVar("T")
Views = tuple[memoryview, ...]
Reading = Generator[tuple[Span, ...], Views, T]
"""A reader that returns a T."""
Task = Reading[None]
"""A reader that is started for what it fetches."""

FORMAT_ERRORS = (struct.error, IndexError, ValueError, KeyError, OverflowError)
"""What bytes that are not as the format demands make a reader raise."""

_MOST_STRUCTURES = 2_000_000


class FormatError(ValueError):
    """Bytes are not what the format, or this reader's knowledge of it, demands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """What the superblock and its extension tell about all other structures."""

    byte_length: int
    """Length of the file (bytes)."""
    base_address: int = 0
    """What is added to every address of the file (bytes): the length of the user block."""
    offset_width: int = 8
    """Length of an address (bytes)."""
    length_width: int = 8
    """Length of a length (bytes)."""
    group_leaf_k: int = 4
    """Half the number of entries in a symbol table node."""
    group_internal_k: int = 16
    """Half the number of children of a node of a group's version 1 B-tree."""
    chunk_k: int = 32
    """Half the number of children of a node of a chunk index's version 1 B-tree."""

    def is_defined(self, address: int) -> bool:
        """Return whether an address leads into the file."""
        return 0 <= address < self.byte_length - self.base_address


@dataclass(frozen=True, kw_only=True, slots=True)
class Interest:
    """What of the file will be read."""

    root: str = "/"
    """Absolute path of the group below which everything is visited."""
    wants: Callable[[str], bool] | None = None
    """Tells by its absolute path whether a dataset's chunk index and attributes are read; None: always."""
    small_data: int = 500
    """Data that take at most this much in all are read with the description (bytes)."""
    heap_data: int = 64 * 2**20
    """Data that point into heaps are read up to this much (bytes)."""
    text_data: int = 4 * 2**20
    """Fixed-length strings are read up to this much (bytes)."""

    def enters(self, path: str) -> bool:
        """Return whether an object is visited: it lies below the root, or on the way there."""
        return self.covers(path) or (self.root + "/").startswith(path.rstrip("/") + "/")

    def covers(self, path: str) -> bool:
        """Return whether an object is the root or lies below it."""
        root = self.root.rstrip("/")
        return path == root or path.startswith(root + "/")

    def reads(self, path: str) -> bool:
        """Return whether the contents of a dataset are read."""
        return self.covers(path) and (self.wants is None or self.wants(path))


class Crawl:
    """What the readers of one file share.

    Parameters
    ----------
    file_format
        What the superblock tells.
    interest
        What will be read.
    start
        Takes up a new task.
    """

    def __init__(self, file_format: FileFormat, interest: Interest, start: Callable[[Task], None]) -> None:
        self.format = file_format
        self.interest = interest
        self.hints: list[Span] = []
        """What to fetch along with the next round, though no reader waits for it."""
        self.datatypes: dict[bytes, Any] = {}
        """Datatypes by their message: few distinct ones describe most objects."""
        self.shapes: dict[bytes, tuple[int, ...]] = {}
        """Extents of dataspaces by their message (elements), for the same reason."""
        self.shared_heaps: dict[int, int] = {}
        """Addresses of the heaps of shared messages, by the type of message."""
        self.heaps: dict[int, Any] = {}
        """Those heaps by their address, once they have been read."""
        self._start = start
        self._claimed: set[Hashable] = set()
        self._structures = 0

    def span(self, address: int, byte_length: int) -> Span:
        """Return the span of a structure, cut at the end of the file.

        Raises
        ------
        FormatError
            It does not begin inside of the file, or there have been too many.
        """
        self._structures += 1
        if not self.format.is_defined(address) or byte_length <= 0 or self._structures > _MOST_STRUCTURES:
            raise FormatError(f"no structure at {address}")
        byte_offset = address + self.format.base_address
        return Span(
            byte_offset=byte_offset, byte_length=min(byte_length, self.format.byte_length - byte_offset)
        )

    def hint(self, address: int, byte_length: int) -> None:
        """Have a structure fetched that nothing needs to be learned from."""
        if self.format.is_defined(address):
            self.hints.append(self.span(address, byte_length))

    def claim(self, *key: Hashable) -> bool:
        """Return whether this is the first time that something is asked for."""
        if key in self._claimed:
            return False
        self._claimed.add(key)
        return True

    def start(self, task: Task) -> None:
        """Run a task along with the others."""
        self._start(task)


def attempt(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function, and leave out what it cannot make sense of."""
    try:
        function(*arguments)
    except FORMAT_ERRORS:
        return


def read_span(span: Span) -> Reading[memoryview]:
    """Read one span."""
    (view,) = yield (span,)
    return view


def read_spans(spans: list[Span]) -> Reading[list[memoryview]]:
    """Read spans, each once, all together."""
    distinct = tuple(dict.fromkeys(spans))
    views = yield distinct
    return list(views)


def together(*readings: Reading[Any]) -> Reading[list[Any]]:
    """Run readings side by side and return their results; None of one that fails."""
    results: list[Any] = [None] * len(readings)
    waiting = {number: _advance(readings, number, None, results) for number in range(len(readings))}
    while any(waiting.values()):
        views = yield tuple(span for spans in waiting.values() for span in spans)
        remaining = iter(views)
        for number, spans in waiting.items():
            if spans:
                mine = tuple(next(remaining) for _ in spans)
                waiting[number] = _advance(readings, number, mine, results)
    return results


def _advance(
    readings: tuple[Reading[Any], ...], number: int, views: Views | None, results: list[Any]
) -> tuple[Span, ...]:
    """Run one reading to its next question; () when it has ended."""
    try:
        return next(readings[number]) if views is None else readings[number].send(views)
    except StopIteration as ended:
        results[number] = ended.value
    except FORMAT_ERRORS:
        pass
    return ()
