"""Where the data of a file lie: a picture's worth of numbers (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInt64Column = npt.NDArray[np.uint64]
Float64Column = npt.NDArray[np.float64]

_NAMED = 7
_MOST_DATASETS = 64
_LEAST_SHARE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pieces:
    """The pieces of a file that belong to one dataset."""

    name: str
    """Whose they are."""
    byte_offset: UInt64Column
    """(n,) Where each begins (bytes)."""
    byte_length: UInt64Column
    """(n,) How long each is (bytes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Neighbouring cells of the map that show the same."""

    start: int
    """The first of them (cells)."""
    length: int
    """How many they are (cells)."""
    owner: int | None
    """Whose data fill most of them: a number of ``names``; None: nobody's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteMap:
    """A file cut into cells of the same number of bytes."""

    cells: int
    """Number of cells."""
    names: tuple[str, ...]
    """Who owns data, the largest first; the last may stand for all others."""
    byte_lengths: tuple[int, ...]
    """Bytes of each."""
    runs: tuple[Run, ...]
    """The cells from the beginning of the file to its end."""
    rest_bytes: int
    """Bytes of the file that are nobody's data: metadata and free space."""


def by_group(pieces: Sequence[Pieces]) -> list[Pieces]:
    """Return the pieces of each group as one, where there are too many datasets to tell apart."""
    if len(pieces) <= _MOST_DATASETS:
        return list(pieces)
    groups: dict[str, list[Pieces]] = {}
    for one in pieces:
        groups.setdefault(one.name.rpartition("/")[0] + "/", []).append(one)
    return [_joined(members, group) for group, members in groups.items()]


def byte_map(byte_length: int, pieces: Sequence[Pieces], *, cells: int = 1920) -> ByteMap:
    """Return who owns which part of a file.

    Parameters
    ----------
    byte_length
        Length of the file (bytes).
    pieces
        The data of each dataset. What reaches beyond the file is not shown.
    cells
        Into how many cells the file is cut.
    """
    edges = np.linspace(0, byte_length, cells + 1)
    ranked = sorted(pieces, key=lambda one: int(one.byte_length.sum()), reverse=True)
    named, others = ranked[:_NAMED], ranked[_NAMED:]
    if others:
        named.append(_joined(others, f"{len(others):,} others"))
    filled = np.array([_filled(one, edges) for one in named]).reshape(len(named), cells)
    lengths = tuple(int(one.byte_length.sum()) for one in named)
    return ByteMap(
        cells=cells,
        names=tuple(one.name for one in named),
        byte_lengths=lengths,
        runs=_runs(filled, edges),
        rest_bytes=max(0, byte_length - int(filled.sum())),
    )


def _joined(pieces: Sequence[Pieces], name: str) -> Pieces:
    return Pieces(
        name=name,
        byte_offset=np.concatenate([one.byte_offset for one in pieces]),
        byte_length=np.concatenate([one.byte_length for one in pieces]),
    )


def _filled(pieces: Pieces, edges: Float64Column) -> Float64Column:
    """Return how many bytes of each cell the pieces take; those of one dataset do not overlap."""
    order = np.argsort(pieces.byte_offset, kind="stable")
    starts = pieces.byte_offset[order].astype(np.float64)
    lengths = pieces.byte_length[order].astype(np.float64)
    before = np.concatenate([[0.0], np.cumsum(lengths)])
    last = np.searchsorted(starts, edges, side="right")
    reached = before[last]
    inside = last > 0
    beyond = starts[last[inside] - 1] + lengths[last[inside] - 1] - edges[inside]
    reached[inside] -= np.maximum(beyond, 0)
    return np.diff(reached)


def _runs(filled: Float64Column, edges: Float64Column) -> tuple[Run, ...]:
    """Return runs of cells with the same owner; a cell with hardly any data is nobody's."""
    cells = len(edges) - 1
    owners = np.full(cells, -1)
    if len(filled):
        enough = filled.max(axis=0) > _LEAST_SHARE * np.diff(edges)
        owners = np.where(enough, filled.argmax(axis=0), -1)
    ends = [*(np.flatnonzero(np.diff(owners)) + 1).tolist(), cells]
    return tuple(
        Run(start=start, length=end - start, owner=int(owners[start]) if owners[start] >= 0 else None)
        for start, end in itertools.pairwise([0, *ends])
    )
