"""Which ranges of a file to ask for: aligned blocks, near ones merged as the link makes it worth while."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BLOCK_BYTES = 4096
"""Ranges begin and end on multiples of this, which absorbs libhdf5's speculative reads (bytes)."""

_GAPS = tuple(kilobytes * 1024 for kilobytes in (0, 8, 16, 32, 48, 64))
_LARGEST_REQUEST_BYTES = 2 * 2**20
_MOST_BYTES_PER_BYTE_NEEDED = 4.5
_ALWAYS_AFFORDABLE_BYTES = 2**20
_SECONDS_OF_WORK_PER_REQUEST = 0.00025


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A range of bytes of the file."""

    byte_offset: int
    """Where it begins (bytes)."""
    byte_length: int
    """How long it is (bytes)."""

    @property
    def end(self) -> int:
        """Where it ends (bytes)."""
        return self.byte_offset + self.byte_length


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSpeed:
    """What has been seen of the way to the file."""

    latency: float
    """Time of the fastest small request (seconds)."""
    bandwidth: float
    """What all connections together bring (bytes per second)."""
    connections: int
    """Requests that may be under way at a time."""

    def seconds(self, spans: Sequence[Span]) -> float:
        """Return how long it would take to fetch the spans."""
        waiting = math.ceil(len(spans) / self.connections) * self.latency
        return waiting + len(spans) * _SECONDS_OF_WORK_PER_REQUEST + total_bytes(spans) / self.bandwidth


def total_bytes(spans: Iterable[Span]) -> int:
    """Return the length of all spans together (bytes)."""
    return sum(span.byte_length for span in spans)


def block_numbers(span: Span, alignment: int = BLOCK_BYTES) -> range:
    """Return the numbers of the blocks that a span touches, after widening it to an alignment (bytes)."""
    first = span.byte_offset // alignment * alignment
    end = -(-span.end // alignment) * alignment
    return range(first // BLOCK_BYTES, end // BLOCK_BYTES)


def merge(numbers: Sequence[int], *, gap: int, file_end: int) -> list[Span]:
    """Return the spans of sorted block numbers, merged over holes of at most ``gap`` bytes.

    Parameters
    ----------
    numbers
        (n,) block numbers, each once, ascending.
    gap
        Largest hole that is fetched along (bytes).
    file_end
        Where the file ends (bytes); no span goes beyond.
    """
    spans: list[Span] = []
    reach = gap // BLOCK_BYTES + 1
    breaks = [at for at, (left, right) in enumerate(itertools.pairwise(numbers), 1) if right - left > reach]
    for first, last in zip([0, *breaks], [*breaks, len(numbers)], strict=True):
        if first < last:
            spans.extend(
                _split(numbers[first] * BLOCK_BYTES, (numbers[last - 1] + 1) * BLOCK_BYTES, file_end)
            )
    return spans


def _split(start: int, end: int, file_end: int) -> list[Span]:
    """Return a long range in pieces, for several connections to share."""
    end = min(end, file_end)
    return [
        Span(byte_offset=at, byte_length=min(_LARGEST_REQUEST_BYTES, end - at))
        for at in range(start, end, _LARGEST_REQUEST_BYTES)
    ]


def plan_requests(numbers: Sequence[int], speed: LinkSpeed, *, file_end: int) -> list[Span]:
    """Return the spans that bring the blocks soonest, with a limit on what is fetched in vain.

    Parameters
    ----------
    numbers
        (n,) block numbers, each once, ascending.
    speed
        What is known of the link.
    file_end
        Where the file ends (bytes).
    """
    candidates = [merge(numbers, gap=gap, file_end=file_end) for gap in _GAPS]
    needed = total_bytes(candidates[0])
    most = max(needed * _MOST_BYTES_PER_BYTE_NEEDED, needed + _ALWAYS_AFFORDABLE_BYTES)
    affordable = [spans for spans in candidates if total_bytes(spans) <= most]
    return min(affordable, key=speed.seconds)
