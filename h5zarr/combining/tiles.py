"""What is combined, and which dimension each axis of its arrays belongs to."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from h5zarr.dimensions import leaf, parent
from h5zarr.errors import CombineError
from h5zarr.model import ArrayNode, Hierarchy
from h5zarr.prefetch import redact

Dimensions = tuple[str | None, ...]
"""Absolute path of the dimension of each axis: its group and its name; None where it has no name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tile:
    """One of the hierarchies that are combined."""

    name: str
    """What errors call it."""
    hierarchy: Hierarchy
    """Its nodes."""
    dimensions: Mapping[str, Dimensions]
    """The dimensions of each array, by the array's path."""

    bounds_of: Mapping[str, ArrayNode]
    """The coordinate variable that names an array as its bounds, by the path of the bounds."""

    def array(self, path: str) -> ArrayNode | None:
        """Return the array at a path, None where there is none.

        Raises
        ------
        CombineError
            There is a group.
        """
        node = self.hierarchy.nodes.get(path)
        if node is None or isinstance(node, ArrayNode):
            return node
        raise CombineError(f"{self.name}: {path} is a group, where other files have an array; rename one")

    def file_at(self, dimension: str, element: int) -> str:
        """Return the name of the file that an element along a dimension comes from."""
        key, parts = part_key(dimension), self.hierarchy.parts
        for part in parts if len(parts) > 1 else ():
            start = part.start.get(key, 0)
            if start <= element < start + part.extent.get(key, 0):
                return f"{self.name} ({redact(part.source.url)})"
        return self.name


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """An array of one tile."""

    tile: Tile
    """The tile."""
    array: ArrayNode
    """The array."""
    blocks: tuple[int, ...] = ()
    """Its place along each dimension that arrays of its path are joined along, counted in files."""


def tile(name: str, hierarchy: Hierarchy) -> Tile:
    """Return a hierarchy as a tile, which errors call by ``name``."""
    return Tile(
        name=name, hierarchy=hierarchy, dimensions=_dimensions(hierarchy), bounds_of=_bounds(hierarchy)
    )


def part_key(dimension: str) -> str:
    """Return what `h5zarr.model.Part` calls a dimension: its path without the leading slash."""
    return dimension.removeprefix("/")


def path_in(group: str, name: str) -> str:
    """Return the path of a member of a group."""
    return f"{group.rstrip('/')}/{name}"


def find_path(paths: Container[str], group: str, name: str) -> str | None:
    """Return what a name in a group means, None where nothing has it (CF conventions 2.7).

    Parameters
    ----------
    paths
        The paths that there are.
    group
        Where the name stands.
    name
        An absolute path; or one in the group, or in the nearest group around it that has it.
    """
    groups = ["/"] if name.startswith("/") else upwards(group)
    candidates = (path_in(above, name.lstrip("/")) for above in groups)
    return next((path for path in candidates if path in paths), None)


def names_of(array: ArrayNode) -> tuple[str | None, ...]:
    """Return the dimension names of an array, None for those without a name."""
    rank = len(array.metadata["shape"])
    names = array.metadata.get("dimension_names")
    return (None,) * rank if names is None else tuple(names)


def _bounds(hierarchy: Hierarchy) -> dict[str, ArrayNode]:
    """Return the arrays that have bounds, by the path of the bounds (CF conventions 7.1, 7.4)."""
    return {
        path: array
        for array in hierarchy.arrays()
        for attribute in ("bounds", "climatology")
        if isinstance(name := array.metadata["attributes"].get(attribute), str)
        and (path := find_path(hierarchy.nodes, parent(array.path), name)) is not None
    }


# Scopes ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Users:
    """Who speaks of a dimension, by its path if it belonged to their group."""

    extents: Mapping[str, set[int]]
    """Lengths that arrays give it (elements)."""
    coordinates: Mapping[str, int]
    """Lengths of its coordinate variables (elements)."""


_Axes = tuple[str, tuple[str | None, ...], tuple[int, ...]]
"""Path of an array, and the name and the length (elements) of each of its dimensions."""


def _dimensions(hierarchy: Hierarchy) -> Mapping[str, Dimensions]:
    """Return the dimensions of each array."""
    axes = ((array.path, names_of(array), tuple(array.metadata["shape"])) for array in hierarchy.arrays())
    return _dimensions_of(tuple(axes))


@functools.lru_cache(maxsize=64)
def _dimensions_of(arrays: tuple[_Axes, ...]) -> Mapping[str, Dimensions]:
    """Return the dimensions of each array; most files of a series have the same arrays.

    A dimension of netCDF belongs to a group, and to all groups below it that have none of that name.
    Zarr keeps its name only. So it belongs to the nearest group upwards with a coordinate variable of
    that name; without one to the highest group with an array that gives it the same length.
    """
    users = _users(arrays)
    return {
        path: tuple(
            None if name is None else _owner(parent(path), name, extent, users)
            for name, extent in zip(names, shape, strict=True)
        )
        for path, names, shape in arrays
    }


def _users(arrays: tuple[_Axes, ...]) -> _Users:
    extents: dict[str, set[int]] = defaultdict(set)
    coordinates: dict[str, int] = {}
    for path, names, shape in arrays:
        if names == (leaf(path),):
            coordinates[path] = shape[0]
        for name, extent in zip(names, shape, strict=True):
            if name is not None:
                extents[path_in(parent(path), name)].add(extent)
    return _Users(extents=extents, coordinates=coordinates)


def _owner(group: str, name: str, extent: int, users: _Users) -> str:
    owner = path_in(group, name)
    for above in upwards(group):
        path = path_in(above, name)
        if users.coordinates.get(path) == extent:
            return path
        if path in users.coordinates:
            return owner
        if extent in users.extents.get(path, ()):
            owner = path
    return owner


def upwards(group: str) -> Iterator[str]:
    """Yield a group and those around it, the root last."""
    while group != "/":
        yield group
        group = parent(group)
    yield "/"
