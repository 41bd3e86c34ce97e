"""The arrays of one path in all files, as one array."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from h5zarr.combining.compat import find_difference
from h5zarr.combining.grids import Joint, MisfitError, join_chunks
from h5zarr.combining.places import Arrangement, JoinedDimension
from h5zarr.combining.reader import Reader
from h5zarr.combining.rules import check_meaning, shown
from h5zarr.combining.split import split_chunks
from h5zarr.combining.tiles import Piece, names_of
from h5zarr.combining.time import TimeUnits, convert_times, fill_numbers, time_units_of
from h5zarr.combining.values import inline_array, item_bytes, read_values
from h5zarr.dimensions import leaf
from h5zarr.errors import CombineError, Problem
from h5zarr.model import ArrayNode

Values = npt.NDArray[Any]

_PACKING = frozenset({"scale_factor", "add_offset", "_Unsigned"})

Compat = Literal["identical", "first", "drop"]
"""What becomes of arrays that several files have in the same place."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rules:
    """How arrays are combined."""

    compat: Compat
    """``identical``: copies must be the same; ``first``: that of the first file; ``drop``: left out."""
    rectilinear: bool
    """Whether chunks may have different lengths along an axis."""
    inline_limit: int
    """Arrays whose values take at most so many bytes may be read and put into the references."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Combiner:
    """Combines arrays of files whose places are known."""

    arrangement: Arrangement
    """The files."""
    coordinates: Mapping[str, Sequence[Values]]
    """Values of the coordinate variables of joined dimensions, by path and file, as they are stored."""
    rules: Rules
    """What may be done."""
    reader: Reader
    """Fetches chunks."""

    def combine(self, path: str) -> ArrayNode | Problem:
        """Return the array of a path, or why there is none.

        Raises
        ------
        CombineError
            It cannot be combined.
        SourceError
            Values have to be read, and cannot be.
        """
        pieces = self._pieces(path)
        unlike = self._dimension_difference(path, pieces)
        if unlike is not None:
            is_first = self.rules.compat == "first" and not any(map(self._is_joined, pieces))
            return pieces[0].array if is_first else self._unlike(path, unlike)
        axes = self._axes(path, pieces)
        missing = self._missing(path, pieces)
        if missing is not None and (axes or self.rules.compat != "first"):
            return self._unlike(path, missing)
        copies = self._copies(pieces, axes)
        if self.rules.compat != "identical" and names_of(pieces[0].array) == (leaf(path),):
            self._check_index(copies)
        if self.rules.compat != "first":
            difference = find_difference(copies, self.reader)
            if difference is not None:
                return self._unlike(path, difference)
        dimensions = tuple(self._dimension(axis, pieces[0]) for axis in axes)
        chosen = tuple(own[0] for own in copies)
        if not axes:
            return chosen[0].array
        return self._join(Joint(path=path, pieces=chosen, axes=axes, dimensions=dimensions))

    # What there is

    def _pieces(self, path: str) -> list[Piece]:
        return [
            Piece(tile=tile, array=array)
            for tile in self.arrangement.tiles
            if (array := tile.array(path)) is not None
        ]

    def _missing(self, path: str, pieces: Sequence[Piece]) -> str | None:
        """Return which file lacks an array that another one has."""
        having = {id(piece.tile) for piece in pieces}
        lacking = next((tile for tile in self.arrangement.tiles if id(tile) not in having), None)
        if lacking is None:
            return None
        hdf5_path = lacking.hierarchy.selection.hdf5_path(path)
        problems = lacking.hierarchy.problems
        reported = next((problem for problem in problems if problem.path == hdf5_path), None)
        reason = "" if reported is None else f" ({reported.found})"
        return f"{pieces[0].tile.name} has {path}, and {lacking.name} has not{reason}"

    def _unlike(self, path: str, difference: str) -> Problem:
        """Return the problem of an array that is left out because files differ in it."""
        if self.rules.compat != "drop":
            raise CombineError(f"{difference}; leave it out (compat='drop', --compat drop), or exclude it")
        return Problem(
            path=self.arrangement.tiles[0].hierarchy.selection.hdf5_path(path),
            found=f"{difference}, so that it is left out",
            remedy="combine with compat='first'",
        )

    def _check_index(self, copies: Sequence[Sequence[Piece]]) -> None:
        """Check that a coordinate variable is the same: it tells what the places of all arrays are."""
        difference = find_difference(copies, self.reader, with_attributes=False)
        if difference is not None:
            raise CombineError(
                f"{difference}, which tells where values of all arrays belong; correct one, or exclude it"
            )

    def _dimension_difference(self, path: str, pieces: Sequence[Piece]) -> str | None:
        """Return how files differ in the dimensions of the arrays of a path; None where they do not."""
        first = pieces[0]
        own = first.tile.dimensions[path]
        for other in pieces[1:]:
            if other.tile.dimensions[path] != own:
                return (
                    f"{first.tile.name} and {other.tile.name} differ in the dimensions of {path}: "
                    f"{shown(own)} and {shown(other.tile.dimensions[path])}"
                )
        return None

    def _is_joined(self, piece: Piece) -> bool:
        own = piece.tile.dimensions[piece.array.path]
        return any(dimension in self.arrangement.dimensions for dimension in own)

    def _axes(self, path: str, pieces: Sequence[Piece]) -> tuple[int, ...]:
        """Return the axes along which the arrays of a path are joined, the same in all files."""
        first = pieces[0]
        own = first.tile.dimensions[path]
        joined = [dimension for dimension in own if dimension in self.arrangement.dimensions]
        if len(set(joined)) < len(joined):
            raise CombineError(
                f"{first.tile.name}: {path} has a dimension twice, along which files are joined"
            )
        return tuple(axis for axis, dimension in enumerate(own) if dimension in joined)

    def _dimension(self, axis: int, piece: Piece) -> JoinedDimension:
        dimension = piece.tile.dimensions[piece.array.path][axis]
        assert dimension is not None
        return self.arrangement.dimensions[dimension]

    def _copies(self, pieces: Sequence[Piece], axes: Sequence[int]) -> list[list[Piece]]:
        """Return the arrays that have the same place, for each place."""
        tiles, blocks = self.arrangement.tiles, self.arrangement.blocks
        blocks_of = {id(tile): own for tile, own in zip(tiles, blocks, strict=True)}
        names = [self._dimension(axis, pieces[0]).name for axis in axes]
        copies: dict[tuple[int, ...], list[Piece]] = defaultdict(list)
        for piece in pieces:
            own = blocks_of[id(piece.tile)]
            place = tuple([own[name] for name in names])
            copies[place].append(Piece(tile=piece.tile, array=piece.array, blocks=place))
        return list(copies.values())

    # How they are joined

    def _join(self, joint: Joint) -> ArrayNode:
        units = [time_units_of(piece) for piece in joint.pieces]
        are_times = None not in units
        check_meaning(joint.pieces, times_differ=are_times)
        _check_are_times(joint, units)
        _check_extents(joint)
        values = _ValueSize.of(joint)
        may_inline = values.is_text or values.byte_length <= self.rules.inline_limit
        if are_times and _differ(units):
            if not may_inline:
                raise CombineError(_too_large_to_convert(joint, units, values.byte_length))
            return self._by_value(joint, values)
        if may_inline and (joint.path in self.coordinates or values.all_as_is):
            return self._by_value(joint, values)
        try:
            return join_chunks(joint, rectilinear=False)
        except MisfitError as misfit:
            return self._by_value(joint, values) if may_inline else self._by_other_chunks(joint, misfit)

    def _by_other_chunks(self, joint: Joint, misfit: MisfitError) -> ArrayNode:
        """Return arrays in a rectilinear grid, where one was asked for, or in shorter chunks."""
        if self.rules.rectilinear:
            try:
                return join_chunks(joint, rectilinear=True)
            except MisfitError as error:
                misfit = error
        split = split_chunks(joint)
        if split is None:
            raise misfit
        return join_chunks(split, rectilinear=False)

    def _by_value(self, joint: Joint, size: _ValueSize) -> ArrayNode:
        """Return arrays as one whose values stand in the references."""
        first = joint.pieces[0]
        to = time_units_of(first)
        joined: Values | None = None
        for (piece, place), values in zip(joint.places(), self._values(joint), strict=True):
            if joined is None:
                joined = np.empty(joint.shape, values.dtype)
            joined[place] = values if to is None else _in_units(values, piece, first, to)
        assert joined is not None
        return inline_array(first.array, joined, byte_length=size.byte_length)

    def _values(self, joint: Joint) -> Iterable[Values]:
        """Return the values of each array as they are stored."""
        if joint.path not in self.coordinates:
            return read_values([piece.array for piece in joint.pieces], self.reader)
        known = zip(self.arrangement.tiles, self.coordinates[joint.path], strict=True)
        by_tile = {id(tile): values for tile, values in known}
        return [by_tile[id(piece.tile)] for piece in joint.pieces]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ValueSize:
    """What it would take to put values into the references."""

    byte_length: int
    """Bytes of all values."""
    is_text: bool
    """Whether elements have no fixed size, and stand in references anyhow."""
    all_as_is: bool
    """Whether all values stand in references now, uncompressed: else files that are appended to them may
    have chunks that fit theirs."""

    @classmethod
    def of(cls, joint: Joint) -> _ValueSize:
        arrays = [piece.array for piece in joint.pieces]
        manifests = [array.manifest for array in arrays]
        item = item_bytes(arrays[0])
        stored = sum(len(chunk) for manifest in manifests for chunk in manifest.inline.values())
        return cls(
            byte_length=stored if item is None else math.prod(joint.shape) * item,
            is_text=item is None,
            all_as_is=all(_is_inline(array) and len(array.metadata["codecs"]) == 1 for array in arrays),
        )


def _is_inline(array: ArrayNode) -> bool:
    return bool(array.manifest.inline) and not len(array.manifest.grid_position)


def _check_are_times(joint: Joint, units: Sequence[TimeUnits | None]) -> None:
    """Check that bounds count times in all files or in none: else they could not follow their coordinate.

    Only bounds can differ in that, which have units from the coordinate variable that names them.
    """
    first, own = joint.pieces[0], units[0]
    for other, found in zip(joint.pieces, units, strict=True):
        if (found is None) != (own is None):
            texts = [str(found or "nothing") for found in (own, found)]
            raise CombineError(
                f"{first.tile.name} and {other.tile.name} differ in the units of time of {joint.path}: "
                f"{texts[0]} and {texts[1]}; name it as bounds in both, or exclude it"
            )


def _check_extents(joint: Joint) -> None:
    """Check that arrays have the same length along axes that are not joined."""
    first = joint.pieces[0]
    shape = first.array.metadata["shape"]
    for other in joint.pieces[1:]:
        for axis, (extent, own) in enumerate(zip(shape, other.array.metadata["shape"], strict=True)):
            if axis not in joint.axes and extent != own:
                name = names_of(first.array)[axis] or f"axis {axis}"
                raise CombineError(
                    f"{first.tile.name} and {other.tile.name} differ in the length of {joint.path} along "
                    f"{name}: {extent} and {own}"
                )


def _differ(units: Sequence[TimeUnits | None]) -> bool:
    first = units[0]
    return any(first is not None and own is not None and not own.is_same(first) for own in units)


def _too_large_to_convert(joint: Joint, units: Sequence[TimeUnits | None], byte_length: int) -> str:
    first = units[0]
    other, own = next(
        (piece, own) for piece, own in zip(joint.pieces, units, strict=True) if _differ([first, own])
    )
    return (
        f"{joint.pieces[0].tile.name} and {other.tile.name} differ in the units of {joint.path}: {first} and "
        f"{own}; its values take {byte_length} bytes, more than inline_limit allows to convert"
    )


def _in_units(values: Values, piece: Piece, first: Piece, to: TimeUnits) -> Values:
    """Return times of one file in the units of the first."""
    units = time_units_of(piece)
    if units is None or units.is_same(to):
        return values
    names = f"{first.tile.name} and {piece.tile.name} differ in the units of {piece.array.path}"
    if not _PACKING.isdisjoint(piece.array.metadata["attributes"]):
        raise CombineError(f"{names}: {to} and {units}, and its numbers are packed")
    try:
        return convert_times(values, units, to, fill_numbers(piece.array))
    except CombineError as error:
        raise CombineError(f"{names}: {error}") from error
