"""Which ranges of a file to ask for: aligned blocks, near ones merged as the link makes it worth while."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

BLOCK_BYTES = 4096
"""Ranges begin and end on multiples of this, which absorbs libhdf5's speculative reads (bytes)."""

_GAPS = tuple(kilobytes * 1024 for kilobytes in (0, 8, 16, 32, 48, 64))
_LARGEST_REQUEST_BYTES = 2**19
_MOST_BYTES_PER_BYTE_NEEDED = 4.5
_ALWAYS_AFFORDABLE_BYTES = 2**20
_MOST_BYTES_OF_ALL = 64 * 2**20
_ROUND_TRIPS_FOR_ALL = 2
_SECONDS_OF_WORK_PER_REQUEST = 0.0004


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


def block_numbers(span: Span, block_bytes: int = BLOCK_BYTES) -> range:
    """Return the numbers of the blocks of a length (bytes) that a span touches."""
    return range(span.byte_offset // block_bytes, -(-span.end // block_bytes))


def merge(numbers: Sequence[int], *, gap: int, file_end: int, present: Container[int] = ()) -> list[Span]:
    """Return the spans of sorted block numbers, merged over holes of at most ``gap`` bytes.

    Parameters
    ----------
    numbers
        (n,) block numbers, each once, ascending.
    gap
        Largest hole that is fetched along (bytes).
    file_end
        Where the file ends (bytes); no span goes beyond.
    present
        Numbers of blocks that are here already; holes with such blocks are not fetched along.
    """
    most = gap // BLOCK_BYTES
    breaks = [
        at
        for at, (left, right) in enumerate(itertools.pairwise(numbers), 1)
        if right - left > 1 and not _may_bridge(range(left + 1, right), most, present)
    ]
    spans: list[Span] = []
    for first, last in zip([0, *breaks], [*breaks, len(numbers)], strict=True):
        if first < last:
            spans.extend(
                _split(numbers[first] * BLOCK_BYTES, (numbers[last - 1] + 1) * BLOCK_BYTES, file_end)
            )
    return spans


def is_worth_all(needed_bytes: int, rest_bytes: int, speed: LinkSpeed) -> bool:
    """Return whether to fetch all of the file that is not here instead of what is needed now.

    That ends the crawl: it is worth the time of the round trips that would follow.

    Parameters
    ----------
    needed_bytes
        What is needed now (bytes).
    rest_bytes
        All that is not here (bytes).
    speed
        What is known of the link.
    """
    is_affordable = rest_bytes <= min(needed_bytes * _MOST_BYTES_PER_BYTE_NEEDED, _MOST_BYTES_OF_ALL)
    return is_affordable and rest_bytes / speed.bandwidth <= _ROUND_TRIPS_FOR_ALL * speed.latency


def _may_bridge(hole: range, most: int, present: Container[int]) -> bool:
    return len(hole) <= most and not any(number in present for number in hole)


def _split(start: int, end: int, file_end: int) -> list[Span]:
    """Return a long range in pieces, for several connections to share."""
    end = min(end, file_end)
    return [
        Span(byte_offset=at, byte_length=min(_LARGEST_REQUEST_BYTES, end - at))
        for at in range(start, end, _LARGEST_REQUEST_BYTES)
    ]


def plan_requests(
    numbers: Sequence[int], speed: LinkSpeed, *, file_end: int, present: Container[int] = ()
) -> list[Span]:
    """Return the spans that bring the blocks soonest, with a limit on what is fetched in vain.

    Parameters
    ----------
    numbers
        (n,) block numbers, each once, ascending.
    speed
        What is known of the link.
    file_end
        Where the file ends (bytes).
    present
        Numbers of blocks that are here already.
    """
    candidates = [merge(numbers, gap=gap, file_end=file_end, present=present) for gap in _GAPS]
    needed = total_bytes(candidates[0])
    most = max(needed * _MOST_BYTES_PER_BYTE_NEEDED, needed + _ALWAYS_AFFORDABLE_BYTES)
    affordable = [spans for spans in candidates if total_bytes(spans) <= most]
    return min(affordable, key=speed.seconds)
