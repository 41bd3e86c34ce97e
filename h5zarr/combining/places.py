"""Where each file belongs along the dimensions that are joined (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from h5zarr.combining.tiles import Tile
from h5zarr.errors import CombineError

Values = npt.NDArray[Any]

Order = Literal["coordinate", "given"]
"""How files follow one another: by the values of the coordinate variable, or as they were given."""

_UNORDERED_KINDS = "cV"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Axis:
    """A dimension that is joined, as each file has it."""

    path: str
    """Absolute path of the dimension."""
    extents: tuple[int, ...]
    """Its length in each file (elements)."""
    values: tuple[Values, ...] | None
    """Its coordinate in each file, comparable between files; None where it has no coordinate variable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedDimension:
    """A dimension of the combined hierarchy that several files are joined along."""

    name: str
    """Its name."""
    path: str
    """Its absolute path."""
    extents: tuple[int, ...]
    """Length of each block of files (elements)."""

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each block begins (elements)."""
        return tuple(itertools.accumulate(self.extents, initial=0))[:-1]

    @property
    def extent(self) -> int:
        """Its length (elements)."""
        return sum(self.extents)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Arrangement:
    """The files in their order, and where they belong."""

    tiles: tuple[Tile, ...]
    """The files, by their place: along the last dimension first."""
    numbers: tuple[int, ...]
    """Which of the given files each one was."""
    blocks: tuple[Mapping[str, int], ...]
    """The place of each file along each joined dimension, by the dimension's name (blocks)."""
    dimensions: Mapping[str, JoinedDimension]
    """The joined dimensions by path."""


def arrange(
    tiles: Sequence[Tile], axes: Mapping[str, Sequence[Axis]], orders: Mapping[str, Order | None]
) -> Arrangement:
    """Return the place of each file.

    Parameters
    ----------
    tiles
        The files.
    axes
        The dimensions that are joined, by name: groups may each have one of that name.
    orders
        How files follow one another along each, by name; None: by the coordinate where there is one.

    Raises
    ------
    CombineError
        Files overlap, or a place has no file; or coordinates are not monotonic, or cannot be compared.
    """
    blocks: dict[str, Sequence[int]] = {}
    dimensions: dict[str, JoinedDimension] = {}
    for name, of_name in axes.items():
        blocks[name] = _blocks(tiles, of_name, orders[name], may_share=len(axes) > 1)
        for axis in of_name:
            dimensions[axis.path] = _joined(tiles, name, axis, blocks[name])
    places = list(zip(*blocks.values(), strict=True))
    _check_places(tiles, list(axes), places)
    numbers = sorted(range(len(tiles)), key=lambda number: places[number])
    return Arrangement(
        tiles=tuple(tiles[number] for number in numbers),
        numbers=tuple(numbers),
        blocks=tuple(dict(zip(axes, places[number], strict=True)) for number in numbers),
        dimensions=dimensions,
    )


# One dimension ---------------------------------------------------------------------------


def _blocks(
    tiles: Sequence[Tile], axes: Sequence[Axis], order: Order | None, *, may_share: bool
) -> Sequence[int]:
    """Return the block of each file along a dimension; files with one coordinate may share one."""
    axis = next((axis for axis in axes if axis.values is not None), axes[0])
    if axis.values is None and (order == "coordinate" or may_share):
        raise CombineError(
            f"the dimension {axis.path} has no coordinate variable that tells where files belong; "
            "combine along it alone, in the given order"
        )
    members = _shared(axis) if may_share else [[number] for number in range(len(tiles))]
    if axis.values is not None and order != "given":
        members = _sorted(tiles, axis, members)
    if order != "given":
        for other in axes:
            if other is not axis and other.values is not None:
                _check_sequence(tiles, other, members, descending=_is_descending(tiles, other))
    block_of = {number: block for block, numbers in enumerate(members) for number in numbers}
    return [block_of[number] for number in range(len(tiles))]


def _shared(axis: Axis) -> list[list[int]]:
    """Return the files that have the same coordinate, in the order of the first of each."""
    assert axis.values is not None
    members: dict[Any, list[int]] = {}
    for number, values in enumerate(axis.values):
        members.setdefault(_key(values), []).append(number)
    return list(members.values())


def _key(values: Values) -> Any:
    if values.dtype.hasobject or values.dtype.kind == "T":
        return tuple(map(str, values))
    return values.dtype.str, values.tobytes()


