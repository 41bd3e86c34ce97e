"""Keys of a Zarr store: those of metadata documents, and those of chunks (pure).

In a `Hierarchy`, every array has Zarr v3's default chunk key encoding, ``c/0/1``. What it is in a store
is up to the format of the references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from h5zarr.dimensions import whole_branches
from h5zarr.model import JSON, Hierarchy, Shape, UInt64Column
from h5zarr.rectilinear import axis_grids

ZarrFormat = Literal["3", "2", "both"]
"""Which versions of Zarr's metadata references have."""

_FEW = 8
"""So many keys are parsed sooner one by one than as a column."""
METADATA_KEY = "zarr.json"
CONSOLIDATED_KEY = ".zmetadata"
V2_METADATA_KEYS = (".zarray", ".zattrs", ".zgroup", CONSOLIDATED_KEY)


def store_key(path: str, name: str) -> str:
    """Return the store key of a name under a node."""
    return f"{path.strip('/')}/{name}".lstrip("/")


# Chunks ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkKeys:
    """How keys tell an array's chunks (Zarr v3 core, "Chunk key encoding")."""

    first: str
    """What stands before the grid cells: ``c`` or nothing."""
    separator: str
    """What stands between the parts."""

    @classmethod
    def of(cls, metadata: Mapping[str, JSON]) -> ChunkKeys:
        """Return the encoding that an array's ``zarr.json`` names.

        Raises
        ------
        ValueError
            It is none of Zarr's core specification.
        """
        encoding = metadata["chunk_key_encoding"]
        name = encoding if isinstance(encoding, str) else encoding["name"]
        if name not in _BY_NAME:
            raise ValueError(f"a chunk key encoding {name!r}, which h5zarr does not know")
        known = _BY_NAME[name]
        configuration = {} if isinstance(encoding, str) else encoding.get("configuration", {})
        return cls(first=known.first, separator=configuration.get("separator", known.separator))

    def in_metadata(self, metadata: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return an array's ``zarr.json`` with this encoding instead of its own."""
        name = next(name for name, known in _BY_NAME.items() if known.first == self.first)
        encoding = {"name": name, "configuration": {"separator": self.separator}}
        return {**metadata, "chunk_key_encoding": encoding}

    def prefix(self, path: str, rank: int) -> str:
        """Return what the keys of an array's chunks begin with; the whole key where it has no dimensions."""
        if rank == 0:
            return store_key(path, self.first or "0")
        return store_key(path, self.first + self.separator if self.first else "")

    def keys(self, path: str, grid: Shape, positions: UInt64Column) -> list[str]:
        """Return the store keys of chunks.

        Parameters
        ----------
        path
            Path of the array.
        grid
            (rank,) number of chunks along each dimension.
        positions
            (n,) linear positions in the grid, C order.
        """
        prefix = self.prefix(path, len(grid))
        if not grid:
            return [prefix] * len(positions)
        cells = np.unravel_index(positions.astype(np.int64), grid)
        form = prefix.replace("%", "%%") + self.separator.join(["%d"] * len(grid))
        return [form % row for row in zip(*(axis.tolist() for axis in cells), strict=True)]

    def positions(self, path: str, grid: Shape, names: Sequence[str]) -> UInt64Column:
        """Return the linear grid positions of chunks, of which `keys` gave the store keys.

        Parameters
        ----------
        path
            Path of the array.
        grid
            (rank,) number of chunks along each dimension.
        names
            (n,) store keys.

        Raises
        ------
        ValueError
            One of them is no key of a chunk in the grid.
        """
        prefix, count = self.prefix(path, len(grid)), len(names)
        if not grid:
            if count > 1 or set(names) - {prefix}:
                raise ValueError(f"{path}: a chunk key with grid cells, of an array without dimensions")
            return np.zeros(count, np.uint64)
        if count <= _FEW:
            return np.array([self._position(path, grid, name) for name in names], np.uint64)
        # A line for each key: all is checked and converted at once, not chunk by chunk.
        text = "\n".join(["", *names])
        cells = text.replace(f"\n{prefix}", "\n").replace(self.separator, " ")
        if len(text) - len(cells) != count * len(prefix) or not _are_rows(cells.encode(), count, len(grid)):
            raise ValueError(f"{path}: a chunk key that does not name a cell of a grid of rank {len(grid)}")
        numbers = np.fromstring(cells, np.int64, sep=" ").reshape(count, len(grid))
        return np.asarray(np.ravel_multi_index(tuple(numbers.T), grid), np.uint64)

    def _position(self, path: str, grid: Shape, name: str) -> int:
        prefix = self.prefix(path, len(grid))
        cells = name[len(prefix) :].split(self.separator)
        position = grid_position(cells, grid) if name.startswith(prefix) else None
        if position is None:
            raise ValueError(f"{path}: a chunk key that does not name a cell of its grid, {name}")
        return position


def grid_position(cells: Sequence[str], grid: Shape) -> int | None:
    """Return the linear position of decimal grid cells in C order; None where they are not in the grid."""
    if len(cells) != len(grid) or not all(cell.isdecimal() and cell.isascii() for cell in cells):
        return None
    position = 0
    for cell, extent in zip(map(int, cells), grid, strict=True):
        if cell >= extent:
            return None
        position = position * extent + cell
    return position


def _are_rows(text: bytes, count: int, rank: int) -> bool:
    """Return whether a text is lines of decimal numbers, a newline before each line, blanks between them."""
    characters = np.frombuffer(text, np.uint8)
    is_digit = (characters >= ord("0")) & (characters <= ord("9"))
    expected = np.full((count, rank), ord(" "), np.uint8)
    expected[:, 0] = ord("\n")
    between = np.append(np.flatnonzero(~is_digit), len(characters))
    return bool((np.diff(between) > 1).all()) and np.array_equal(characters[~is_digit], expected.reshape(-1))


DEFAULT = ChunkKeys(first="c", separator="/")
"""Zarr v3's own: ``c/0/1``."""
V2 = ChunkKeys(first="", separator=".")
"""Zarr v2's, which v3 may have too: ``0.1``."""
_BY_NAME = {"default": DEFAULT, "v2": V2}


def chunk_grid_shape(metadata: Mapping[str, JSON]) -> Shape:
    """Return the number of chunks along each dimension of an array (grid cells).

    Parameters
    ----------
    metadata
        Its ``zarr.json``.

    Raises
    ------
    ValueError
        The grid is neither regular nor rectilinear.
    """
    return tuple(axis.cell_count for axis in axis_grids(metadata))


# Metadata --------------------------------------------------------------------------------


def v3_documents(hierarchy: Hierarchy, chunk_keys: ChunkKeys) -> Iterator[tuple[str, JSON]]:
    """Yield the store keys and documents of Zarr v3's metadata.

    Every node has its own ``zarr.json``, and the root's carries all of them as consolidated metadata:
    readers use the one, opening a node by its path the other.

    Parameters
    ----------
    hierarchy
        What to write.
    chunk_keys
        How the keys of all chunks are made.
    """
    own = {node.path: node.metadata for node in hierarchy.nodes.values()}
    own |= {array.path: chunk_keys.in_metadata(array.metadata) for array in hierarchy.arrays()}
    # zarr-python 3.1 loses nodes where siblings do not stand side by side.
    below = [path for path in whole_branches(hierarchy.nodes) if path != "/"]
    children = {path.strip("/"): own[path] for path in below}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": children}
    for path in hierarchy.nodes:
        document = own[path]
        if path == "/":
            document = {**document, "consolidated_metadata": consolidated}
        yield store_key(path, METADATA_KEY), document
