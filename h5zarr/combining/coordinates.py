"""The dimensions that are joined, and the values of their coordinate variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.combining.places import Axis
from h5zarr.combining.reader import Reader
from h5zarr.combining.rules import check_meaning
from h5zarr.combining.tiles import Piece, Tile, names_of
from h5zarr.combining.time import TimeUnits, decode_times, have_same_days, time_units_of
from h5zarr.combining.values import read_values
from h5zarr.dimensions import leaf
from h5zarr.errors import CombineError

Values = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coordinates:
    """The dimensions that are joined."""

    axes: Mapping[str, Sequence[Axis]]
    """By the dimension's name: groups may each have one of that name."""
    stored: Mapping[str, Sequence[Values]]
    """Values of the coordinate variables as they are stored, by path and file."""


def read_coordinates(tiles: Sequence[Tile], names: Sequence[str], reader: Reader) -> Coordinates:
    """Read the coordinate variables of dimensions.

    Parameters
    ----------
    tiles
        The files.
    names
        Names of the dimensions that are joined.
    reader
        Fetches their chunks.

    Raises
    ------
    CombineError
        A file has no such dimension; or only some have its coordinate variable, or they differ in what
        its numbers mean.
    SourceError
        A file cannot be read.
    """
    stored: dict[str, Sequence[Values]] = {}
    axes: dict[str, list[Axis]] = {}
    for name in names:
        axes[name] = []
        for path in _paths(tiles, name):
            extents = tuple(_extent(tile, path) for tile in tiles)
            pieces = _coordinate_pieces(tiles, path)
            values = None
            if pieces:
                check_meaning(pieces, times_differ=_have_times(pieces))
                stored[path] = list(read_values([piece.array for piece in pieces], reader))
                values = _comparable(pieces, stored[path])
            axes[name].append(Axis(path=path, extents=extents, values=values))
    return Coordinates(axes=axes, stored=stored)


def _paths(tiles: Sequence[Tile], name: str) -> list[str]:
    """Return the paths of all dimensions of a name."""
    every = dict.fromkeys(
        path for tile in tiles for own in tile.dimensions.values() for path in own if path is not None
    )
    found = [path for path in every if leaf(path) == name]
    if not found:
        known = ", ".join(dict.fromkeys(map(leaf, every))) or "none"
        raise CombineError(f"{tiles[0].name}: there is no dimension {name}; its dimensions are: {known}")
    return found


def _extent(tile: Tile, path: str) -> int:
    """Return the length of a dimension (elements)."""
    extents: dict[int, str] = {}
    for array in tile.hierarchy.arrays():
        for dimension, extent in zip(tile.dimensions[array.path], array.metadata["shape"], strict=True):
            if dimension == path:
                extents.setdefault(extent, array.path)
    if not extents:
        raise CombineError(f"{tile.name}: there is no dimension {path}, which other files have")
    if len(extents) > 1:
        texts = " and ".join(f"{extent} of {array}" for extent, array in list(extents.items())[:2])
        raise CombineError(f"{tile.name}: the dimension {path} has two lengths, {texts}")
    return next(iter(extents))


def _coordinate_pieces(tiles: Sequence[Tile], path: str) -> list[Piece]:
    """Return the coordinate variable of a dimension in each file, [] where there is none."""
    having: list[Piece] = []
    lacking: list[Tile] = []
    for tile in tiles:
        array = tile.array(path)
        if array is not None and names_of(array) == (leaf(path),):
            having.append(Piece(tile=tile, array=array))
        else:
            lacking.append(tile)
    if having and lacking:
        raise CombineError(
            f"{having[0].tile.name} has a coordinate variable {path}, and {lacking[0].name} has none"
        )
    return having


def _have_times(pieces: Sequence[Piece]) -> bool:
    return all(time_units_of(piece) is not None for piece in pieces)


def _comparable(pieces: Sequence[Piece], stored: Sequence[Values]) -> tuple[Values, ...]:
    """Return values that can be compared between files: dates where the units of time differ."""
    units = [time_units_of(piece) for piece in pieces]
    first = units[0]
    if first is None or all(own is not None and own.is_same(first) for own in units):
        return tuple(map(np.asarray, stored))
    dates: list[Values] = []
    for piece, own, values in zip(pieces, units, stored, strict=True):
        dates.append(_dates(piece, own or first, values))
        if not have_same_days(first, own or first) or dates[-1].dtype != dates[0].dtype:
            raise CombineError(
                f"{pieces[0].tile.name} and {piece.tile.name} differ in the calendar or the range of "
                f"{piece.array.path}: times in {first} and {own} have different days"
            )
    return tuple(dates)


def _dates(piece: Piece, units: TimeUnits, values: Values) -> Values:
    try:
        return decode_times(values, units)
    except CombineError as error:
        raise CombineError(f"{piece.tile.name}: {piece.array.path}: {error}") from error