def _sorted(tiles: Sequence[Tile], axis: Axis, members: Sequence[list[int]]) -> list[list[int]]:
    """Return blocks of files ordered by their coordinate; those without elements come last."""
    assert axis.values is not None
    values = axis.values
    filled = [numbers for numbers in members if axis.extents[numbers[0]]]
    empty = [numbers for numbers in members if not axis.extents[numbers[0]]]
    descending = _is_descending(tiles, axis)
    try:
        filled.sort(key=lambda numbers: values[numbers[0]][0], reverse=descending)
    except TypeError as error:
        raise CombineError(
            f"values of {axis.path} cannot be compared: {error}; use the given order"
        ) from error
    ordered = [*filled, *empty]
    _check_sequence(tiles, axis, ordered, descending=descending)
    return ordered


def _is_descending(tiles: Sequence[Tile], axis: Axis) -> bool:
    """Return the direction of coordinates, each of which must be strictly monotonic."""
    assert axis.values is not None
    found: dict[bool, Tile] = {}
    for tile, values in zip(tiles, axis.values, strict=True):
        if values.dtype.kind in _UNORDERED_KINDS:
            raise CombineError(f"{tile.name}: {axis.path} has values without an order; use the given order")
        if len(values) and _has_gaps(values):
            raise CombineError(f"{tile.name}: {axis.path} has values that are NaN; use the given order")
        if len(values) > 1:
            found.setdefault(_direction(tile, axis, values), tile)
    if len(found) > 1:
        raise CombineError(
            f"{axis.path} increases in {found[False].name} and decreases in {found[True].name}"
        )
    return True in found


def _has_gaps(values: Values) -> bool:
    return bool((values != values).any())


def _direction(tile: Tile, axis: Axis, values: Values) -> bool:
    if bool((values[1:] > values[:-1]).all()):
        return False
    if bool((values[1:] < values[:-1]).all()):
        return True
    rises = values[1:] > values[:-1]
    at = max(int(np.argmax(rises != rises[0])) - 1, 0)  # where the direction changes first
    around = " then ".join(str(value) for value in values[at : at + 3])
    raise CombineError(
        f"{tile.file_at(axis.path, at)}: {axis.path} neither increases nor decreases throughout: {around}; "
        "use the given order"
    )


def _check_sequence(
    tiles: Sequence[Tile], axis: Axis, members: Sequence[list[int]], *, descending: bool
) -> None:
    """Check that coordinates of blocks of files in this order go on in one direction."""
    assert axis.values is not None
    filled = [numbers[0] for numbers in members if axis.extents[numbers[0]]]
    for number, following in itertools.pairwise(filled):
        last, first = axis.values[number][-1], axis.values[following][0]
        if not (last > first if descending else last < first):
            raise CombineError(_overlap(tiles, axis, number, following))


def _overlap(tiles: Sequence[Tile], axis: Axis, number: int, following: int) -> str:
    assert axis.values is not None
    one, other = axis.values[number], axis.values[following]
    names = tiles[number].file_at(axis.path, len(one) - 1), tiles[following].file_at(axis.path, 0)
    return (
        f"{names[0]} and {names[1]} overlap along {axis.path}: the one has {one[0]} to {one[-1]}, "
        f"the other {other[0]} to {other[-1]}; leave one out, or combine them in the given order"
    )


def _joined(tiles: Sequence[Tile], name: str, axis: Axis, blocks: Sequence[int]) -> JoinedDimension:
    """Return the dimension; all files of a block must have the same length, and coordinate, of it."""
    first: dict[int, int] = {}
    for number, block in enumerate(blocks):
        one = first.setdefault(block, number)
        pair = f"{tiles[one].name} and {tiles[number].name}"
        if axis.extents[one] != axis.extents[number]:
            lengths = f"{axis.extents[one]} and {axis.extents[number]}"
            raise CombineError(
                f"{pair} have the same place along {name}, but lengths of {axis.path} of {lengths}"
            )
        if axis.values is not None and _key(axis.values[one]) != _key(axis.values[number]):
            raise CombineError(f"{pair} have the same place along {name}, but differ in {axis.path}")
    extents = tuple(axis.extents[first[block]] for block in range(len(first)))
    return JoinedDimension(name=name, path=axis.path, extents=extents)


# All dimensions --------------------------------------------------------------------------


def _check_places(tiles: Sequence[Tile], names: Sequence[str], places: Sequence[tuple[int, ...]]) -> None:
    """Check that every place has one file."""
    taken: dict[tuple[int, ...], Tile] = {}
    for tile, place in zip(tiles, places, strict=True):
        if place in taken:
            along = " and ".join(names)
            raise CombineError(f"{taken[place].name} and {tile.name} have the same place along {along}")
        taken[place] = tile
    for place in _all_places(places):
        if place not in taken:
            alike = [
                f"{name} of {tiles[next(n for n, known in enumerate(places) if known[axis] == block)].name}"
                for axis, (name, block) in enumerate(zip(names, place, strict=True))
            ]
            raise CombineError(f"no file has the {' and the '.join(alike)}")


def _all_places(places: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(1 + max(along)) for along in zip(*places, strict=True)))
