"""A new dimension in front of an array's others (pure).

xarray users know it from `xarray.concat` along a new dimension: data variables get it, coordinates not.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from h5zarr.combining.tiles import Tile, find_path, names_of, path_in, tile
from h5zarr.dimensions import leaf, parent
from h5zarr.dtype_json import SEQUENCE_TYPE
from h5zarr.errors import CombineError
from h5zarr.model import JSON, ArrayNode, GroupNode
from h5zarr.rectilinear import AxisGrid, axis_grids, chunk_grid

SERIALIZERS = ("bytes", "vlen-utf8", "vlen-bytes", SEQUENCE_TYPE)
"""Codecs that make bytes of an array element by element, whatever its shape."""


_MOST_SHOWN = 10
"""How many arrays an error names."""


def is_elementwise(metadata: Mapping[str, JSON]) -> bool:
    """Return whether the same bytes are a chunk with and without an axis of length 1 before others."""
    return metadata["codecs"][0]["name"] in SERIALIZERS


def with_leading_axis(metadata: Mapping[str, JSON], extent: int, chunk_length: int = 1) -> dict[str, JSON]:
    """Return the metadata document of as many arrays, one after the other along a new first axis."""
    axes = (AxisGrid(extent=extent, chunk_length=chunk_length), *axis_grids(metadata))
    return {**metadata, "shape": [extent, *metadata["shape"]], "chunk_grid": chunk_grid(axes)}


def expand(original: Tile, name: str, *, data_vars: Sequence[str] | None, label: ArrayNode | None) -> Tile:
    """Return a file whose data variables have one more dimension, of length 1.

    Parameters
    ----------
    original
        The file.
    name
        Name of the dimension.
    data_vars
        Shell patterns of the paths of arrays that get it; None: all that are no coordinates. A scalar
        coordinate variable of its name always gets it.
    label
        Its coordinate variable; None: the file has one, or there is none.

    Raises
    ------
    CombineError
        The file has such a dimension, or an array that stands in the way.
    """
    _check_name(original, name, label)
    chosen = frozenset(_chosen(original, name, data_vars))
    nodes: dict[str, GroupNode | ArrayNode] = {
        path: _expanded(original, node, name) if isinstance(node, ArrayNode) and path in chosen else node
        for path, node in original.hierarchy.nodes.items()
    }
    if label is not None:
        nodes[label.path] = label
    return tile(original.name, replace(original.hierarchy, nodes=nodes))


def check_patterns(originals: Sequence[Tile], data_vars: Sequence[str]) -> None:
    """Check that each pattern matches an array of a file: one that is misspelt would be ignored.

    Raises
    ------
    CombineError
        One matches none.
    """
    paths = {array.path for original in originals for array in original.hierarchy.arrays()}
    for pattern in data_vars:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            known = ", ".join(sorted(paths)[:_MOST_SHOWN]) or "none"
            raise CombineError(
                f"{originals[0].name} and all other inputs have no array whose path matches {pattern!r} "
                f"(data_vars); correct it: arrays are {known}"
            )


def _check_name(original: Tile, name: str, label: ArrayNode | None) -> None:
    if any(name in names_of(array) for array in original.hierarchy.arrays()):
        raise CombineError(f"{original.name}: has the dimension {name} already; join along it (concat)")
    existing = original.hierarchy.nodes.get(path_in("/", name))
    if existing is None:
        return
    if label is not None:
        raise CombineError(f"{original.name}: has /{name} already; leave out values, or exclude it")
    if not isinstance(existing, ArrayNode) or existing.metadata["shape"]:
        raise CombineError(f"{original.name}: /{name} is no scalar, which would be its place along {name}")


def _chosen(original: Tile, name: str, data_vars: Sequence[str] | None) -> Iterator[str]:
    """Yield the paths of the arrays that get the dimension."""
    coordinates = _coordinates(original)
    for array in original.hierarchy.arrays():
        if data_vars is None:
            is_chosen = array.path not in coordinates
        else:
            is_chosen = any(fnmatch.fnmatchcase(array.path, pattern) for pattern in data_vars)
        if is_chosen or array.path == path_in("/", name):
            yield array.path


def _coordinates(original: Tile) -> frozenset[str]:
    """Return the paths of coordinates: what has its dimension's name, or is listed as one (CF 5)."""
    found = {array.path for array in original.hierarchy.arrays() if names_of(array) == (leaf(array.path),)}
    for node in original.hierarchy.nodes.values():
        listed = node.metadata["attributes"].get("coordinates")
        group = parent(node.path) if isinstance(node, ArrayNode) else node.path
        if isinstance(listed, str):
            paths = (find_path(original.hierarchy.nodes, group, name) for name in listed.split())
            found |= {path for path in paths if path is not None}
    return frozenset(found)


def _expanded(original: Tile, array: ArrayNode, name: str) -> ArrayNode:
    if not is_elementwise(array.metadata):
        codecs = ", ".join(codec["name"] for codec in array.metadata["codecs"])
        raise CombineError(
            f"{original.name}: the codecs {codecs} of {array.path} let it have no new dimension"
        )
    metadata = with_leading_axis(array.metadata, 1) | {"dimension_names": [name, *names_of(array)]}
    manifest = replace(array.manifest, grid_shape=(1, *array.manifest.grid_shape))
    return replace(array, metadata=metadata, manifest=manifest)
